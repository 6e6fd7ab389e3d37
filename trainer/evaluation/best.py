"""Which evaluated step is the best, read off what was logged: it is in every checkpoint, so nothing else is kept.

Best is the highest held-out action accuracy, among equals the lowest held-out loss, among those the earliest. Where
actions cannot be scored the loss alone decides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]


def best_step(history: Sequence[Entry], among: Collection[int] | None = None) -> int | None:
    """The best evaluated step (of those in `among`); None where none was evaluated."""
    found = [e for e in history if "eval_loss" in e and (among is None or e["step"] in among)]
    return int(min(found, key=_worse)["step"]) if found else None


def evaluations_since_best(history: Sequence[Entry]) -> int:
    """Evaluations since the best one."""
    best = best_step(history)
    return sum(best is not None and "eval_loss" in entry and entry["step"] > best for entry in history)


def _worse(entry: Entry) -> tuple[float, float, int]:
    loss = entry["eval_loss"]
    return -entry.get("eval_action_accuracy", 0.0), math.inf if math.isnan(loss) else loss, entry["step"]
