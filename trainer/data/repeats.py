"""Ignores the records that accelerate repeats so that every process has a full last batch of an epoch."""

from __future__ import annotations

from typing import Any

from trainer.data.tensors import IGNORED

OWN_ROWS = "own_rows"


def own_rows(rows: int, records: int, *, rank: int, ranks: int) -> int:
    """How many of a rank's `rows` are new in the last batch of an epoch of `records` records; the others are repeats.

    With several ranks that batch is as large as the others, and all but its last records were already in earlier
    batches.
    """
    left = records % (rows * ranks) if ranks > 1 else 0
    return min(rows, max(0, left - rows * rank)) if left else rows


def without_repeats(batch: dict[str, Any], own: int) -> dict[str, Any]:
    """`batch` with nothing to learn behind its first `own` rows. The repeated rows stay in it, so that the batch runs
    through the model as on the other ranks, even when none of its rows counts."""
    rows, length = batch["input_ids"].shape
    if own == rows:
        return batch
    counted = batch["loss_positions"] < own * length
    labels = batch["labels"].clone()  # the Trainer divides the loss by their number
    labels[own:] = IGNORED
    kept = {name: batch[name][counted] for name in ("loss_positions", "loss_targets")}
    return {**batch, **kept, "labels": labels, OWN_ROWS: own}
