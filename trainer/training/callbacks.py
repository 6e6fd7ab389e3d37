"""A callback that reports each of the Trainer's steps to the stop, and ends the training when the stop asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.node.stop import Stop


class Steps(TrainerCallback):
    """`begin` is called once, after the Trainer has loaded its part of a checkpoint and cleared the logging window."""

    def __init__(self, stop: Stop, begin: Callable[[], object]) -> None:
        self._stop, self._begin = stop, begin

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._begin()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop.step_began()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop.step_ended(state.global_step)
        if state.global_step >= state.max_steps:  # at any logging interval, a curve should end at the last step
            control.should_log = True
        if self._stop.wanted():
            control.should_save = control.should_training_stop = True
