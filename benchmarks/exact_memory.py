"""The plan's memory of a step, an evaluation and a tower, beside each of them carried out on paper
(trainer/measure/paper.py and paper_evaluation.py).

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from planner.job import JobSpec
from planner.memory.estimate import ROUNDING_SHARE, estimate, tower_forward_bytes
from planner.plan import Estimate
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

# Evaluations: all of them but the largest two and one more, which take the most minutes.
UNSCORED = ("Qwen/Qwen3.5-35B-A3B", "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "CohereLabs/aya-vision-8b")
SCORED_MODELS = tuple(model for model in GRID if model not in UNSCORED)
PROMPT, ANSWER = 1024, 128
EVALUATED = Way(checkpointing=False, micro_batch_size=1, tokens=PROMPT, lora_r=64)
# Towers that see a picture in views of one size: its side in px, and of a patch. Others need values to run.
TOWERS = {
    "google/gemma-3-4b-it": (896, 14), "OpenGVLab/InternVL3-8B-hf": (448, 14), "CohereLabs/aya-vision-8b": (364, 14),
}  # fmt: skip
WEIGHTS = ("language model", "quantization constants", "experts in 16 bits", "embedding and head", "image tower")


def planned_bytes(model: str, way: Way) -> int:
    """Bytes that the plan predicts for the step of that model."""
    return _without_gpu(planned(model, way).items)


def planned(model: str, way: Way) -> Estimate:
    """The plan's prediction for that model."""
    return _estimate(_spec(model, way), way)


def _spec(model: str, way: Way) -> JobSpec:
    return JobSpec.of(
        model=model, shape=resolve_shape(model, measure=False), data="-", project_dir=".", name="-", run_id="-",
        gpus=1, max_length=way.tokens, supervised_tokens=SCORED, images_per_sample=0, lora_r=way.lora_r,
        lora_dropout=way.lora_dropout, quantization=way.quantization, evaluates=False,
    )  # fmt: skip


def _estimate(spec: JobSpec, way: Way) -> Estimate:
    return estimate(
        spec, config="single_gpu", checkpointing=way.checkpointing, offload=False, optimizer="adamw",
        micro_batch_size=way.micro_batch_size,
    )  # fmt: skip


def _without_gpu(items: Iterable[tuple[str, int]]) -> int:
    return sum(size for name, size in items if name not in BESIDE)


def planned_evaluation(model: str) -> int:
    """Bytes that the plan predicts for the evaluation of a record without a picture."""
    spec = _spec(model, EVALUATED).but(evaluates=True, supervised_tokens=ANSWER)
    return _without_gpu(_estimate(spec, EVALUATED).evaluation)


def planned_tower(model: str) -> int:
    """Bytes that the plan predicts while the tower works on one picture, beside the weights of a model in 16 bits."""
    spec = _spec(model, WHOLE).but(images_per_sample=1)
    items = dict(_estimate(spec, WHOLE).items)
    return sum(items[name] for name in WEIGHTS) + tower_forward_bytes(spec, 1, width=2)


def exact_bytes(model: str, way: Way) -> dict[str, Any]:
    """The bytes of the step at its peak, and what they consist of."""
    from trainer.measure.paper import step_on_paper
    from trainer.measure.ship import published_config

    config = TrainConfig(model=model, data="-", output_dir="-", run_id="-", **of_config(way))
    held = step_on_paper(published_config(model), config, tokens=way.tokens, scored=SCORED)["step"]
    return {"bytes": held.peak, "at_the_peak": held.at}


def exact_evaluation(model: str) -> dict[str, Any]:
    """The bytes of the evaluation at its peak, and what they consist of."""
    from trainer.measure.paper_evaluation import evaluation_on_paper
    from trainer.measure.ship import published_config

    config = TrainConfig(model=model, data="-", output_dir="-", run_id="-", **of_config(EVALUATED))
    held = evaluation_on_paper(published_config(model), config, tokens=PROMPT, answer=ANSWER)
    return {"bytes": held.peak, "at_the_peak": held.at}


