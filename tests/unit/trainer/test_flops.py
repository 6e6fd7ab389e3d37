"""No FLOP is wasted at Gemma 3 4B's true shape: counted by PyTorch on tensors without memory."""

from __future__ import annotations

import pytest
from paths import ROOT

pytestmark = pytest.mark.slow
RESULT = ROOT / "benchmarks" / "results" / "flops.md"


@pytest.fixture(scope="module")
def counted() -> dict[str, list[float]]:
    from benchmarks import flops

    return flops.count()


def test_the_published_table_is_what_the_program_counts(counted: dict[str, list[float]]) -> None:
    from benchmarks import flops

    assert RESULT.read_text(encoding="utf-8").endswith(f"\n\n{flops.table(counted)}\n")


@pytest.mark.parametrize(
    ("name", "tokens", "scored", "most"),
    [
        ("Trainyard, first epoch, activation checkpointing", 330, 16, 12.5),
        ("Trainyard, first epoch", 330, 16, 10.3),
        ("Trainyard, first epoch", 900, 80, 18.6),
        ("Trainyard, first epoch, features made ahead", 330, 16, 4.65),
        ("Trainyard, first epoch, features made ahead", 900, 80, 13.15),
        ("Trainyard, from the second epoch on", 330, 16, 4.7),
        ("Trainyard, from the second epoch on", 900, 80, 13.2),
    ],
)
def test_a_step_computes_no_more_than_it_must(
    counted: dict[str, list[float]], name: str, tokens: int, scored: int, most: float
) -> None:
    from benchmarks.flops import LENGTHS, RECIPES

    found = counted[name][LENGTHS.index((tokens, scored))]
    assert 0.9 * most < found <= most
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    if not recipe.checkpointing:  # what MFU counts is what is counted here
        from trainer.architecture.shapes import resolve_shape
        from trainer.tracking.throughput import model_flops

        shape = resolve_shape("google/gemma-3-4b-it")
        images = int(not (recipe.seen_before or recipe.made_ahead))
        told = model_flops(shape, samples=1, tokens=tokens, scored=scored, images=images, lora_r=64)
        assert told / 1e12 == pytest.approx(found, rel=0.01)
