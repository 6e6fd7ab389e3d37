"""The one line that says what was needed, what was offered, and the smallest change of each kind that would
fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from accelerate_configs.job import Candidate, JobSpec
from trainer.text import gib

CARD_SIZES_GIB = (16, 24, 32, 40, 48, 80, 96, 141)  # cards that exist: T4/A4000 to H200
HOST_SIZES_GIB = (16, 32, 64, 128, 256, 512)
GPU_COUNTS = (2, 4, 8)
LENGTH_STEP = 128
LORA_LEVELS = ("medium", "low")


def nothing_fits(spec: JobSpec, tried: tuple[Candidate, ...], *, fits: Callable[[JobSpec], bool]) -> str:
    """The refusal for `spec`; `fits` says whether a changed request would fit."""
    best = min(tried, key=lambda c: c.estimate.peak_bytes)
    on_host = best.config == "cpu_mps"
    offered = f"{spec.mem_gib:g} GiB of host memory" if on_host else f"{spec.vram_gib:g} GiB a GPU"
    changes = [name for trial in _trials(spec, on_host) for name in _first_that_fits(trial, fits)]
    largest = f"{(HOST_SIZES_GIB if on_host else CARD_SIZES_GIB)[-1]} GiB"
    needed = f"{gib(best.estimate.peak_bytes)} GiB{'' if on_host else ' a GPU'}"
    way_out = f"try {' or '.join(changes)}" if changes else f"not even {largest} would do, take a smaller model"
    return (
        f"{spec.model} needs {needed} even with {best.label} at micro-batch 1, usable are "
        f"{gib(best.usable_bytes)} of {offered}: {way_out}"
    )


Trial = Iterable[tuple[str, JobSpec]]


def _trials(spec: JobSpec, on_host: bool) -> tuple[Trial, ...]:
    """Changes of one variable each, from the smallest on."""
    room = spec.images_per_sample * spec.shape.tokens_per_image + spec.supervised_tokens
    lengths = range((spec.max_length - 1) // LENGTH_STEP * LENGTH_STEP, room, -LENGTH_STEP)
    size: Trial
    if on_host:
        size = ((f"MEM={n}", replace(spec, mem_gib=n)) for n in HOST_SIZES_GIB if n > spec.mem_gib)
    else:
        size = ((f"VRAM={n}", replace(spec, vram_gib=float(n))) for n in CARD_SIZES_GIB if n > spec.vram_gib)
    counts = () if on_host else tuple(n for n in GPU_COUNTS if n > spec.gpus)
    loras = LORA_LEVELS[LORA_LEVELS.index(spec.lora) + 1 :] if spec.lora in LORA_LEVELS else LORA_LEVELS
    return (
        size,
        ((f"GPUS={n}", replace(spec, gpus=n)) for n in counts),
        ((f"MAX_LENGTH={n}", replace(spec, max_length=n)) for n in lengths),
        ((f"LORA={level}", replace(spec, lora=level)) for level in loras),
        (("VISION=frozen", replace(spec, vision="frozen")) for _ in range(spec.vision == "lora")),
        (("QUANTIZATION=nf4", replace(spec, quantization="nf4")) for _ in range(spec.quantization != "nf4")),
    )


def _first_that_fits(trial: Trial, fits: Callable[[JobSpec], bool]) -> list[str]:
    return next(([name] for name, changed in trial if fits(changed)), [])