def exact_tower(model: str) -> dict[str, Any]:
    """The same, of a picture in as many views as the plan supposes."""
    from trainer.measure.paper_evaluation import tower_on_paper
    from trainer.measure.ship import published_config

    side, patch = TOWERS[model]
    views = resolve_shape(model, measure=False).vision_patches // (side // patch) ** 2
    held = tower_on_paper(published_config(model), side=side, views=views)
    return {"bytes": held.peak, "at_the_peak": held.at}


def of_config(way: Way) -> dict[str, Any]:
    same = ("micro_batch_size", "lora_r", "quantization", "lora_dropout")
    return {"activation_checkpointing": way.checkpointing, **{name: getattr(way, name) for name in same}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison: its name, and how the two sides of it are found."""

    key: str
    model: str
    planned: Callable[[], int]
    exact: Callable[[], dict[str, Any]]


def rows_of() -> list[Row]:
    steps = [
        Row(
            key=row_key(model, way), model=model, planned=partial(planned_bytes, model, way),
            exact=partial(exact_bytes, model, way),
        )
        for model, ways in GRID.items()
        for way in ways
    ]  # fmt: skip
    evaluations = [
        Row(
            key=f"{model}, evaluation, {PROMPT} tokens and {ANSWER} of an answer, r={EVALUATED.lora_r}", model=model,
            planned=partial(planned_evaluation, model), exact=partial(exact_evaluation, model),
        )
        for model in SCORED_MODELS
    ]  # fmt: skip
    towers = [
        Row(
            key=f"{model}, tower alone, a picture in views of {side} px", model=model,
            planned=partial(planned_tower, model), exact=partial(exact_tower, model),
        )
        for model, (side, _) in TOWERS.items()
    ]  # fmt: skip
    return [*steps, *evaluations, *towers]


def main(words: Sequence[str]) -> None:
    logging.disable(logging.CRITICAL)
    path = RESULTS / "exact_memory.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for row in rows_of():
        if row.key in rows and not any(word.lower() in row.model.lower() for word in words):
            continue
        print(row.key, file=sys.stderr, flush=True)
        rows[row.key] = row.exact()
        rows = {row.key: rows[row.key] for row in rows_of() if row.key in rows}
        path.write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "exact_memory.md").write_text(page(rows))


def row_key(model: str, way: Way) -> str:
    kept = "checkpointing" if way.checkpointing else "no checkpointing"
    bits = "4 bits" if way.quantization == "nf4" else "16 bits"
    sizes = f"{way.micro_batch_size} x {way.tokens}"
    return f"{model}, {bits}, r={way.lora_r}, dropout {way.lora_dropout:g}, {sizes}, {kept}"


def differences(rows: dict[str, Any]) -> dict[str, float]:
    """The plan's excess over the exact bytes, as a share of them."""
    return {row.key: row.planned() / rows[row.key]["bytes"] - 1 for row in rows_of() if row.key in rows}


def left(rows: dict[str, Any]) -> dict[str, float]:
    """What the plan's peak, with its share for the allocator, has above the exact bytes, as a share of them: the plan
    fits nowhere where the exact bytes do not, unless one of these is below 0."""
    return {key: (1 + share) * (1 + ROUNDING_SHARE) - 1 for key, share in differences(rows).items()}


def page(rows: dict[str, Any]) -> str:
    found = differences(rows)
    sizes, least = sorted(map(abs, found.values())), min(left(rows).values())
    lines = [f"| {key} | {rows[key]['bytes'] / GIB:.2f} | {share:+.1%} |" for key, share in found.items()]
    return "\n".join([
        "# The plan beside steps, evaluations and towers on paper",
        "",
        "Made by `.venv/cpu/bin/python -W ignore -m benchmarks.exact_memory`: the real code of model, PEFT, head and",
        "optimizer on tensors without memory, every byte counted from when it is made until it is freed. No GPU was",
        "there: what its kernels take for themselves is on neither side.",
        "",
        f"The plan differs by {statistics.median(sizes):.1%} in the median and by {sizes[-1]:.1%} at most. With the",
        f"share that it adds for the allocator it is at least {least:.1%} above the exact bytes of every row: it never",
        "says that something fits where the exact bytes do not.",
        "",
        "| what | exact, GiB | plan |",
        "|---|---|---|",
        *lines,
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
