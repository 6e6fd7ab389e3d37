"""docs/threats.md: each line names the test that holds it."""

from __future__ import annotations

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
