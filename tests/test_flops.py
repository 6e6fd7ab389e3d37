"""No FLOP is wasted at Gemma 3 4B's true shape: counted by PyTorch on tensors without memory."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "flops.md"
Table = list[list[str]]


@pytest.fixture(scope="module")
def table() -> Table:
    """The program's rows, by cell."""
    from benchmarks import flops

    with redirect_stdout(io.StringIO()) as said:
        flops.main()
    return cells(said.getvalue())


def cells(text: str) -> Table:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_published_table_is_what_the_program_counts(table: Table) -> None:
    assert table == cells(RESULT.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "tokens", "scored", "most"),
    [
        ("Trainyard, activation checkpointing", 330, 16, 12.5),
        ("Trainyard", 330, 16, 10.3),
        ("Trainyard", 900, 80, 18.6),
        ("Trainyard, from the second epoch on", 330, 16, 4.7),
        ("Trainyard, from the second epoch on", 900, 80, 13.2),
    ],
)
def test_a_step_computes_no_more_than_it_must(table: Table, name: str, tokens: int, scored: int, most: float) -> None:
    from benchmarks.flops import RECIPES

    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    (row,) = [row for row in table if row[0] == name]
    found = float(row[table[0].index(f"{tokens} tokens, {scored} scored")])
    assert 0.9 * most < found <= most
    if not recipe.checkpointing:  # what MFU counts is what is counted here, to the tenth that is printed
        from accelerate_configs.memory.shapes import resolve_shape
        from trainer.tracking.throughput import model_flops

        shape = resolve_shape("google/gemma-3-4b-it")
        counted = model_flops(
            shape, samples=1, tokens=tokens, scored=scored, images=int(not recipe.seen_before), lora_r=64
        )
        assert counted / 1e12 == pytest.approx(found, rel=0.01, abs=0.1)
