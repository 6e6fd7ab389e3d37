"""TRL's SFTTrainer that can be stopped at any step and goes on as if it had not been.

The Trainer restores optimizer, schedule, random numbers and the samplers' position itself. Added here: commits
that are whole, the open logging window, an evaluation that a stop cut off, a last step that is not repeated, and the
end for lack of progress, which comes when it would have come.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from trainer.model.warm_start import load_weights
from trainer.node.stop import Stop
from trainer.results.export import save_weights
from trainer.training.best import best_step, fruitless
from trainer.training.checkpoint import CheckpointStore, check_manifest

TRAINER_STATE = "trainer_state.json"  # the name under which the Trainer looks for it


class StopAsked(Exception):
    """In the middle of an evaluation."""


class OutOfPatience(Exception):
    """An evaluation that an earlier attempt owed was one too many."""


Measure = Callable[[Callable[[], object]], dict[str, float]]


class ResumableTrainer(SFTTrainer):
    def __init__(self, *, store: CheckpointStore, stop: Stop, measure: Measure, patience: int, **kwargs: Any) -> None:
        """`measure` gives more metrics of an evaluation, by name, and calls what it is given now and then."""
        super().__init__(**kwargs)
        self.store, self.stop, self.measure, self.patience = store, stop, measure, patience
        self.add_callback(_StopAtStep(stop))
        self._checkpoint: str | None = None
        self._restored = False
        self._evaluation_owed = False

    def train_from(self, checkpoint: Path | None) -> Any:
        """`train`, from a checkpoint of the store or from the start. Raises Stopped when the ranks were stopped."""
        self._checkpoint = str(checkpoint) if checkpoint else None
        try:
            trained = self.train(resume_from_checkpoint=self._checkpoint)
        except StopAsked:
            self.stop.leave()
        self.stop.check()
        return trained

    def window(self) -> dict[str, Any]:
        """What has been gathered on this rank since the last log; tensors and numbers only."""
        return {
            "loss": self._tr_loss.cpu(),
            "loss_before": self._total_loss_scalar,
            "last_log": self._globalstep_last_logged,
            "evaluation_owed": self._evaluation_owed,
        }

    def restore_window(self, window: dict[str, Any]) -> None:
        self._tr_loss = window["loss"].to(self.args.device)
        self._total_loss_scalar = window["loss_before"]
        self._globalstep_last_logged = window["last_log"]
        self._evaluation_owed = window["evaluation_owed"]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.store_flos()
        began = time.monotonic()
        here = {*self.store.steps(), self.state.global_step}
        best = best_step(self.state.log_history, here)
        self.store.save(self.state.global_step, self._fill, protect=[] if best is None else [best])
        self.stop.saved(time.monotonic() - began)

    def load_best(self) -> int:
        """Go back to the adapter of the best evaluated step, after training. Returns the step of the one now loaded."""
        step = self.state.global_step
        best = best_step(self.state.log_history, {*self.store.steps(), step})
        best = self.store.ranks.from_first(best)
        if best in (None, step):
            return step
        path = self.store.path(best)
        if fault := self.store.ranks.from_first(check_manifest(path) if self.store.ranks.first else ""):
            self.store.say(f"checkpoint {path} is broken ({fault}): step {step} is kept, not the best one")
            return step
        if self.is_deepspeed_enabled:
            from transformers.integrations.deepspeed import deepspeed_load_checkpoint

            deepspeed_load_checkpoint(self.model_wrapped, str(path), load_module_strict=False)
        else:
            self._load_from_checkpoint(str(path))
        return best

    def _fill(self, folder: Path) -> None:
        save_weights(folder, self)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        torch.save(self.window(), _window_file(folder, self.args.process_index))
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]
        self._restore()
        try:
            if self.state.global_step < self.state.max_steps and not self._out_of_patience():
                return super()._run_epoch(**kwargs)
            self._load_rng_state(self._checkpoint)  # the Trainer would take one step more
        except OutOfPatience:
            pass
        self.control.should_training_stop = True

    def _finalize_training(self, *args: Any) -> Any:
        if self._restore():
            self._load_rng_state(self._checkpoint)  # the last step ended an epoch, and there was none to run
        return super()._finalize_training(*args)

    def _restore(self) -> bool:
        """Whether there was a window to restore. The Trainer clears its own between loading and the first epoch."""
        if self._checkpoint is None or self._restored:
            return False
        self._restored = True
        path = _window_file(Path(self._checkpoint), self.args.process_index)
        self.restore_window(torch.load(path, weights_only=True))
        return True

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if self._evaluation_owed:
            # Here it draws from the random numbers at the same place as in a run that was not stopped.
            super()._evaluate(None, None)
            self._evaluation_owed = False
            if self._out_of_patience():
                raise OutOfPatience

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        if not self.stop.agreed:
            before = _random_state()
            try:
                metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
            except StopAsked:
                _set_random_state(before)
            else:
                if best_step(self.state.log_history) == self.state.global_step:
                    self.control.should_save = True
                if self._out_of_patience():
                    self.control.should_save = self.control.should_training_stop = True
                return metrics
        self._evaluation_owed = True
        self.control.should_save = self.control.should_training_stop = True
        return {}

    def _out_of_patience(self) -> bool:
        since = fruitless(self.state.log_history)
        if not 0 < self.patience <= since:
            return False
        best = best_step(self.state.log_history)
        self.store.say(f"stopped early: {since} evaluations without a better one than that of step {best}")
        return True

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        measured = self.measure(self._pause)
        output.metrics.update({f"eval_{name}": value for name, value in measured.items()})
        return output

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        self._pause()
        return super().prediction_step(*args, **kwargs)

    def _pause(self) -> None:
        if self.stop.wanted():
            raise StopAsked

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:  # the Trainer's is this attempt's losses over this attempt's steps
            logs["train_loss"] = self._total_loss_scalar / max(1, self.state.global_step)
        super().log(logs, start_time)


class _StopAtStep(TrainerCallback):
    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stop.step = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stop.step_began()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True  # whatever the interval: it may be the best
        self.stop.step_ended(state.global_step)
        if self.stop.wanted():
            control.should_save = control.should_training_stop = True


def _window_file(folder: Path, rank: int) -> Path:
    return folder / f"window_{rank}.pt"


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state(state[3])
