"""The program that edits the code to see whether tests notice: which edits it makes, and which it leaves alone."""

from __future__ import annotations

import ast
from pathlib import Path

from mutants import draw, edits_of, own_tests
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
    assert draw(seed=1, count=20) == draw(seed=1, count=20) != draw(seed=2, count=20)


def test_a_modules_own_tests_are_those_that_name_it() -> None:
    assert "tests/unit/trainer/test_scoring.py" in own_tests(Path("trainer/evaluation/scoring.py"))
    assert "tests/unit/trainer/test_metrics.py" not in own_tests(Path("trainer/evaluation/scoring.py"))
    # Nobody imports it but the Trainer's subclass, which runs in the processes of tests/helpers/training.py.
    assert "tests/unit/trainer/test_train.py" in own_tests(Path("trainer/training/callbacks.py"))
    # Named after it.
    assert "tests/unit/trainer/test_unread.py" in own_tests(Path("trainer/data/unread.py"))
