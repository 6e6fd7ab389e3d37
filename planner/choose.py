"""JobSpec -> Plan: the fastest strategy to run the job that fits the memory of one GPU.

    plan = choose(spec)

Pure: the same JobSpec gives the same Plan, byte for byte. The strategies are data, in order of expected speed; the
first that fits is taken. DDP replicates, so the memory of one GPU decides, never the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from planner.job import JobSpec
from planner.launch import launch_env, launch_of
from planner.memory.estimate import estimate, processes_gib
from planner.notes import merge_note, notes_on
from planner.plan import TIGHT_SHARE, Candidate, Plan
from planner.refuse import NothingFits, nothing_fits
from planner.values import ONE_SLICE, SLICE
from trainer.architecture.targets import check_targets
from trainer.config import Optimizer
from trainer.outcome import ConfigError, Problems
from trainer.text import GIB, gib

DEFAULT_BATCH_SIZE = 8
MICRO_BATCH_SIZES = (32, 16, 8, 4, 2, 1)
# Kept free of a card's name-plate size. An L4 or A10 sold as 24 GB reports 22.5 GiB (ECC and firmware, 6 %);
# the rest is for the error of the prediction.
HEADROOM_SHARE = 0.08


class Strategy(NamedTuple):
    """One row of the search: a configuration and the trainer arguments that go with it."""

    config: str
    checkpointing: bool = False
    offload: bool = False
    optimizer: Optimizer = "adamw"


ONE_GPU = (
    Strategy(config="single_gpu"),
    Strategy(config="single_gpu_low_mem", checkpointing=True, optimizer="paged_adamw_8bit"),
)
MORE_GPUS = (
    Strategy(config="multi_gpu"),
    Strategy(config="multi_gpu", checkpointing=True),
    Strategy(config="multi_gpu", checkpointing=True, optimizer="paged_adamw_8bit"),
    Strategy(config="deepspeed_zero3", checkpointing=True),
    Strategy(config="deepspeed_zero3", checkpointing=True, offload=True),
)
NO_GPU = (Strategy(config="cpu_mps"),)
CONFIGS = tuple(dict.fromkeys(strategy.config for strategy in (*ONE_GPU, *MORE_GPUS, *NO_GPU)))


def choose(spec: JobSpec, *, here: Sequence[float] | None = None) -> Plan:
    """The Plan for `spec`; `here`: for this machine, to which nothing can be added, the GiB that its GPUs offer.

    Raises ConfigError when nothing fits or what was asked for contradicts itself.
    """
    contradictions(spec).refuse()
    batch, notes = _effective_batch(spec)
    tried = _tried(spec)
    taken = _take(spec, tried, here=here)
    candidates = tuple(replace(c, reason=_reason(c, taken=i == taken, after=i > taken)) for i, c in enumerate(tried))
    chosen = candidates[taken]
    return Plan(
        spec=spec,
        chosen=chosen,
        candidates=candidates,
        effective_batch_size=batch,
        launch=launch_of(spec, chosen),
        env=launch_env(spec, chosen),
        notes=(*notes, *notes_on(spec, chosen), *_safer_note(spec, chosen, here), *merge_note(spec, chosen)),
    )


def contradictions(spec: JobSpec) -> Problems:
    """The contradictions in a request that no model and no card would resolve."""
    problems = Problems()
    with problems.kept():
        _strategies(spec)
    with problems.kept():
        _effective_batch(spec)
    with problems.kept():
        paths = [linear.path for layer in spec.shape.layers for linear in layer.linears]
        check_targets(paths, spec.training.lora_targets)
    if spec.resources.device == "mps" and spec.resources.gpus:
        text = f"GPUS={spec.resources.gpus}: a Mac has one GPU, which DEVICE=mps takes: leave GPUS out"
        problems.append(ConfigError(text, name="GPUS"))
    if spec.resources.device == "mps" and spec.training.quantization == "nf4":
        text = "QUANTIZATION=nf4: there are no 4-bit kernels for Apple's GPU: leave it out, or say none"
        problems.append(ConfigError(text, name="QUANTIZATION"))
    with problems.kept():
        refuse_several_slices(spec, are_slices=bool(SLICE.search(spec.resources.gpu_type or "")))
    if spec.resources.gpus and spec.resources.mem_gib < (least := processes_gib(spec)):
        text, mem = f"the processes of a node alone take {least} GiB", spec.resources.mem_gib
        problems.append(ConfigError(text, name="MEM", given=mem, advice=f"try MEM={least} or more"))
    return problems


def _strategies(spec: JobSpec) -> tuple[Strategy, ...]:
    """The strategies that this many GPUs allow. Raises ConfigError for a CONFIG that is not among them."""
    strategies = NO_GPU if spec.resources.gpus == 0 else ONE_GPU if spec.num_processes == 1 else MORE_GPUS
    if spec.resources.gpus == 0 and spec.resources.nodes > 1:
        raise ConfigError(
            "without GPUs there is one process, cpu_mps", name="NODES", given=spec.resources.nodes, advice="try NODES=1"
        )
    asked = spec.training.accelerate_config
    possible = list(dict.fromkeys(strategy.config for strategy in strategies))
    if asked != "auto" and asked not in possible:
        gpus = spec.resources.gpus * spec.resources.nodes
        offered = f"{gpus} GPU{'s' * (gpus != 1)}" if gpus else "no GPU"
        advice = f"try CONFIG={' or CONFIG='.join(possible)}{' or DEVICE=cpu' if asked == 'cpu_mps' else ''}"
        raise ConfigError(f"is not for {offered}", name="CONFIG", given=asked, advice=advice)
    return strategies


def _effective_batch(spec: JobSpec) -> tuple[int, list[str]]:
    """(samples an optimizer step, notes). Raises ConfigError when the GPUs cannot share the requested number
    evenly."""
    world, asked = spec.num_processes, spec.training.effective_batch_size
    batch = -(-(asked or DEFAULT_BATCH_SIZE) // world) * world
    if asked is None:
        rounded = f"The effective batch is {batch}, not {DEFAULT_BATCH_SIZE}: a multiple of the {world} GPUs."
        return batch, [rounded] if batch != DEFAULT_BATCH_SIZE else []
    if batch != asked:
        near = " or ".join(str(b) for b in (batch - world, batch) if b)
        raise ConfigError(
            f"cannot be shared evenly by {world} GPUs", name="EFFECTIVE_BATCH", given=asked, advice=f"try {near}"
        )
    return batch, []


def _tried(spec: JobSpec) -> tuple[Candidate, ...]:
    batch, _ = _effective_batch(spec)
    return tuple(_try(spec, strategy, batch) for strategy in _strategies(spec))


def _try(spec: JobSpec, strategy: Strategy, batch: int) -> Candidate:
    """`strategy` at its largest micro-batch that fits, or at 1."""
    share = batch // spec.num_processes
    sizes = [micro for micro in MICRO_BATCH_SIZES if share % micro == 0]
    tried = (_candidate(spec, strategy, share, micro) for micro in sizes)
    return next((candidate for candidate in tried if candidate.fits), _candidate(spec, strategy, share, 1))


def _candidate(spec: JobSpec, strategy: Strategy, share: int, micro: int) -> Candidate:
    """`strategy` at that micro-batch; whether it fits is predicted, unless it was measured."""
    offered = spec.resources.mem_gib if strategy.config == "cpu_mps" else spec.resources.vram_gib
    usable = int(offered * GIB * (1 - HEADROOM_SHARE))
    predicted = estimate(
        spec,
        config=strategy.config,
        checkpointing=strategy.checkpointing,
        offload=strategy.offload,
        optimizer=strategy.optimizer,
        micro_batch_size=micro,
    )
    candidate = Candidate(
        config=strategy.config,
        checkpointing=strategy.checkpointing,
        offload=strategy.offload,
        optimizer=strategy.optimizer,
        micro_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        estimate=predicted,
        usable_bytes=usable,
        fits=predicted.peak_bytes <= usable,
        reason="",
    )
    if candidate.label != spec.records.measured_with:
        return candidate
    return replace(candidate, fits=micro <= spec.records.measured_batch, measured=True)


def _take(spec: JobSpec, tried: tuple[Candidate, ...], *, here: Sequence[float] | None) -> int:
    """Index of the candidate to run: the first that fits, among those of CONFIG if it was given. If none of CONFIG's
    fits, the smallest of them is taken. Without CONFIG, raises ConfigError when nothing fits."""
    wanted = [i for i, c in enumerate(tried) if spec.training.accelerate_config in ("auto", c.config)]
    for i in wanted:
        if tried[i].fits:
            return i
    if spec.training.accelerate_config == "auto":
        raise nothing_fits(spec, tried, fits=_would_fit, here=here)
    return min(wanted, key=lambda i: tried[i].estimate.peak_bytes)


def _would_fit(spec: JobSpec) -> bool:
    """Whether this request, a variation on one that was refused, fits."""
    if (spec.training.effective_batch_size or 0) % spec.num_processes:
        return False
    return any(candidate.fits for candidate in _tried(spec))


def _reason(candidate: Candidate, *, taken: bool, after: bool) -> str:
    over = f"{gib(candidate.estimate.peak_bytes - candidate.usable_bytes)} GiB over"
    if taken:
        return "chosen" if candidate.fits else f"asked, {over}"
    if candidate.fits:
        return "fits, slower" if after else "fits"
    return over


def refuse_several_slices(spec: JobSpec, *, are_slices: bool) -> None:
    """Raises ConfigError for several processes whose GPUs are slices of cards. On the CPU they have none."""
    if are_slices and spec.resources.device == "cuda" and spec.num_processes > 1:
        name, given = ("GPUS", spec.resources.gpus) if spec.resources.gpus > 1 else ("NODES", spec.resources.nodes)
        raise ConfigError(ONE_SLICE, name=name, given=given, advice=f"try {name}=1, or a GPU_TYPE of whole cards")


def _safer_note(spec: JobSpec, chosen: Candidate, here: Sequence[float] | None) -> list[str]:
    """A note on a tight plan that names the next safer one: that for memory which is smaller by as much as makes a plan
    tight."""
    if not chosen.tight:
        return []
    peak, usable = chosen.estimate.peak_bytes, chosen.usable_bytes
    told = f"Tight: {peak / usable:.0%} of the usable memory, by formulas that no GPU has checked yet."
    if chosen.config == "cpu_mps":
        smaller = spec.but(mem_gib=int(spec.resources.mem_gib * TIGHT_SHARE))
        name = f"MEM={smaller.resources.mem_gib}"
    else:
        smaller = spec.but(vram_gib=int(spec.resources.vram_gib * TIGHT_SHARE * 10) / 10)
        name = f"VRAM={smaller.resources.vram_gib:g}"
    tried = _tried(smaller)
    try:
        safer = tried[_take(smaller, tried, here=here)]
    except NothingFits as refused:
        changes = [change for change in refused.changes if not change.startswith(("VRAM=", "MEM="))]
        others = f"; {name} with {' or '.join(changes)} gives one" if changes else ""
        return [f"{told} No plan of this request is safer{others}."]
    if not safer.fits:
        return [f"{told} CONFIG={chosen.config} has no safer plan; leave it out."]
    share = safer.estimate.peak_bytes / usable
    return [
        f"{told} The next safer plan, by {name}, is {safer.label} at micro-batch {safer.micro_batch_size}: "
        f"{gib(safer.estimate.peak_bytes)} GiB ({share:.0%})."
    ]
