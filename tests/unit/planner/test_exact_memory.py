"""The plan's arithmetic beside steps, evaluations and towers carried out on tensors without memory
(benchmarks/exact_memory.py)."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from benchmarks.exact_memory import GRID, RESULTS, differences, exact_bytes, exact_evaluation, page, row_key, rows_of
from planner.memory.estimate import ROUNDING_SHARE

SMALL = "HuggingFaceTB/SmolVLM-256M-Instruct"


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return dict(json.loads((RESULTS / "exact_memory.json").read_text()))


def test_the_plan_agrees_with_what_is_carried_out_over_a_grid_of_models(rows: dict[str, Any]) -> None:
    found = differences(rows)
    assert len(found) == len(rows) == len(rows_of()) and len(GRID) >= 12
    assert statistics.median(map(abs, found.values())) < 0.03
    assert max(found.values()) < 0.08
    # What the plan may lack is less than what it adds for the allocator: it never fits where the step does not.
    assert min(found.values()) > -ROUNDING_SHARE
    evaluations = [share for key, share in found.items() if ", evaluation, " in key]
    assert len(evaluations) >= 4 and min(evaluations) > 0


def test_the_page_is_of_these_rows(rows: dict[str, Any]) -> None:
    assert (RESULTS / "exact_memory.md").read_text() == page(rows)


@pytest.mark.slow
def test_a_step_on_paper_is_what_was_recorded(rows: dict[str, Any]) -> None:
    way = GRID[SMALL][0]
    assert exact_bytes(SMALL, way) == rows[row_key(SMALL, way)]


@pytest.mark.slow
def test_an_evaluation_on_paper_is_what_was_recorded(rows: dict[str, Any]) -> None:
    (key,) = (key for key in rows if key.startswith(f"{SMALL}, evaluation, "))
    assert exact_evaluation(SMALL) == rows[key]
