"""A Plan as text: the request, every candidate item by item, the notes, and last the choice with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from planner.job import THIS_MACHINE, JobSpec
from planner.plan import Candidate, Plan
from trainer.architecture.targets import ALL
from trainer.text import GIB, format_table, gib, printable, wrap

BAR_CELLS = 40
# Narrower screens have no room for the longest name of a row beside the longest name of a configuration.
NARROW = 48
# Reasons why a candidate is slower than one before it.
SLOWER: dict[str, Callable[[Candidate], bool]] = {
    "recompute activations": lambda candidate: candidate.checkpointing,
    "use an 8-bit optimizer": lambda candidate: candidate.optimizer == "paged_adamw_8bit",
    "gather shards": lambda candidate: candidate.config == "deepspeed_zero3",
    "update on the host": lambda candidate: candidate.offload,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Screen:
    """The screen or file for which the text is made."""

    width: int = 110
    colour: bool = False
    blocks: bool = False
    """Whether the encoding has block characters."""


PAPER = Screen()
"""A file, a pipe, a page: the same bytes everywhere."""


def plan_table(plan: Plan, screen: Screen = PAPER) -> str:
    """`plan` explained, no wider than the screen if that is possible; no newline at the end."""
    parts = (_asked(plan, screen), _candidates(plan, screen), _notes(plan, screen), _decision(plan, screen))
    return "\n\n".join(filter(None, parts))


def plan_summary(plan: Plan, screen: Screen = PAPER) -> str:
    """The request, the choice and the notes, without the candidates."""
    return "\n".join(filter(None, (_asked(plan, screen), _notes(plan, screen), _decision(plan, screen))))


def _notes(plan: Plan, screen: Screen) -> str:
    return "\n".join(wrap(printable(note), width=screen.width, prefix="note   ") for note in plan.notes)


def _asked(plan: Plan, screen: Screen) -> str:
    spec = plan.spec
    site = [("site", spec.sources.site)] if spec.sources.site else []
    return _lines([("job", _request(spec)), ("memory", _offer(spec, plan.chosen)), *site], screen)


def _decision(plan: Plan, screen: Screen) -> str:
    spec, chosen = plan.spec, plan.chosen
    peak, usable = chosen.estimate.peak_bytes, chosen.usable_bytes
    where = "of host memory" if chosen.config == "cpu_mps" else "a GPU"
    shares = (
        f"micro-batch {chosen.micro_batch_size}{' (measured)' if chosen.label == spec.records.measured_with else ''}",
        f"accumulation {chosen.gradient_accumulation_steps}",
        _count(plan.num_processes, "process", "es") if spec.resources.gpus == 0 else _count(plan.num_processes, "GPU"),
    )
    first, *rest = (
        ("chosen", f"{chosen.config}, {_how(chosen)}"),
        *([("why", why)] if (why := _why(plan)) else []),
        ("batch", f"{' x '.join(shares)} = {plan.effective_batch_size} samples an optimizer step"),
        ("peak", f"{gib(peak)} of {gib(usable)} GiB {where} predicted ({peak / usable:.0%}){', tight' * chosen.tight}"),
    )
    bold, plain = ("\x1b[1m", "\x1b[0m") if screen.colour else ("", "")
    return f"{bold}{_lines([first], screen)}{plain}\n{_lines(rest, screen)}\n{_bar(plan, screen)}"


def _lines(rows: Sequence[tuple[str, str]], screen: Screen) -> str:
    return "\n".join(wrap(printable(text), width=screen.width, prefix=f"{name:<7}") for name, text in rows)


def _why(plan: Plan) -> str:
    """Why the chosen candidate is preferred to its neighbours, which are in the order of expected speed."""
    chosen, candidates = plan.chosen, plan.candidates
    place = candidates.index(chosen)
    faster, slower = candidates[:place], candidates[place + 1 :]
    if plan.spec.training.accelerate_config != "auto":
        told = "CONFIG= (or ACCELERATE_CONFIG in .env) asks for it"
        fitting = next((c.label for c in faster if c.fits), "")
        return f"{told}; {fitting} fits too and is likely faster" if fitting else told
    more = [does for does, of in SLOWER.items() if any(map(of, slower)) and not of(chosen)]
    others = f"others {', '.join(more)}" if more else ""
    if not faster:
        return f"likely fastest: {others}" if others else ""
    over = f"{faster[-1].label} is {gib(faster[-1].estimate.peak_bytes - faster[-1].usable_bytes)} GiB over"
    return "; ".join(filter(None, (f"likely fastest that fits: {over}", others)))


def _bar(plan: Plan, screen: Screen) -> str:
    """The predicted peak against the whole card, of which the last part is kept free."""
    used, free, kept = "\u2588\u2591\u00b7" if screen.blocks else "#-."
    chosen, offered = plan.chosen, _offered(plan.spec, plan.chosen)
    cells = min(BAR_CELLS, screen.width - 20)
    peak = min(cells, round(chosen.estimate.peak_bytes / (offered * GIB) * cells))
    usable = max(peak, round(chosen.usable_bytes / (offered * GIB) * cells))
    return f"       [{used * peak}{free * (usable - peak)}{kept * (cells - usable)}] {offered:g} GiB"


def _offered(spec: JobSpec, chosen: Candidate) -> float:
    return spec.resources.mem_gib if chosen.config == "cpu_mps" else spec.resources.vram_gib


def _request(spec: JobSpec) -> str:
    resources, training, sources = spec.resources, spec.training, spec.sources
    weights = "4-bit NF4" if training.quantization == "nf4" else "bf16" if resources.gpus else "fp32"
    total, trained = _short(spec.shape.total_params), _short(spec.lora_params)
    without = "Apple's GPU" if resources.device == "mps" else "the CPU"
    where = f"{_count(resources.gpus, 'GPU')}" if resources.gpus else without
    measured = "" if sources.length_source == "MAX_LENGTH" else f" ({sources.length_source})"
    nodes = f" on each of {resources.nodes} nodes" if resources.nodes > 1 else ""
    tower = ", tower too" if training.vision == "lora" else ""
    targets = f" on {training.lora_targets}" if training.lora_targets != ALL else ""
    alpha = f" alpha={training.lora_alpha}" if training.lora_alpha != 2 * training.lora_r else ""
    return (
        f"{spec.model} ({total}, {weights}), LoRA r={training.lora_r}{alpha}{targets} ({trained} trained{tower}), "
        f"{training.max_length} tokens a sample{measured}, on {where}{nodes}"
    )


def _offer(spec: JobSpec, chosen: Candidate) -> str:
    offered = _offered(spec, chosen)
    kept = 1 - chosen.usable_bytes / (offered * GIB)
    usable = f"{gib(chosen.usable_bytes)} usable ({kept:.0%} is kept free)"
    if chosen.config == "cpu_mps":
        return f"{spec.resources.mem_gib} GiB {_whose(spec.sources.vram_source)}, {usable}"
    unsaid = ", say VRAM= or GPU_TYPE= for another" if spec.sources.vram_source == "assumed" else ""
    return f"{spec.resources.vram_gib:g} GiB a GPU ({spec.sources.vram_source}{unsaid}), {usable}"


def _whose(source: str) -> str:
    """The owner of the planned host memory, in words."""
    return f"of {source}" if source == THIS_MACHINE else "on a node (MEM= says another, TO=local is this machine)"


def _how(chosen: Candidate) -> str:
    words = {
        "activation checkpointing": chosen.checkpointing,
        "8-bit paged AdamW": chosen.optimizer == "paged_adamw_8bit",
        "optimizer state on the host": chosen.offload,
    }
    said = " and ".join(word for word, on in words.items() if on)
    return f"with {said}" if said else "without activation checkpointing"


def _candidates(plan: Plan, screen: Screen) -> str:
    """One column a candidate: the chosen one and as many others, in order, as the screen has room for."""
    shown: tuple[Candidate, ...] = (plan.chosen,)
    for candidate in plan.candidates:
        more = tuple(c for c in plan.candidates if c in (*shown, candidate))
        if _width(_table(plan, more, screen)) <= screen.width:
            shown = more
    left_out = [f"{c.label} ({c.reason})" for c in plan.candidates if c not in shown]
    also = [wrap(", ".join(left_out), width=screen.width, prefix="also   ")] if left_out else []
    return "\n".join([_table(plan, shown, screen), *also])


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _table(plan: Plan, shown: Sequence[Candidate], screen: Screen) -> str:
    """One row for each item; items that none of the candidates `shown` has are left out."""
    columns = [dict(c.estimate.items) for c in shown]
    items = [name for name in columns[0] if any(column[name] for column in columns)]
    unit = "GiB" if plan.chosen.config == "cpu_mps" else "GiB a GPU"
    # Labels over several rows: multi_gpu, and + checkpointing below it.
    narrow = screen.width < NARROW
    labels = [re.split(r" (?=\+ )|(?=_low_mem)" if narrow else r" (?=\+ )", c.label) for c in shown]
    head = [list(row) for row in zip_longest([unit], *labels, fillvalue="")]
    batches = [f"{c.micro_batch_size} x {c.gradient_accumulation_steps}" for c in shown]
    evaluation = [c.estimate.evaluation_bytes for c in shown]
    rows = [
        *head,
        [f"{'' if narrow else 'micro-'}batch x accumulation", *batches],
        *([name, *(gib(column[name]) if column[name] else "-" for column in columns)] for name in items),
        ["peak of a step", *(gib(c.estimate.step_bytes) for c in shown)],
        ["peak while loading", *(gib(c.estimate.load_peak_bytes) for c in shown)],
        *([["peak of an evaluation", *(gib(size) for size in evaluation)]] if any(evaluation) else []),
        ["verdict", *(c.reason for c in shown)],
    ]
    first = len(head)
    return format_table(rows, rules_before=(first, first + 1, first + 1 + len(items)))


def _count(n: int, noun: str, plural: str = "s") -> str:
    return f"{n} {noun}{plural if n != 1 else ''}"


def _short(n: int) -> str:
    """4300079472 -> 4.30 B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)
