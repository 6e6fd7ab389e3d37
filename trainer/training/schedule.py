"""The learning rate of every step: a linear warm-up to the peak, then half a cosine towards zero."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch.optim.lr_scheduler import LambdaLR


def share_of_peak(step: int, *, warmup: int, steps: int) -> float:
    """The share of the peak learning rate at step `step`, from 0; `warmup` steps come before the step at the peak.

    transformers' own warm-up begins at 0, where a step changes nothing, and is otherwise the same. A warm-up of the
    whole training is shortened so that its last step has the peak.
    """
    warmup = min(warmup, steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def schedule(optimizer: Any, *, warmup_fraction: float, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, partial(share_of_peak, warmup=round(warmup_fraction * steps), steps=steps))
