"""A Plan as text for a terminal: five lines of explanation, every candidate item by item, the notes."""

from __future__ import annotations

from itertools import zip_longest

from planner.job import Candidate, JobSpec, Plan
from trainer.text import GIB, format_table, gib, printable, wrap

WIDTH = 110


def plan_table(plan: Plan) -> str:
    """`plan` explained: at most 110 columns wide, no colours, no newline at the end."""
    return "\n\n".join(part for part in (_choice(plan), _candidates(plan), _notes(plan)) if part)


def plan_summary(plan: Plan) -> str:
    """What was chosen and what a person should know about it, without the candidates."""
    return "\n".join(part for part in (_choice(plan), _notes(plan)) if part)


def _notes(plan: Plan) -> str:
    return "\n".join(wrap(printable(note), width=WIDTH, prefix="note   ") for note in plan.notes)


def _choice(plan: Plan) -> str:
    spec, chosen = plan.spec, plan.chosen
    peak, usable = chosen.estimate.peak_bytes, chosen.usable_bytes
    where = "of host memory" if chosen.config == "cpu_mps" else "a GPU"
    shares = (
        f"micro-batch {chosen.micro_batch_size}{' (measured)' if chosen.label == spec.measured_with else ''}",
        f"accumulation {chosen.gradient_accumulation_steps}",
        _count(plan.num_processes, "process", "es") if spec.gpus == 0 else _count(plan.num_processes, "GPU"),
    )
    return "\n".join(
        wrap(printable(text), width=WIDTH, prefix=f"{name:<7}")
        for name, text in (
            ("job", _request(spec)),
            ("memory", _offer(spec, chosen)),
            ("chosen", f"{chosen.config}, {_how(chosen)}"),
            ("batch", f"{' x '.join(shares)} = {plan.effective_batch_size} samples an optimizer step"),
            ("peak", f"{gib(peak)} of {gib(usable)} GiB {where} predicted ({peak / usable:.0%})"),
            *([("site", spec.site)] if spec.site else []),
        )
    )


def _request(spec: JobSpec) -> str:
    weights = "4-bit NF4" if spec.quantization == "nf4" else "bf16"
    total, trained = _short(spec.shape.total_params), _short(spec.lora_params)
    where = f"{_count(spec.gpus, 'GPU')}" if spec.gpus else "the CPU"
    measured = "" if spec.length_source == "MAX_LENGTH" else f" ({spec.length_source})"
    nodes = f" on each of {spec.nodes} nodes" if spec.nodes > 1 else ""
    tower = ", tower too" if spec.vision == "lora" else ""
    alpha = f" alpha={spec.lora_alpha}" if spec.lora_alpha != 2 * spec.lora_r else ""
    return (
        f"{spec.model} ({total}, {weights}), LoRA r={spec.lora_r}{alpha} ({trained} trained{tower}), "
        f"{spec.max_length} tokens a sample{measured}, on {where}{nodes}"
    )


def _offer(spec: JobSpec, chosen: Candidate) -> str:
    offered = spec.mem_gib if chosen.config == "cpu_mps" else spec.vram_gib
    kept = 1 - chosen.usable_bytes / (offered * GIB)
    usable = f"{gib(chosen.usable_bytes)} usable ({kept:.0%} is kept free)"
    if chosen.config == "cpu_mps":
        return f"{spec.mem_gib} GiB on the host, {usable}"
    unsaid = ", say VRAM= or GPU_TYPE= for another" if spec.vram_source == "assumed" else ""
    return f"{spec.vram_gib:g} GiB a GPU ({spec.vram_source}{unsaid}), {usable}"


def _how(chosen: Candidate) -> str:
    words = {
        "activation checkpointing": chosen.checkpointing,
        "8-bit paged AdamW": chosen.optimizer == "paged_adamw_8bit",
        "optimizer state on the host": chosen.offload,
    }
    said = " and ".join(word for word, on in words.items() if on)
    return f"with {said}" if said else "without activation checkpointing"


def _candidates(plan: Plan) -> str:
    """One column a candidate, one row an item; items that no candidate has are left out."""
    columns = [dict(c.estimate.items) for c in plan.candidates]
    items = [name for name in columns[0] if any(column[name] for column in columns)]
    unit = "GiB" if plan.chosen.config == "cpu_mps" else "GiB a GPU"
    # Labels over several rows: multi_gpu, below it + checkpointing.
    labels = [c.label.replace(" + ", "\n+ ").split("\n") for c in plan.candidates]
    head = [list(row) for row in zip_longest([unit], *labels, fillvalue="")]
    batches = [f"{c.micro_batch_size} x {c.gradient_accumulation_steps}" for c in plan.candidates]
    evaluation = [c.estimate.evaluation_bytes for c in plan.candidates]
    rows = [
        *head,
        ["micro-batch x accumulation", *batches],
        *([name, *(gib(column[name]) if column[name] else "-" for column in columns)] for name in items),
        ["peak of a step", *(gib(c.estimate.step_bytes) for c in plan.candidates)],
        ["peak while loading", *(gib(c.estimate.load_peak_bytes) for c in plan.candidates)],
        *([["peak of an evaluation", *(gib(size) for size in evaluation)]] if any(evaluation) else []),
        ["verdict", *(c.reason for c in plan.candidates)],
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
