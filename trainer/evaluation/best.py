"""Finds the best evaluated step in the log history, which every checkpoint contains, so nothing else must be kept.
The best step has the highest held-out action accuracy, among equals the lowest held-out loss, then the lowest step.
If actions cannot be scored, only the loss counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]


def best_step(history: Sequence[Entry], among: Collection[int] | None = None) -> int | None:
    """The best evaluated step (of those in `among`, if given); None when no step was evaluated."""
    found = [e for e in history if "eval_loss" in e and (among is None or e["step"] in among)]
    return int(min(found, key=_worse)["step"]) if found else None


def evaluations_since_best(history: Sequence[Entry]) -> int:
    """The number of evaluations after the best one."""
    best = best_step(history)
    return sum(best is not None and "eval_loss" in entry and entry["step"] > best for entry in history)


def _worse(entry: Entry) -> tuple[float, float, int]:
    loss = entry["eval_loss"]
    return -entry.get("eval_action_accuracy", 0.0), math.inf if math.isnan(loss) else loss, entry["step"]
