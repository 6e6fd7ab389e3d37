"""The progress of a training for a person who watches: a permanent line for every log and every evaluation, at a
terminal a bar in its last row, and progress.json, which `status` reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from trainer.evaluation.best import best_step
from trainer.progress_file import EVALUATING, TRAINING, ProgressWriter
from trainer.start_clock import CLOCK
from trainer.terminal import LAST_ROW, say
from trainer.text import time_left


class Progress(TrainerCallback):
    """Prints only on the first rank."""

    def __init__(self, written: ProgressWriter) -> None:
        self._written = written

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started, self._first_step = time.monotonic(), state.global_step
        self._written.phase(TRAINING, step=state.global_step, of=state.max_steps)
        self._measured: tuple[str, ...] = ()
        self._batch = 0
        self._draw(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and state.global_step == self._first_step + 1:
            say(CLOCK.first_step())
        self._written.note(
            step=state.global_step, epoch=state.epoch, step_at=time.time(), seconds_per_step=self._step_s(state)
        )
        self._draw(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or "loss" not in logs:
            return
        loss, accuracy = logs["loss"], logs["mean_token_accuracy"]
        self._written.log(loss=loss, learning_rate=logs["learning_rate"], token_accuracy=accuracy)
        speed = logs["samples_per_second"]
        self._measured = (
            f"loss {loss:.3f}", f"token acc. {accuracy:4.0%}", f"{speed:{'.0f' if speed >= 10 else '.2g'}} samples/s",
        )  # fmt: skip
        say(
            f"{_step(state)}  loss {loss:.4f}  token accuracy {accuracy:6.1%}"
            f"  lr {logs['learning_rate']:.2e}  left {self._left(state)}"
        )
        self._draw(state)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            self._written.phase(EVALUATING)
            self._batch += 1
            count = len(eval_dataloader)
            LAST_ROW.show("held-out loss", self._batch / count, f"{self._batch}/{count}")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        self._batch = 0
        if state.is_world_process_zero and metrics:
            best = best_step(state.log_history)
            accuracy = metrics.get("eval_action_accuracy")
            self._written.phase(TRAINING, action_accuracy=accuracy)
            say(
                f"{_step(state)}  held-out loss {metrics['eval_loss']:.4f}"
                f"{'' if accuracy is None else f'  accuracy {accuracy:.1%}'}"
                f"  {'best so far' if best == state.global_step else f'best: step {best}'}"
            )
            self._draw(state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._written.phase(TRAINING)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        LAST_ROW.clear()

    def _draw(self, state: Any) -> None:
        if state.is_world_process_zero:
            done = state.global_step > self._first_step
            left = f"left {self._left(state)}" if done else ""
            LAST_ROW.show(_step(state), state.global_step / state.max_steps, left, *self._measured)

    def _left(self, state: Any) -> str:
        """The time that the remaining steps take, at the pace of this attempt."""
        return time_left(self._step_s(state) * (state.max_steps - state.global_step))

    def _step_s(self, state: Any) -> float:
        """Seconds a step of this attempt, evaluations and saving included."""
        return (time.monotonic() - self._started) / max(1, state.global_step - self._first_step)


def _step(state: Any) -> str:
    return f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
