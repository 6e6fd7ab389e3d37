"""TRL's SFTTrainer that can be stopped at any step and goes on as if it had not been.

The Trainer restores optimizer, schedule, random numbers and the samplers' position itself. Added here: commits
that are whole, the open logging window, an evaluation that a stop cut off, and a last step that is not repeated.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from trainer.checkpoint import CheckpointStore
from trainer.export import save_weights
from trainer.stop import Stop

TRAINER_STATE = "trainer_state.json"  # the name under which the Trainer looks for it


class StopAsked(Exception):
    """In the middle of an evaluation."""


class ResumableTrainer(SFTTrainer):
    def __init__(self, *, store: CheckpointStore, stop: Stop, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.store, self.stop = store, stop
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
        scores = [(e["eval_loss"], e["step"]) for e in self.state.log_history if "eval_loss" in e]
        best = min((score for score in scores if score[1] in here), default=None)
        self.store.save(self.state.global_step, self._fill, protect=[best[1]] if best else [])
        self.stop.saved(time.monotonic() - began)

    def _fill(self, folder: Path) -> None:
        save_weights(folder, self)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        torch.save(self.window(), _window_file(folder, self.args.process_index))
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(resume_from_checkpoint, device="cpu")
        unknown = set_peft_model_state_dict(self.model, weights).unexpected_keys
        trained = sum(p.requires_grad for p in self.model.parameters())
        if unknown or len(weights) != trained:
            raise RuntimeError(
                f"{resume_from_checkpoint} holds {len(weights)} adapter tensors for a model with {trained}"
            )

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]
        self._restore()
        if self.state.global_step >= self.state.max_steps:
            self._load_rng_state(self._checkpoint)  # the Trainer would take one step more
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

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

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        if not self.stop.agreed:
            before = _random_state()
            try:
                return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
            except StopAsked:
                _set_random_state(before)
        self._evaluation_owed = True
        self.control.should_save = self.control.should_training_stop = True
        return {}

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        if self.stop.wanted():
            raise StopAsked
        return super().prediction_step(*args, **kwargs)

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
