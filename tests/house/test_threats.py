"""docs/threats.md: each line names the test that holds it; and what holds for all code at once."""

from __future__ import annotations

import ast
import re

from paths import ROOT


def test_each_line_of_the_page_of_threats_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    known = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        known |= {path.stem, *re.findall(r"^ *def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M)}
    assert named - known == set() and len(named) > 30
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    bare = [row for row in rows if not row.endswith("test |") and "`test_" not in row]
    assert len(bare) <= 2, "a line without a test says what is done instead"


# Classes of PEFT and of this project, which load no code of a model.
LOADS_NO_CODE = ("PeftModel", "VideoSettings")


def test_code_that_comes_with_a_model_is_never_asked_for() -> None:
    """At a terminal transformers asks where it is told nothing, and a person may say yes."""
    found = 0
    for path in (ROOT / "trainer").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if call.func.attr not in ("from_pretrained", "from_config") or (
                isinstance(call.func.value, ast.Name) and call.func.value.id in LOADS_NO_CODE
            ):
                continue
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert said.get("trust_remote_code") == "False", f"{path}:{call.lineno}"
            found += 1
    assert found > 8
