"""Records that accelerate repeats so that every process has a whole last batch of an epoch: they count for nothing."""

from __future__ import annotations

from typing import Any

from trainer.data.examples import IGNORED

OWN_ROWS = "own_rows"


def own_rows(rows: int, records: int, *, rank: int, ranks: int) -> int:
    """How many of a rank's `rows` are its own in the last batch of an epoch of so many `records`.

    With several ranks that batch is as large as the others, and all but the last records have been in those.
    """
    left = records % (rows * ranks) if ranks > 1 else 0
    return min(rows, max(0, left - rows * rank)) if left else rows


def without_repeats(batch: dict[str, Any], own: int) -> dict[str, Any]:
    """`batch` with nothing to learn behind its first `own` rows. They stay in it: it runs through the model as the
    others' do, also when none of it is left to count."""
    rows, length = batch["input_ids"].shape
    if own == rows:
        return batch
    counted = batch["loss_positions"] < own * length
    labels = batch["labels"].clone()  # what the Trainer divides the loss by
    labels[own:] = IGNORED
    kept = {name: batch[name][counted] for name in ("loss_positions", "loss_targets")}
    return {**batch, **kept, "labels": labels, OWN_ROWS: own}
