"""The plan's arithmetic beside steps, evaluations and towers carried out on tensors without memory
(benchmarks/exact_memory.py)."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from benchmarks.exact_memory import (
    GRID,
    RESULTS,
    TOWERS,
    WHOLE,
    differences,
    exact_bytes,
    exact_evaluation,
    left,
    page,
    planned,
    planned_bytes,
    row_key,
    rows_of,
)

SMALL = "HuggingFaceTB/SmolVLM-256M-Instruct"


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return dict(json.loads((RESULTS / "exact_memory.json").read_text()))


def test_the_plan_agrees_with_what_is_carried_out_over_a_grid_of_models(rows: dict[str, Any]) -> None:
    found = differences(rows)
    assert len(found) == len(rows) == len(rows_of()) and len(GRID) >= 12
    assert statistics.median(map(abs, found.values())) < 0.03
    assert max(found.values()) < 0.08
    evaluations = [key for key in found if ", evaluation, " in key]
    assert len(evaluations) >= 12 and min(found[key] for key in evaluations) > 0
    assert sum(", tower alone, " in key for key in found) == len(TOWERS) >= 3


def test_the_plan_fits_nowhere_where_what_is_carried_out_does_not(rows: dict[str, Any]) -> None:
    """A card on which all that is carried out lacks one byte is refused, by what the plan adds for the allocator; the
    share of a card that is kept free comes on top."""
    assert min(left(rows).values()) > 0.02
    key = row_key(model := "Qwen/Qwen2.5-VL-7B-Instruct", WHOLE)  # the step that the plan is furthest below
    peak = dict(planned(model, WHOLE).items)
    assert sum(peak.values()) - peak["CUDA context"] > rows[key]["bytes"] > planned_bytes(model, WHOLE)


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
