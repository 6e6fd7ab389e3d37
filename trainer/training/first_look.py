"""What a run looks at, refuses and shows before its first step."""

from __future__ import annotations

import os
from typing import Any

from trainer.config import TrainConfig
from trainer.data.examples import describe_example
from trainer.data.inspection import inspect_dataset, without
from trainer.data.records import Dataset
from trainer.model.traits import lacking_token_types, picture_features
from trainer.outcome import ConfigError

SHOWN_EXAMPLES = 3


def check_text_only(config: TrainConfig, dataset: Dataset) -> None:
    """Raises ConfigError for records without a picture beside others where some ranks would wait for the tower."""
    bare = sum(not record.pictures for record in (*dataset.train, *dataset.eval))
    mixed = 0 < bare < len(dataset.train) + len(dataset.eval)
    zero3 = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    # A rank whose batch has no picture skips the tower: its shards, or its adapters' gradients, do not come.
    if mixed and (zero3 or (config.vision == "lora" and config.world_size > 1)):
        what, instead = ("ZeRO-3", "CONFIG=multi_gpu") if zero3 else ("vision=lora on several GPUs", "vision=frozen")
        raise ConfigError(
            f"{bare} records have no picture and the others do, which {what} cannot train together: "
            f"{instead}, or leave them out"
        )


def drop_unfit(processor: Any, dataset: Dataset, config: TrainConfig, ranks: Any, say: Any) -> Dataset:
    """The dataset without what `validate data` leaves out, and says. The first rank alone reads it all.

    Raises:
        ConfigError: on every rank, when too few records are left, or `strict` and any is not.
    """

    def look() -> tuple[dict[str, set[int]], list[str], str]:
        inspection = inspect_dataset(dataset, processor, max_length=config.max_length)
        return inspection.unfit(), inspection.left_out(), inspection.refusal(strict=config.strict)

    unfit, lines, refusal = ranks.from_first(look() if ranks.first else None)
    if refusal:
        raise ConfigError(refusal)
    for line in lines:
        say(f"data: {line}", flush=True)
    return without(dataset, unfit)


def show_examples(processor: Any, encoder: Any, say: Any) -> None:
    """Print what the first samples are to the model: what is masked, what is learned."""
    for index in range(min(SHOWN_EXAMPLES, len(encoder.records))):
        say(f"example {index + 1}\n{describe_example(processor, encoder(index))}", flush=True)


def check_batch(batch: dict[str, Any], base: Any, config: TrainConfig) -> list[tuple[str, str]]:
    """(what, how it is) of a batch and what the tower makes of it, as in the model's contract.

    Raises:
        RuntimeError: token types are lacking, or the tower's features have a gradient when they must not, or none.
    """
    if lacking := lacking_token_types(base, batch):
        raise RuntimeError(f"the batch has no {lacking[0]}: the model would take image tokens for text")
    features = picture_features(base, batch)
    if features is None:
        return [("token types", "present"), ("vision features", "none: the first record has no picture")]
    if features.requires_grad != (config.vision == "lora"):
        raise RuntimeError(
            f"the pictures' features {'have a' if features.requires_grad else 'have no'} gradient with "
            f"vision={config.vision}"
        )
    return [
        ("token types", "present"),
        ("vision features", f"{'with' if features.requires_grad else 'without'} gradient"),
    ]
