"""The order in which an epoch shows the records: at random, with records of like length in the same optimizer step.

A micro-batch is padded to its longest record. The records of a few steps are drawn at random, sorted by length and cut
into these steps, which then come in random order. Which records a step learns from depends on the seed, the epoch and
the effective batch alone, never on how it is divided among processes and micro-batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

WINDOW_STEPS = 8  # more steps leave less padding, and fewer ways in which records can meet; benchmarks/padding.py
LEAST_WINDOWS = 4  # of an epoch; the steps of a small set would otherwise be the same in each epoch


def epoch_order(lengths: Sequence[int], *, batch: int, seed: int, epoch: int) -> list[int]:
    """The places of the records of `lengths` (tokens) in the order of that epoch; `batch` is records a step."""
    drawn = random.Random(f"{seed}:{epoch}")
    order = list(range(len(lengths)))
    drawn.shuffle(order)
    window = batch * max(1, min(WINDOW_STEPS, len(order) // (batch * LEAST_WINDOWS)))
    found: list[int] = []
    for start in range(0, len(order), window):
        alike = sorted(order[start : start + window], key=lengths.__getitem__)
        steps = [alike[first : first + batch] for first in range(0, len(alike), batch)]
        last = [steps.pop()] if len(alike) % batch else []  # only the epoch's last step may be smaller
        drawn.shuffle(steps)
        found += [place for step in (*steps, *last) for place in step]
    return found


class LengthGrouped:
    """`epoch_order` as a DataLoader's sampler. `epoch` is set before each epoch."""

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = lengths, batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, batch=self.batch, seed=self.seed, epoch=self.epoch))
