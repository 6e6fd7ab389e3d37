"""No FLOP is wasted at Gemma 3 4B's true shape: counted by PyTorch on tensors without memory."""

from __future__ import annotations

import pytest


@pytest.mark.slow
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
def test_a_step_computes_no_more_than_it_must(name: str, tokens: int, scored: int, most: float) -> None:
    from benchmarks.flops import RECIPES, build, tflop

    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    found = tflop(recipe, build(recipe), tokens=tokens, scored=scored)
    assert 0.9 * most < found <= most
    if not recipe.checkpointing:  # what MFU counts is what is counted here
        from accelerate_configs.memory.shapes import resolve_shape
        from trainer.tracking.throughput import model_flops

        shape = resolve_shape("google/gemma-3-4b-it")
        counted = model_flops(
            shape, samples=1, tokens=tokens, scored=scored, images=int(not recipe.seen_before), lora_r=64
        )
        assert counted / 1e12 == pytest.approx(found, rel=0.01)
