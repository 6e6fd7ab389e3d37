"""Action metrics as pure functions: predicted actions compared with the true ones.

An answer is JSON with the action under one key; an answer that cannot be read counts as wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.answers import UNREADABLE
from trainer.text import format_table

TABLE_ACTIONS = 12
Z_95 = 1.959964  # of the standard normal distribution, two-sided
FEW_ANSWERS = 100  # with so many answers, a 95 % interval reaches at most 10 points to either side


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionMetrics:
    samples: int
    accuracy: float
    """Share of answers with the right action."""
    valid_json: float | None
    """Share of answers that can be read; None for answers that are not JSON."""
    macro_f1: float
    """Unweighted mean F1 over the true actions."""
    majority: str
    majority_accuracy: float
    """The accuracy of always choosing the most frequent true action."""
    per_action: dict[str, dict[str, float]]
    """precision, recall, f1 and count of each true action, most frequent first."""
    confusion: dict[str, dict[str, int]]
    """confusion[truth][prediction], with a column also for each prediction that is no true action and for unreadable
    answers."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a `share` that was seen in `count` independent tries: Wilson's score interval,
    without continuity correction.

    It stays within 0 and 1 and is right for small counts and for shares near 0 and 1. Source: E. B. Wilson, Probable
    inference, the law of succession, and statistical inference, Journal of the American Statistical Association 22
    (1927), 209-212; recommended for small counts by Brown, Cai and DasGupta, Interval estimation for a binomial
    proportion, Statistical Science 16 (2001), 101-133. Without tries nothing is known: (0, 1).
    """
    if count < 1:
        return 0.0, 1.0
    z2 = Z_95**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    reach = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def interval(share: float, count: int) -> str:
    """The 95 % interval of a `share` in words: `98.0 to 100.0%`."""
    low, high = wilson(share, count)
    return f"{100 * low:.1f} to {high:.1%}"


def action_metrics(truths: Sequence[str], predictions: Sequence[str | None], *, in_json: bool = True) -> ActionMetrics:
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
        right, said, true = counts[action, action], predicted_counts[action], true_counts[action]
        shares = {"precision": right / said if said else 0.0, "recall": right / true, "f1": 2 * right / (said + true)}
        per_action[action] = {**shares, "count": true}
    return ActionMetrics(
        samples=len(pairs),
        accuracy=sum(counts[a, a] for a in actions) / len(pairs),
        valid_json=1 - predicted_counts[UNREADABLE] / len(pairs) if in_json else None,
        macro_f1=sum(entry["f1"] for entry in per_action.values()) / len(actions),
        majority=actions[0],
        majority_accuracy=true_counts[actions[0]] / len(pairs),
        per_action=per_action,
        confusion={t: {p: counts[t, p] for p in [*actions, *others]} for t in actions},
    )


def score_table(before: ActionMetrics | None, after: ActionMetrics | None) -> str:
    """The tables that a terminal shows at the end of a run: base model first, the score of always choosing the
    majority, and the scores of each action; empty when nothing was scored."""
    scored = after or before
    if scored is None:
        return ""
    truths = [action for action, entry in scored.per_action.items() for _ in range(int(entry["count"]))]
    always = action_metrics(truths, [scored.majority] * len(truths))
    named = {"base model, zero-shot": before, f"always {scored.majority[:24]!r}": always, "after training": after}
    rows = [[name, f"{m.accuracy:.1%}", f"{m.macro_f1:.2f}"] for name, m in named.items() if m]
    actions = []
    for action, entry in list(scored.per_action.items())[:TABLE_ACTIONS]:
        first = before.per_action.get(action) if before else None
        shares = [f"{entry['precision']:.1%}", f"{entry['recall']:.1%}", f"{entry['f1']:.2f}"]
        actions.append([action[:24], f"{entry['count']:.0f}", *shares, f"{first['f1']:.2f}" if first else "-"])
    more = len(scored.per_action) - TABLE_ACTIONS
    tables = (
        format_table([["", "accuracy", "macro F1"], *rows], rules_before=[1]),
        format_table([["action", "answers", "precision", "recall", "F1", "F1 before"], *actions], rules_before=[1]),
    )
    return "\n\n".join(tables) + (f"\nand {more} rarer actions, in the report" if more > 0 else "")
