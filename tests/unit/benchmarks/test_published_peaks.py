"""The plan beside the peaks that others published (benchmarks/published_peaks.py)."""

from __future__ import annotations

import statistics

from benchmarks.published_peaks import PAGE, UNEXPLAINED, compared, page, ran_out, read
from trainer.text import GIB


def test_the_plan_agrees_with_published_peaks_once_what_others_do_otherwise_is_counted() -> None:
    rows = compared()
    unexplained = [row for row in rows if row.row["why"].startswith(UNEXPLAINED)]
    explained = [row.ratio for row in rows if row not in unexplained]
    assert len(explained) >= 20 and len(unexplained) == 1
    assert min(explained) > 0.88 and max(explained) < 1.16
    assert 0.97 < statistics.median(explained) < 1.03
    # Where every setting was given, lengths too, nothing is left to assume.
    complete = [row.ratio for row in rows if "LLaMA-Factory" in row.row["id"] or "torchtune" in row.row["id"]]
    assert len(complete) == 8 and min(complete) > 0.91 and max(complete) < 1.09


def test_runs_that_ran_out_of_memory_are_planned_above_their_card_with_what_was_there() -> None:
    for report, by_text, really in ran_out():
        assert really > 0.85 * report["card"] * GIB, report["id"]
        assert (by_text < 0.92 * report["card"] * GIB) == ("loading" not in report["id"]), report["id"]


def test_the_page_is_of_these_rows_and_each_has_its_source() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
    found = read()
    assert all(row["source"].startswith("https://github.com/") for row in (*found["rows"], *found["ran_out"]))
