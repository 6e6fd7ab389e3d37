"""Action metrics from answers, as pure functions: what was said against what was right.

An answer is JSON with the action under one key; an answer that cannot be read counts as wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

UNREADABLE = "(unreadable)"


def answer_field(answers: Sequence[str], asked: str = "auto") -> str | None:
    """The key that holds the action: `asked`, or the first key of the first JSON answer; None for plain text."""
    if asked != "auto":
        return asked
    for answer in answers:
        entry = json_object(answer)
        if entry:
            return next(iter(entry))
    return None


def read_action(answer: str, field: str | None) -> str | None:
    """The action in an answer; the whole stripped text when the answers are no JSON; None when unreadable."""
    if field is None:
        return answer.strip()
    entry = json_object(answer)
    return str(entry[field]) if entry and field in entry else None


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is; None for anything else."""
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionMetrics:
    samples: int
    accuracy: float
    """Share of answers whose action is the right one."""
    valid_json: float
    """Share of answers that can be read at all."""
    macro_f1: float
    """Mean F1 over the actions that occur in the truth, each counting alike."""
    majority: str
    majority_accuracy: float
    """What always giving the most frequent true action would reach."""
    per_action: dict[str, dict[str, float]]
    """precision, recall, f1 and count of each true action, most frequent first."""
    confusion: dict[str, dict[str, int]]
    """confusion[truth][prediction]; predictions beyond the known actions and unreadable ones have a column too."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def action_metrics(truths: Sequence[str], predictions: Sequence[str | None]) -> ActionMetrics:
    """Metrics of `predictions` (None: unreadable) against `truths`, pairwise.

    Raises:
        ValueError: nothing to score, or not as many predictions as truths.
    """
    pairs = [(t, UNREADABLE if p is None else p) for t, p in zip(truths, predictions, strict=True)]
    if not pairs:
        raise ValueError("no answers to score")
    counts = Counter(pairs)
    true_counts = Counter(truth for truth, _ in pairs)
    predicted_counts = Counter(prediction for _, prediction in pairs)
    actions = [action for action, _ in true_counts.most_common()]
    others = sorted(set(predicted_counts) - set(actions))
    per_action = {}
    for action in actions:
        right = counts[action, action]
        precision = right / predicted_counts[action] if predicted_counts[action] else 0.0
        recall = right / true_counts[action]
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        per_action[action] = {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "count": true_counts[action],
        }
    return ActionMetrics(
        samples=len(pairs),
        accuracy=sum(counts[a, a] for a in actions) / len(pairs),
        valid_json=1 - predicted_counts[UNREADABLE] / len(pairs),
        macro_f1=sum(entry["f1"] for entry in per_action.values()) / len(actions),
        majority=actions[0],
        majority_accuracy=true_counts[actions[0]] / len(pairs),
        per_action=per_action,
        confusion={t: {p: counts[t, p] for p in [*actions, *others]} for t in actions},
    )
