"""The program that edits the code to see whether tests notice: which edits it makes, and which it leaves alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from edited_copy import OwnTests
from mutants import Edit, Found, diff_of, draw, edits_of, read_results, summary
from paths import ROOT

SOURCE = '''
@dataclass(frozen=True)
class Pair:
    both: bool = True

def bound(value: int, least: int = 0) -> int:
    """At least `least`."""
    if value < least:
        return least
    if not value:
        raise ConfigError(f"{value} is {1 + 1}")
    print("between", 3)
    store.save(value, least)
    pairs = zip(value, least, strict=True)
    return min(value * 2, 9) if value == 4 else value
'''


def test_each_kind_of_edit_is_made_and_text_for_people_is_left_alone() -> None:
    found = [(edit.line, edit.before, edit.text) for edit in edits_of(Path("m.py"), SOURCE.encode())]
    assert found == [
        (4, "True", "False"),
        (6, "0", "1"),
        (8, "value < least", "(value <= least)"),
        (8, "value < least", "False"),
        (10, "not value", "False"),
        (10, "not value", "bool(value)"),
        (13, "store.save(value, least)", "pass"),
        (13, "store.save(value, least)", "store.save(least, value)"),
        (14, "zip(value, least, strict=True)", "zip(least, value, strict=True)"),
        (15, "min(value * 2, 9)", "min(9, value * 2)"),
        (15, "min(value * 2, 9) if value == 4 else value", "(value if value == 4 else min(value * 2, 9))"),
        (15, "value * 2", "(value / 2)"),
        (15, "2", "3"),
        (15, "9", "10"),
        (15, "value == 4", "(value != 4)"),
        (15, "4", "5"),
    ]


def test_an_edited_module_is_still_python() -> None:
    for edit in draw(seed=3, count=30):
        ast.parse(edit.applied((ROOT / edit.module).read_bytes()))


def test_a_seed_draws_the_same_edits_again_and_another_seed_others() -> None:
    some = [f"planner/{name}.py" for name in ("choose", "launch", "table", "values")]
    assert draw(1, 20, some) == draw(1, 20, some) != draw(2, 20, some)
    assert {str(edit.module) for edit in draw(1, 20, some)} <= {*some}


def test_a_modules_own_tests_are_those_that_name_it() -> None:
    modules = [path.relative_to(ROOT) for path in (ROOT / "trainer").rglob("*.py")]
    own = OwnTests(ROOT, modules).of
    scoring = own(Path("trainer/evaluation/scoring.py"))
    assert scoring[0] == "tests/unit/trainer/test_scoring.py"
    assert "tests/unit/trainer/test_metrics.py" not in scoring
    # Nobody imports it but what runs in the processes of tests/helpers/training.py.
    assert "tests/unit/trainer/test_train.py" in own(Path("trainer/model/partial.py"))
    # planner/request/variables.py imports it, and this reads through that.
    users = OwnTests(ROOT, [path.relative_to(ROOT) for path in (ROOT / "planner").rglob("*.py")]).of_users
    assert "tests/unit/planner/test_request.py" in users(Path("planner/request/scheduler_values.py"))
    # No test imports it: it is a verb of the command line.
    assert own(Path("trainer/tools/layers.py"))[0] == "tests/unit/trainer/test_layers.py"
    # Named after it.
    assert own(Path("trainer/data/unread.py"))[0] == "tests/unit/trainer/test_unread.py"


@pytest.fixture
def edits() -> list[Edit]:
    return draw(seed=1, count=3)


def test_the_summary_counts_and_shows_what_was_missed_as_a_diff(edits: list[Edit]) -> None:
    text = summary(edits, {edits[0]: Found(noticed_by="tests/test_x.py::test_y"), edits[1]: Found()})
    assert text == f"1 of 2 edits were noticed; 1 were not run yet\n\n{diff_of(edits[1])}"
    assert diff_of(edits[1]).startswith(f"--- a/{edits[1].module}\n+++ b/{edits[1].module}\n@@ ")


def test_the_summary_says_which_missed_edits_had_no_time_for_all_their_tests(edits: list[Edit]) -> None:
    text = summary(edits[:2], {edits[0]: Found(out_of_time_s=60.0), edits[1]: Found()})
    assert text == (
        "0 of 2 edits were noticed\n1 of the 2 missed ran out of time: not all of their slow tests were run\n\n"
        f"{diff_of(edits[0])}\n\n{diff_of(edits[1])}"
    )


def test_a_result_counts_for_the_same_edit_of_the_same_code(edits: list[Edit], tmp_path: Path) -> None:
    path = tmp_path / "seed-1.jsonl"
    assert read_results(path, edits) == {}
    lines = [
        {"diff": diff_of(edits[2]), "noticed_by": None, "out_of_time_s": 60.0},
        {"diff": "of code that was", "noticed_by": "a test"},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_results(path, edits) == {edits[2]: Found(out_of_time_s=60.0)}


TEST = """
import pytest
from room.module import ANSWER
def test_other(): assert ANSWER > 0
def test_broken_anyway(): assert False
@pytest.mark.slow
def test_answer(): assert ANSWER == 42
"""


PYPROJECT = '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["slow: x", "cluster: x"]\n'


def make_project(folder: Path, texts: Mapping[str, str]) -> Path:
    root = folder / "checkout"
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    return root


def said(program: str, root: Path) -> list[str]:
    """The lines of the program, which is given the project and a folder for its copy."""
    words = [sys.executable, "-c", program, str(root), str(root.parent / "copy")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(words, cwd=root.parent, env=environ, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_slow_tests_end_with_their_time(tmp_path: Path) -> None:
    """An edit that only they could notice is then neither noticed nor missed by all."""
    sleepy = "import pytest, time, room.module\n@pytest.mark.slow\ndef test_long(): time.sleep(60)\n"
    texts = {"room/module.py": "ANSWER = 42\n", "tests/test_module.py": sleepy, "pyproject.toml": PYPROJECT}
    program = """
import sys; from pathlib import Path; from edited_copy import EditedCopy, OutOfTimeError
module = Path("room/module.py"); copy = EditedCopy(Path(sys.argv[1]), Path(sys.argv[2]), [module], slow_limit_s=2)
try: print(copy.noticed_by(module, b"ANSWER = 43\\n"))
except OutOfTimeError: print("out of time")
"""
    assert said(program, make_project(tmp_path, texts)) == ["out of time"]


@pytest.mark.slow
def test_an_edit_is_noticed_by_what_fails_with_it_alone(tmp_path: Path) -> None:
    texts = {"room/module.py": "ANSWER = 42\n", "tests/test_module.py": TEST, "pyproject.toml": PYPROJECT}
    program = """
import sys; from pathlib import Path; from edited_copy import EditedCopy
module = Path("room/module.py"); copy = EditedCopy(Path(sys.argv[1]), Path(sys.argv[2]), [module])
for answer in (41, -4, 42, 43): print(copy.noticed_by(module, f"ANSWER = {answer}\\n".encode()))
"""
    slow = "tests/test_module.py::test_answer"
    assert said(program, make_project(tmp_path, texts)) == [slow, "tests/test_module.py::test_other", "None", slow]
