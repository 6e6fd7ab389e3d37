"""The one line that says what was needed, what was offered, and the smallest change of each kind that would
fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from planner.job import JobSpec
from planner.plan import Candidate
from planner.values import GPU_GIB
from trainer.text import gib

CARD_SIZES_GIB = tuple(sorted(set(GPU_GIB.values())))
GPU_COUNTS = (2, 4, 8)
LENGTH_STEP = 128
RANKS = (64, 32, 16, 8)


def nothing_fits(
    spec: JobSpec, tried: tuple[Candidate, ...], *, fits: Callable[[JobSpec], bool], here: bool = False
) -> str:
    """The refusal for `spec`; `fits` says whether a changed request would fit. `here`: the host is this machine, whose
    memory is what it is."""
    best = min(tried, key=lambda c: c.estimate.peak_bytes)
    on_host = best.config == "cpu_mps"
    offered = f"{spec.resources.mem_gib:g} GiB of host memory" if on_host else f"{spec.resources.vram_gib:g} GiB a GPU"
    sizes = (() if here else _hosts(spec, best)) if on_host else _cards(spec)
    changes = [name for trial in (sizes, *_trials(spec, on_host)) for name in _first_that_fits(trial, fits)]
    needed = f"{gib(best.estimate.peak_bytes)} GiB{'' if on_host else ' a GPU'}"
    if spec.shape.expert_params:
        needed += f" ({gib(2 * spec.shape.expert_params)} of it fused experts, which stay at 16 bits)"
    too_large = (
        "take a smaller model" if on_host else f"not even {CARD_SIZES_GIB[-1]:g} GiB would do, take a smaller model"
    )
    way_out = f"try {' or '.join(changes)}" if changes else too_large
    return (
        f"{spec.model} needs {needed} even with {best.label} at micro-batch 1, usable are "
        f"{gib(best.usable_bytes)} of {offered}: {way_out}"
    )


Trial = Iterable[tuple[str, JobSpec]]


def _cards(spec: JobSpec) -> Trial:
    return [(f"VRAM={size:g}", spec.but(vram_gib=size)) for size in CARD_SIZES_GIB if size > spec.resources.vram_gib]


def _hosts(spec: JobSpec, best: Candidate) -> Trial:
    """The least whole number of GiB: usable is a share of what is offered."""
    least = -(-spec.resources.mem_gib * best.estimate.peak_bytes // best.usable_bytes)
    return [(f"MEM={size}", spec.but(mem_gib=size)) for size in (least, least + 1)]


def _trials(spec: JobSpec, on_host: bool) -> tuple[Trial, ...]:
    """Other changes of one variable each, from the smallest on."""
    room = spec.records.images_per_sample * spec.shape.tokens_per_image + spec.records.supervised_tokens
    lengths = range((spec.training.max_length - 1) // LENGTH_STEP * LENGTH_STEP, room, -LENGTH_STEP)
    counts = () if on_host else tuple(n for n in GPU_COUNTS if n > spec.resources.gpus)
    return (
        ((f"GPUS={n}", spec.but(gpus=n)) for n in counts),
        ((f"MAX_LENGTH={n}", spec.but(max_length=n)) for n in lengths),
        ((f"LORA={rank}", spec.but(lora_r=rank)) for rank in RANKS if rank < spec.training.lora_r),
        (("VISION=frozen", spec.but(vision="frozen")) for _ in range(spec.training.vision == "lora")),
        () if spec.training.quantization == "nf4" else _in_4_bits(spec, on_host),
    )


def _in_4_bits(spec: JobSpec, on_host: bool) -> Trial:
    """Alone, else on a larger card too."""
    name, small = "QUANTIZATION=nf4", spec.but(quantization="nf4")
    return [(name, small), *(() if on_host else ((f"{name} with {size}", trial) for size, trial in _cards(small)))]


def _first_that_fits(trial: Trial, fits: Callable[[JobSpec], bool]) -> list[str]:
    return next(([name] for name, changed in trial if fits(changed)), [])
