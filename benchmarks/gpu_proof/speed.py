"""Seconds of an optimizer step beside TRL's, as it ships and in careful hands, on the same batch: the loss says that
all compute the same."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu_proof.stage import Stage
from benchmarks.train_speed import steps

STEPS = 8
SAMPLES = 4  # of a step
REHEARSED = (1, 1)


def carry_out(stage: Stage, *, tokens: int, scored: int) -> Iterator[dict[str, Any]]:
    import torch

    from benchmarks.flops import RECIPES, build, tflop
    from trainer.tracking.throughput import peak_flops

    count, samples = REHEARSED if stage.rehearsal else (STEPS, SAMPLES)
    peak = peak_flops("" if stage.rehearsal else torch.cuda.get_device_name())
    timed = [(index, recipe) for index, recipe in enumerate(RECIPES) if stage.device in recipe.timed]
    found: dict[str, Any] = {}
    for index, recipe in timed:
        with tempfile.TemporaryDirectory(dir=stage.folder) as run_dir:
            if not stage.rehearsal:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            one = steps(
                stage.model, stage.device, index, count, samples, run_dir, tokens=stage.tokens(tokens), scored=scored
            )
        speed = samples / statistics.median(one["seconds"])
        found[recipe.name] = {**one, "samples": samples, "samples_per_second": speed, "flops_share": None}
        yield found
    if stage.rehearsal or not peak:
        return
    for _, recipe in timed:  # last: the counting takes the CPU a while, and the steps are what only a GPU can show
        flops = 1e12 * tflop(recipe, build(recipe), tokens=tokens, scored=scored)
        found[recipe.name]["flops_share"] = flops * found[recipe.name]["samples_per_second"] / peak
        yield found
