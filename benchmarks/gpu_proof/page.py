"""The page of the results: a table for each kind of row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.memory.estimate import CUBLAS_WORKSPACE_BYTES, CUDA_CONTEXT_BYTES, ROUNDING_SHARE
from trainer.files import write_whole
from trainer.text import GIB, markdown_cell

Rows = Mapping[str, Mapping[str, Any]]
MIB = 2**20


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    about, rows = report["about"], report["rows"]
    missing = [name for name in report["asked"] if name not in rows]
    parts = [
        "# What a GPU showed" if not about["rehearsal"] else "# A rehearsal",
        _about(about),
        *(text for kind, write in KINDS.items() if (text := write(_of(rows, kind)))),
        *_failed(rows),
        *([f"Not begun, for lack of time: {', '.join(missing)}."] if missing else []),
    ]
    write_whole(path, "\n\n".join(parts) + "\n")


def _about(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    if about["rehearsal"]:
        where = (
            "Toy sizes on a CPU: every row can be carried out, and that is all this says. No figure here is a GPU's."
        )
    else:
        where = f"{about['gpu']} ({about['gpu_gib']:.1f} GiB), CUDA {about['cuda']}, made by `make gpu-proof`."
    if earlier := about.get("goes_on_from"):
        where += f" Some rows are from {earlier['when']}."
    return f"{where} {about['when']}, {about.get('seconds', 0)} s, Python {about['python']}, {versions}."


def _of(rows: Rows, module: str) -> dict[str, Any]:
    return {name: row["found"] for name, row in rows.items() if row["module"] == module and row.get("found")}


def _failed(rows: Rows) -> list[str]:
    lines = [[name, row["failed"]] for name, row in rows.items() if "failed" in row]
    return [f"## Failed\n\n{table(['row', 'why'], lines)}"] if lines else []


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *([markdown_cell(str(cell)) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _fit(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    lines, reserved, contexts = [], [], []
    for name, one in found.items():
        if not one["fits"]:
            lines.append([name, one["config"], one["micro_batch_size"], "no", "", "", "", ""])
            continue
        last = one["stages"][-1]
        predicted, measured = last["predicted_bytes"], last["process_bytes"]
        lines.append(
            [name, one["config"], one["micro_batch_size"], "yes", _gib(predicted), _gib(measured),
             f"{measured / predicted:.2f}", _gib(last["reserved_bytes"])]
        )  # fmt: skip
        if last["reserved_bytes"]:
            reserved.append(last["reserved_bytes"] / last["peak_bytes"] - 1)
            contexts.append(last["process_bytes"] - last["reserved_bytes"])
    head = ["card", "configuration", "micro-batch", "fits", "predicted, GiB", "process, GiB", "ratio", "reserved, GiB"]
    constants = ""
    if reserved:
        in_code = (CUDA_CONTEXT_BYTES + CUBLAS_WORKSPACE_BYTES) / MIB
        constants = (
            f"\n\nReserved beyond allocated: {min(reserved):.3f} to {max(reserved):.3f} (the plan counts with "
            f"{ROUNDING_SHARE}). Outside of torch: {min(contexts) / MIB:.0f} to {max(contexts) / MIB:.0f} MiB (the "
            f"plan counts with {in_code:.0f})."
        )
    return f"## Plans under a card's limit\n\n{table(head, lines)}{constants}"


def _speed(found: Mapping[str, Any]) -> str:
    parts = []
    for name, recipes in found.items():
        ours = next(iter(recipes.values()))["samples_per_second"]
        lines = [
            [recipe, f"{one['samples_per_second']:.2f}", f"{one['samples_per_second'] / ours:.2f}",
             f"{min(one['seconds']):.3f} to {max(one['seconds']):.3f}",
             "" if one["flops_share"] is None else f"{one['flops_share']:.1%}", f"{one['first_loss']:.4f}",
             _gib(one["peak_bytes"])]
            for recipe, one in recipes.items()
        ]  # fmt: skip
        head = ["QLoRA, r=64", "samples a second", "of ours", "seconds a step", "of peak FLOPs", "first loss", "GiB"]
        parts.append(f"## {name[:1].upper()}{name[1:]}\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def _kernels(found: Mapping[str, Any]) -> str:
    lines = [
        [
            way,
            one.get("failed") or (f"{one['of_our_time']:.2f}" if "of_our_time" in one else ""),
            "" if "failed" in one else f"{one['first_loss']:.4f}",
        ]
        for ways in found.values()
        for way, one in ways.items()
    ]
    return f"## Kernels that may pay\n\n{table(['way', 'of our time', 'first loss'], lines)}" if lines else ""


def _plain(title: str) -> Callable[[Mapping[str, Any]], str]:
    def write(found: Mapping[str, Any]) -> str:
        lines = [[what, value] for one in found.values() for what, value in one.items()]
        return f"## {title}\n\n{table(['what', 'found'], lines)}" if lines else ""

    return write


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"


KINDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "fit": _fit,
    "speed": _speed,
    "scoring": _plain("An evaluation at its planned rows"),
    "kept": _plain("Features kept and read back"),
    "stop": _plain("SIGTERM and going on"),
    "nf4": _plain("4-bit kernels"),
    "adamw": _plain("8-bit paged AdamW"),
    "segments": _plain("Which ALLOC_CONF counts"),
    "pinned": _plain("Pinned memory"),
    "kernels": _kernels,
}
