"""The one-line refusal of a request that fits nowhere: the memory needed, the memory offered, and the smallest change
of each kind that would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from planner.job import JobSpec
from planner.plan import Candidate
from planner.values import GPU_GIB
from trainer.architecture.targets import ATTENTION, is_target
from trainer.outcome import ConfigError
from trainer.text import gib

CARD_SIZES_GIB = tuple(sorted(set(GPU_GIB.values())))
GPU_COUNTS = (2, 4, 8)
LENGTH_STEP = 128
RANKS = (64, 32, 16, 8)


class NothingFits(ConfigError):
    """A request that fits nowhere."""

    def __init__(self, problem: str, *, needed_bytes: int, changes: Sequence[str], **fields: str) -> None:
        super().__init__(problem, **fields)
        self.needed_bytes = needed_bytes
        """The memory of the candidate that needs least."""
        self.changes = tuple(changes)
        """The smallest change of each kind with which it would fit, each as NAME=value."""


def nothing_fits(
    spec: JobSpec, tried: tuple[Candidate, ...], *, fits: Callable[[JobSpec], bool], here: Sequence[float] | None = None
) -> NothingFits:
    """The refusal for `spec`; `fits` says whether a changed request would fit. `here`: the run is for this machine,
    whose memory is what it is, and so are its GPUs, which offer so many GiB each."""
    best = min(tried, key=lambda c: c.estimate.peak_bytes)
    on_host = best.config == "cpu_mps"
    offered = f"{spec.resources.mem_gib:g} GiB of host memory" if on_host else f"{spec.resources.vram_gib:g} GiB a GPU"
    sizes = (_hosts(spec, best) if here is None else ()) if on_host else _cards(spec, here)
    changes = [name for trial in (sizes, *_trials(spec, on_host, here)) for name in _first_that_fits(trial, fits)]
    needed = f"{gib(best.estimate.peak_bytes)} GiB{'' if on_host else ' a GPU'}"
    if spec.shape.expert_params:
        needed += f" ({gib(2 * spec.shape.expert_params)} of it fused experts, which stay at 16 bits)"
    too_large = "take a smaller model"
    if not on_host:
        others = f"not even {CARD_SIZES_GIB[-1]:g} GiB would do, {too_large}"
        too_large = others if here is None else f"{too_large}, or submit"
    way_out = f"try {' or '.join(changes)}" if changes else too_large
    text = (
        f"{spec.model} needs {needed} even with {best.label} at micro-batch 1, usable are "
        f"{gib(best.usable_bytes)} of {offered}: {way_out}"
    )
    return NothingFits(text, name="MODEL", needed_bytes=best.estimate.peak_bytes, changes=changes)


Trial = Iterable[tuple[str, JobSpec]]


def _cards(spec: JobSpec, here: Sequence[float] | None) -> Trial:
    sizes = CARD_SIZES_GIB if here is None else sorted(set(here))
    return [(f"VRAM={size:g}", spec.but(vram_gib=size)) for size in sizes if size > spec.resources.vram_gib]


def _counts(spec: JobSpec, here: Sequence[float] | None) -> Iterable[int]:
    if here is None:
        return GPU_COUNTS
    return range(2, 1 + sum(size >= spec.resources.vram_gib for size in here))


def _hosts(spec: JobSpec, best: Candidate) -> Trial:
    """Requests with the least whole numbers of GiB that may fit; usable memory is a share of the offered memory."""
    least = -(-spec.resources.mem_gib * best.estimate.peak_bytes // best.usable_bytes)
    return [(f"MEM={size}", spec.but(mem_gib=size)) for size in (least, least + 1)]


def _trials(spec: JobSpec, on_host: bool, here: Sequence[float] | None) -> tuple[Trial, ...]:
    """Requests with other changes of one variable each, the smallest change first."""
    room = spec.records.images_per_sample * spec.shape.tokens_per_image + spec.records.supervised_tokens
    lengths = range((spec.training.max_length - 1) // LENGTH_STEP * LENGTH_STEP, room, -LENGTH_STEP)
    counts = () if on_host else tuple(n for n in _counts(spec, here) if n > spec.resources.gpus)
    return (
        ((f"GPUS={n}", spec.but(gpus=n)) for n in counts),
        ((f"MAX_LENGTH={n}", spec.but(max_length=n)) for n in lengths),
        ((f"LORA={rank}", spec.but(lora_r=rank)) for rank in RANKS if rank < spec.training.lora_r),
        [(f"LORA_TARGETS={ATTENTION}", spec.but(lora_targets=ATTENTION))] if _narrows(spec) else (),
        (("VISION=frozen", spec.but(vision="frozen")) for _ in range(spec.training.vision == "lora")),
        () if spec.training.quantization == "nf4" else _in_4_bits(spec, on_host, here),
    )


def _narrows(spec: JobSpec) -> bool:
    """Whether the model has linears of attention, and some of its adapters are not on them."""
    paths = [linear.path for layer in spec.shape.layers for linear in layer.linears]
    attention = {path for path in paths if is_target(path, ATTENTION)}
    return bool(attention) and any(is_target(path, spec.training.lora_targets) for path in {*paths} - attention)


def _in_4_bits(spec: JobSpec, on_host: bool, here: Sequence[float] | None) -> Trial:
    """Requests in 4 bits, first with the same card, then with larger ones."""
    name, small = "QUANTIZATION=nf4", spec.but(quantization="nf4")
    larger = () if on_host else _cards(small, here)
    return [(name, small), *((f"{name} with {size}", trial) for size, trial in larger)]


def _first_that_fits(trial: Trial, fits: Callable[[JobSpec], bool]) -> list[str]:
    return next(([name] for name, changed in trial if fits(changed)), [])
