"""The plan's memory of a step, beside that of the step itself carried out on paper (trainer/measure/paper.py).

    .venv/cpu/bin/python -W ignore -m benchmarks.exact_memory            # every row; those that are there are kept
    .venv/cpu/bin/python -W ignore -m benchmarks.exact_memory qwen3      # rows of models with that in their name, again

No GPU, no weights and no network: a step of a model of any size takes a minute of one core and less than 2 GiB. The
language model's step is compared, on text alone; what CUDA takes for itself and rounding are left out on both sides.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.job import JobSpec
from planner.memory.estimate import estimate
from trainer.architecture.shapes import resolve_shape
from trainer.config import TrainConfig
from trainer.text import GIB

RESULTS = Path(__file__).parent / "results"
SCORED = 64
BESIDE = ("CUDA context", "NCCL", "allocator rounding")  # in the plan alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    checkpointing: bool
    micro_batch_size: int
    tokens: int
    lora_r: int
    quantization: str = "nf4"
    lora_dropout: float = 0.05


PLAIN = Way(checkpointing=False, micro_batch_size=1, tokens=512, lora_r=16)
SAVING = Way(checkpointing=True, micro_batch_size=4, tokens=1024, lora_r=64)
LONG = Way(checkpointing=False, micro_batch_size=2, tokens=2048, lora_r=64, lora_dropout=0)
WHOLE = Way(checkpointing=True, micro_batch_size=1, tokens=1024, lora_r=16, quantization="none")
# Dense, with experts, with linear attention, with both; of 0.3 to 35 billion weights.
GRID = {
    "google/gemma-3-4b-it": (PLAIN, SAVING, LONG, WHOLE),
    "google/gemma-3-12b-it": (PLAIN, SAVING),
    "google/gemma-4-E4B-it": (PLAIN, SAVING),
    "Qwen/Qwen2.5-VL-7B-Instruct": (PLAIN, SAVING, WHOLE),
    "Qwen/Qwen3-VL-8B-Instruct": (PLAIN, SAVING),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": (PLAIN, SAVING),
    "Qwen/Qwen3.5-9B": (PLAIN, SAVING),
    "Qwen/Qwen3.5-35B-A3B": (SAVING,),
    "meta-llama/Llama-3.1-8B-Instruct": (PLAIN, SAVING, LONG),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": (SAVING,),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (PLAIN, SAVING),
    "OpenGVLab/InternVL3-8B-hf": (PLAIN,),
    "LiquidAI/LFM2-VL-1.6B": (PLAIN, SAVING),
    "CohereLabs/aya-vision-8b": (PLAIN,),
    "HuggingFaceTB/SmolVLM-256M-Instruct": (PLAIN, LONG),
}


def planned_bytes(model: str, way: Way) -> int:
    """Bytes that the plan predicts for the step of that model."""
    spec = JobSpec.of(
        model=model, shape=resolve_shape(model, measure=False), data="-", project_dir=".", name="-", run_id="-",
        gpus=1, max_length=way.tokens, supervised_tokens=SCORED, images_per_sample=0, lora_r=way.lora_r,
        lora_dropout=way.lora_dropout, quantization=way.quantization, evaluates=False,
    )  # fmt: skip
    found = estimate(
        spec, config="single_gpu", checkpointing=way.checkpointing, offload=False, optimizer="adamw",
        micro_batch_size=way.micro_batch_size,
    )  # fmt: skip
    return sum(size for name, size in found.items if name not in BESIDE)


def exact_bytes(model: str, way: Way) -> dict[str, Any]:
    """The bytes of the step at its peak, and what they consist of."""
    from trainer.measure.paper import step_on_paper
    from trainer.measure.ship import published_config

    config = TrainConfig(model=model, data="-", output_dir="-", run_id="-", **of_config(way))
    held = step_on_paper(published_config(model), config, tokens=way.tokens, scored=SCORED)["step"]
    return {"bytes": held.peak, "at_the_peak": held.at}


def of_config(way: Way) -> dict[str, Any]:
    same = ("micro_batch_size", "lora_r", "quantization", "lora_dropout")
    return {"activation_checkpointing": way.checkpointing, **{name: getattr(way, name) for name in same}}


def main(words: Sequence[str]) -> None:
    logging.disable(logging.CRITICAL)
    path = RESULTS / "exact_memory.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for model, ways in GRID.items():
        for way in ways:
            key = row_key(model, way)
            if key in rows and not any(word.lower() in model.lower() for word in words):
                continue
            print(key, file=sys.stderr, flush=True)
            rows[key] = exact_bytes(model, way)
            path.write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "exact_memory.md").write_text(page(rows))


def row_key(model: str, way: Way) -> str:
    kept = "checkpointing" if way.checkpointing else "no checkpointing"
    bits = "4 bits" if way.quantization == "nf4" else "16 bits"
    sizes = f"{way.micro_batch_size} x {way.tokens}"
    return f"{model}, {bits}, r={way.lora_r}, dropout {way.lora_dropout:g}, {sizes}, {kept}"


def differences(rows: dict[str, Any]) -> dict[str, float]:
    """The plan's excess over the exact step, as a share of the exact step."""
    return {
        row_key(model, way): planned_bytes(model, way) / rows[row_key(model, way)]["bytes"] - 1
        for model, ways in GRID.items()
        for way in ways
        if row_key(model, way) in rows
    }


def page(rows: dict[str, Any]) -> str:
    found = differences(rows)
    sizes = sorted(map(abs, found.values()))
    lines = [f"| {key} | {rows[key]['bytes'] / GIB:.2f} | {share:+.1%} |" for key, share in found.items()]
    return "\n".join([
        "# The plan beside the step on paper",
        "",
        "Made by `.venv/cpu/bin/python -W ignore -m benchmarks.exact_memory`: the real code of model, PEFT, head and",
        "optimizer on tensors without memory, every byte counted from when it is made until it is freed. No GPU was",
        "there: what its kernels take for themselves is on neither side.",
        "",
        f"The plan differs by {statistics.median(sizes):.1%} in the median and by {sizes[-1]:.1%} at most.",
        "",
        "| step | exact, GiB | plan |",
        "|---|---|---|",
        *lines,
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
