"""The plan's memory beside the peaks that others published for their own runs (published_peaks.yaml).

    .venv/launch/bin/python -m benchmarks.published_peaks

Their programs do some things otherwise: what can be counted of that is counted, item by item, on top of the plan, and
only then are the two compared. No GPU, torch or network is needed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from planner.job import JobSpec
from planner.memory.estimate import ROUNDING_SHARE, estimate
from planner.plan import Estimate
from trainer.architecture.shape import ModelShape
from trainer.architecture.shapes import shipped_shape
from trainer.text import GIB, format_table

DATA = Path(__file__).with_suffix(".yaml")
PAGE = Path(__file__).parent / "results" / "published_peaks.md"
# Logits, log-softmax and the gradient of each, in fp32, where a cross-entropy is left to autograd: traced on the CPU.
AUTOGRAD_LOGIT_BYTES = 16
# What others' heads take does not depend on ours. Where they do not differentiate all logits at once, nobody says how
# many positions they take together: assumed.
THEIR_PIECE_POSITIONS = 512
UNEXPLAINED = "UNEXPLAINED: "
WEIGHTS = (
    "language model", "quantization constants", "experts in 16 bits", "embedding and head", "image tower",
    "LoRA weights",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One published figure beside ours, in bytes."""

    row: Mapping[str, Any]
    reported: float
    planned: float
    """The plan for these settings, as this program would run them."""
    their_way: float
    """The same with what their program does otherwise, in the kind of memory that they report."""

    @property
    def ratio(self) -> float:
        return self.their_way / self.reported


@cache
def read() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return found


def compared() -> list[Compared]:
    return [_compare(row) for row in read()["rows"]]


def _compare(row: Mapping[str, Any]) -> Compared:
    spec = _spec(row)
    return Compared(
        row=row,
        reported=row["reported"] * GIB,
        planned=_estimate(spec, row).peak_bytes,
        their_way=_their_way(spec, row),
    )


def _spec(row: Mapping[str, Any], **changed: Any) -> JobSpec:
    shape = shipped_shape(row["model"])
    assert shape, row["model"]
    given = {
        "max_length": row["tokens"],
        "supervised_tokens": row.get("learned", row["tokens"]),
        "images_per_sample": row.get("pictures", int(shape.vision_patches > 0)),
        "lora_r": row["lora_r"],
        "lora_dropout": 0.0,
        "quantization": row.get("quantization", "nf4"),
        "vision": row.get("vision", "frozen"),
        "evaluates": False,
    }
    names = dict.fromkeys(("data", "project_dir", "name", "run_id"), "-")
    return JobSpec.of(model=row["model"], shape=shape, **names, **(given | changed))


def _estimate(spec: JobSpec, row: Mapping[str, Any]) -> Estimate:
    return estimate(
        spec,
        config="single_gpu",
        checkpointing=row.get("checkpointing", True),
        offload=False,
        optimizer=row.get("optimizer", "adamw"),
        micro_batch_size=row.get("micro_batch", 1),
    )


def _their_way(spec: JobSpec, row: Mapping[str, Any]) -> float:
    way = row["way"]
    if "no mask" in way:
        spec = replace(spec, shape=_without_masks(spec.shape))
    items = dict(_estimate(spec, row).items)
    shape, step = spec.shape, dict(items)
    step.pop("allocator rounding")
    context = step.pop("CUDA context")
    tensors = float(sum(step.values()))
    learned = row["micro_batch"] * spec.records.supervised_tokens
    whole = row["micro_batch"] * row["tokens"]
    positions = whole if "whole logits" in way else min(learned, THEIR_PIECE_POSITIONS)
    tensors = max(tensors, _at_the_head(spec, step, positions))
    if "fp32 upcast" in way:
        tensors += 2 * (shape.embedding_params + shape.head_params + shape.text_extra_params)
    if "bf16 adapters" in way:
        tensors -= (step["LoRA weights"] + step["gradients"] + step["optimizer"]) / 2 + step["autocast copies"]
    if row["is"] == "allocated":
        return tensors
    if "as loaded" in way:  # theirs is rounded as it is
        above = tensors - sum(step[name] for name in WEIGHTS)
        return row["loaded"] * GIB + above * (1 + ROUNDING_SHARE)
    return tensors * (1 + ROUNDING_SHARE) + (context if row["is"] == "device" else 0)


