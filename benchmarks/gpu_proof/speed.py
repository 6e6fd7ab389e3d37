"""Seconds of an optimizer step beside TRL's, as it ships and in careful hands, on the same batch: the loss says that
all compute the same."""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.gpu_proof.stage import Stage
from benchmarks.train_speed import steps

STEPS = 8
SAMPLES = 4  # of a step
REHEARSED = (1, 1)


def carry_out(stage: Stage, *, tokens: int, scored: int) -> dict[str, Any]:
    import torch

    from benchmarks.flops import RECIPES, build, tflop
    from trainer.tracking.throughput import peak_flops

    count, samples = REHEARSED if stage.rehearsal else (STEPS, SAMPLES)
    peak = peak_flops("" if stage.rehearsal else torch.cuda.get_device_name())
    found = {}
    for index, recipe in enumerate(RECIPES):
        if stage.device not in recipe.timed:
            continue
        with tempfile.TemporaryDirectory(dir=stage.folder) as run_dir:
            if not stage.rehearsal:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            one = steps(
                stage.model, stage.device, index, count, samples, run_dir, tokens=stage.tokens(tokens), scored=scored
            )
        flops = None if stage.rehearsal else samples * 1e12 * tflop(recipe, build(recipe), tokens=tokens, scored=scored)
        seconds = sorted(one["seconds"])[len(one["seconds"]) // 2]
        found[recipe.name] = {
            **one, "samples": samples, "samples_per_second": samples / seconds,
            "flops_share": flops / seconds / peak if flops and peak else None,
        }  # fmt: skip
    return found
