"""The best evaluation is the most accurate, among equals the one with the lowest loss, among those the first."""

from __future__ import annotations

from typing import Any

from trainer.evaluation.best import best_step, evaluations_since_best


def evaluated(*scores: tuple[float | None, float]) -> list[dict[str, Any]]:
    """A history: at steps 1, 2, ... (accuracy or None, loss), each behind the log of a training loss."""
    history: list[dict[str, Any]] = []
    for step, (accuracy, loss) in enumerate(scores, start=1):
        history.append({"step": step, "loss": 0.0})
        known = {} if accuracy is None else {"eval_action_accuracy": accuracy}
        history.append({"step": step, "eval_loss": loss, **known})
    return history


def test_accuracy_decides_then_loss_then_the_earlier_step() -> None:
    history = evaluated((0.5, 1.0), (0.6, 3.0), (0.6, 2.0), (0.6, 2.0), (0.5, 0.1))
    assert (best_step(history), evaluations_since_best(history)) == (3, 2)
    assert best_step(history, among={1, 5}) == 5


def test_without_accuracies_the_loss_decides_and_one_that_is_no_number_never_does() -> None:
    assert best_step(evaluated((None, float("nan")), (None, 2.0), (None, 1.0), (None, 3.0))) == 3


def test_nothing_evaluated_has_no_best() -> None:
    assert (best_step([{"step": 1, "loss": 1.0}]), evaluations_since_best([])) == (None, 0)
    assert best_step(evaluated((0.5, 1.0)), among=()) is None