def _without_masks(shape: ModelShape) -> ModelShape:
    return replace(shape, layers=tuple(replace(layer, pair_values=0) for layer in shape.layers))


def _at_the_head(spec: JobSpec, step: Mapping[str, int], positions: int) -> float:
    """Bytes of the moment when the logits of so many positions are differentiated."""
    passing = ("head", "backward of a layer", "image tower forward", "autocast copies")
    held = sum(size for name, size in step.items() if name not in passing)
    copies = 2 * spec.lora_params
    logits = positions * spec.shape.vocab * AUTOGRAD_LOGIT_BYTES
    return held + copies + logits


def ran_out() -> list[tuple[Mapping[str, Any], float, float]]:
    """(report, planned bytes by the length of the text, planned bytes of what was there)."""
    found = []
    for row in read()["ran_out"]:
        by_text = _estimate(_spec(row), row).peak_bytes
        largest = {**row, "tokens": row.get("largest", row["tokens"]), "micro_batch": 1, "way": ["whole logits"]}
        really = _their_way(_spec(largest), {**largest, "is": "device"})
        if row.get("tower_mask"):  # flags, and the numbers that the kernel takes, for each pair of patches
            really += 3 * _spec(largest).patches_per_sample ** 2
        if row.get("head_trained"):  # in fp32, with gradient and two moments
            really += 16 * _spec(row).shape.head_params
        found.append((row, by_text, max(by_text, really)))
    return found


INTRODUCTION = """\
# The plan beside published peaks

Made by `.venv/launch/bin/python -m benchmarks.published_peaks` from [published_peaks.yaml](../published_peaks.yaml),
which says what the words under *their way* mean. GiB on one GPU. Nothing here was measured by this project: the reports
are other people's, of their own programs.
"""
RAN_OUT = """\
## Where people ran out of memory

By the length of the text the first three would fit by far. But a photo may take 16,384 tokens of Qwen's as the
processor comes, and older versions of transformers made a mask for every pair of its 65,536 patches. A plan at the
default holds for pictures of up to `MAX_LENGTH` tokens; longer records are left out. The last one the plan refuses too,
because the model is loaded whole.
"""


def page() -> str:
    rows = compared()
    ratios = sorted(row.ratio for row in rows if not row.row["why"].startswith(UNEXPLAINED))
    shown = [
        [
            f"[{r.row['id']}]({r.row['source']})",
            *(f"{size / GIB:.2f}" for size in (r.reported, r.planned, r.their_way)),
            f"{r.ratio:.2f}",
            ", ".join([*r.row["way"], r.row["is"]]),
            "; ".join(filter(None, (r.row["why"].replace(UNEXPLAINED, "**unexplained**: "), _assumed(r.row)))),
        ]
        for r in rows
    ]
    reports = [
        [f"[{row['id']}]({row['source']})", f"{by_text / GIB:.1f}", f"{really / GIB:.1f}"]
        for row, by_text, really in ran_out()
    ]
    heads = ("run", "reported", "plan", "plan, their way", "of theirs", "their way", "what is left")
    parts = (
        INTRODUCTION,
        f"Without the unexplained one the plan, their way, is {ratios[0]:.2f} to {ratios[-1]:.2f} of the {len(ratios)} "
        f"reports, {statistics.median(ratios):.2f} in the median.\n",
        _markdown(heads=heads, rows=shown),
        RAN_OUT,
        _markdown(heads=("report", "plan by the text", "of what was there, their way"), rows=reports),
        "## Left out\n",
        "".join(f"- {left['what']}: {left['why']}.\n" for left in read()["left_out"]),
    )
    return "\n".join(parts)


def _assumed(row: Mapping[str, Any]) -> str:
    return f"assumed: {row['assumed']}" if "assumed" in row else ""


def _markdown(*, heads: tuple[str, ...], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ([*heads], ["---"] * len(heads), *rows))


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    heads = ["run", "reported", "their way", "ratio"]
    lines = [
        [str(r.row["id"]), f"{r.row['reported']:g}", f"{r.their_way / GIB:.2f}", f"{r.ratio:.2f}"] for r in compared()
    ]
    print(format_table([heads, *lines], rules_before=(1,)))


if __name__ == "__main__":
    main()
