"""The program that edits the code to see whether tests notice: which edits it makes, and which it leaves alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutants import draw, edits_of, own_tests
from paths import ROOT

SOURCE = '''
def bound(value: int, least: int = 0) -> int:
    """At least `least`."""
    if value < least:
        return least
    if not value:
        raise ConfigError(f"{value} is {1 + 1}")
    print("between", 3)
    store.save(value, least)
    return min(value * 2, 9) if value == 4 else value
'''


def test_each_kind_of_edit_is_made_and_text_for_people_is_left_alone() -> None:
    found = [(edit.line, edit.before, edit.text) for edit in edits_of(Path("m.py"), SOURCE.encode())]
    assert found == [
        (2, "0", "1"),
        (4, "value < least", "(value <= least)"),
        (4, "value < least", "False"),
        (6, "not value", "False"),
        (6, "not value", "bool(value)"),
        (9, "store.save(value, least)", "pass"),
        (9, "store.save(value, least)", "store.save(least, value)"),
        (10, "min(value * 2, 9)", "min(9, value * 2)"),
        (10, "min(value * 2, 9) if value == 4 else value", "(value if value == 4 else min(value * 2, 9))"),
        (10, "value * 2", "(value / 2)"),
        (10, "2", "3"),
        (10, "9", "10"),
        (10, "value == 4", "(value != 4)"),
        (10, "4", "5"),
    ]


def test_an_edited_module_is_still_python() -> None:
    for edit in draw(seed=3, count=60):
        ast.parse(edit.applied((ROOT / edit.module).read_bytes()))


@pytest.mark.slow
def test_a_seed_draws_the_same_edits_again_and_another_seed_others() -> None:
    assert draw(seed=1, count=20) == draw(seed=1, count=20) != draw(seed=2, count=20)


def test_a_modules_own_tests_are_those_that_name_it() -> None:
    assert "tests/unit/trainer/test_scoring.py" in own_tests(Path("trainer/evaluation/scoring.py"))
    assert "tests/unit/trainer/test_metrics.py" not in own_tests(Path("trainer/evaluation/scoring.py"))
