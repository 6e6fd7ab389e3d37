"""The checks of a run before its first step: refusals, and records that are left out."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from trainer.config import TrainConfig
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset
from trainer.node.ranks import Ranks
from trainer.outcome import ConfigError
from trainer.training.kept_inspection import InspectionResult, inspect_once, one_line


def check_text_only(config: TrainConfig, dataset: Dataset, *, beside: bool = False) -> None:
    """Raises ConfigError for a mix of records with and without pictures when some ranks would wait for the tower, or
    when the model's pictures lie `beside` the text: in a batch with others a text alone would not be what it is."""
    bare = sum(not record.pictures for record in (*dataset.train, *dataset.eval))
    mixed = 0 < bare < len(dataset.train) + len(dataset.eval)
    zero3 = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    # A rank whose batch has no picture skips the tower, so its shards, or its adapters' gradients, never arrive.
    if mixed and beside:
        raise ConfigError(
            f"{bare} records have no picture and the others do, which MODEL={config.model} cannot learn together, as "
            "its pictures lie beside the text: leave one kind out, or take another model"
        )
    if mixed and (zero3 or (config.vision == "lora" and config.world_size > 1)):
        what, instead = ("ZeRO-3", "CONFIG=multi_gpu") if zero3 else ("vision=lora on several GPUs", "vision=frozen")
        raise ConfigError(
            f"{bare} records have no picture and the others do, which {what} cannot train together: "
            f"{instead}, or leave them out"
        )


def drop_unfit(
    processor: Any, dataset: Dataset, config: TrainConfig, ranks: Ranks, say: Callable[[str], object]
) -> tuple[Dataset, list[int]]:
    """(the dataset without the records that `validate data` leaves out, the tokens of each training record), with a log
    line for each reason. The first rank alone reads the records; if an earlier attempt has, nobody does.

    Raises:
        ConfigError: on every rank, when too few records are left, or with `strict` when any is left out.
    """

    def inspect() -> InspectionResult:
        inspection = inspect_dataset(dataset, processor, max_length=config.max_length, answer_field=config.answer_field)
        inspection.kept(strict=config.strict)
        lines = [one_line(line) for line in (*inspection.notes(config.answer_field), *inspection.left_out())]
        tokens = [checked.tokens for checked in inspection.checked["train"] if checked.reason is None]
        return InspectionResult(inspection.apart, inspection.unfit(), lines, tokens)

    result = ranks.rank0_only(partial(inspect_once, config, dataset, inspect, say))
    for line in result.lines:
        say(f"data: {line}")
    return result.kept(dataset, strict=config.strict), result.tokens


def check_shards(model: Any, world_size: int, say: Callable[[str], object]) -> None:
    """Raises RuntimeError when ZeRO-3 silently partitions nothing: at toy size, or with DeepSpeed's own thresholds."""
    adapters = [p for p in model.parameters() if p.requires_grad and hasattr(p, "ds_tensor")]
    if adapters:
        parts = round(min(p.ds_numel / p.ds_tensor.numel() for p in adapters))
        if parts != world_size:
            raise RuntimeError(f"ZeRO-3 keeps 1 of {parts} of an adapter here, not 1 of {world_size}")
        say(f"  {'largest share of an adapter here':<38} 1 of {parts}")
