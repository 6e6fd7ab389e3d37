"""Memory of an evaluation: the state that training keeps, and one sequence, the smallest possible batch. The
arithmetic is the trainer's own (trainer/evaluation/rows.py), by which it decides how many sequences run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planner.job import JobSpec
from trainer.architecture.shape import ModelShape
from trainer.evaluation.rows import Asked, Sizes, parts

# Items of a step that also exist between two steps.
HELD = (
    "language model", "quantization constants", "experts in 16 bits", "embedding and head", "image tower",
    "gathered weights", "LoRA weights", "optimizer", "communication buckets",
)  # fmt: skip
BF16_BYTES = 2
ANSWER_MARGIN = 4  # tokens that an answer may be longer than the longest true one


def evaluation_items(
    spec: JobSpec, step: Mapping[str, int], *, width: int, sharded: bool, towerless: bool
) -> dict[str, int]:
    """Bytes of everything alive at the peak of an evaluation, one sequence at a time, for a job whose step holds
    `step`; empty for a job without evaluations."""
    if not spec.records.evaluates:
        return {}
    patches = 0 if towerless else spec.patches_per_sample
    longest = Asked(tokens=spec.training.max_length, patches=patches)
    ways = (
        replace(longest, written=spec.records.supervised_tokens + ANSWER_MARGIN),
        replace(longest, candidates=(spec.records.supervised_tokens,)),
    )
    most = max(
        (parts(sizes(spec.shape, width=width), asked, 1) for asked in ways), key=lambda items: sum(items.values())
    )
    # Autocast keeps its bf16 copies of the adapters while a batch runs.
    copies = 0 if sharded or width > BF16_BYTES else spec.lora_params * BF16_BYTES
    # The Trainer sets gradients to None after each step; DeepSpeed's partitions keep theirs.
    held = {name: step[name] for name in (*HELD, *(("gradients",) if sharded else ()))}
    return {**held, "autocast copies": copies, **most, "written out of 4 bits": sizes(spec.shape, width=width).fixed}


def sizes(shape: ModelShape, *, width: int) -> Sizes:
    """The sizes that an evaluation depends on, as if every layer with keys kept as many as the widest."""
    widest = {name: max(getattr(layer, name) for layer in shape.layers) for name in ("widest", "q_width", "kv_width")}
    return Sizes(
        layers=sum(layer.count for layer in shape.layers if layer.kv_width),
        hidden=shape.hidden,
        mlp=widest["widest"],
        q_width=widest["q_width"],
        kv_width=widest["kv_width"],
        vocab=shape.vocab,
        vision_hidden=shape.vision_hidden,
        vision_mlp=shape.vision_mlp,
        width=width,
    )
