"""The state that one attempt at a run takes from its checkpoint, and the state that it saves.

The Trainer itself restores optimizer, schedule, random numbers and the samplers' position. This file adds complete
commits, the open logging window, the time of earlier attempts, and the return to the best adapter.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerState, TrainingArguments

from trainer.evaluation.best import best_step
from trainer.model.warm_start import load_weights
from trainer.node.stop import Stop
from trainer.results.export import save_weights
from trainer.tracking.throughput import Meter
from trainer.training.checkpoint import CheckpointStore

TRAINER_STATE = "trainer_state.json"  # the Trainer looks for this name
# The Trainer's sums on this rank since the last log, and the evaluation that a stop cut off.
WINDOW = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_evaluation_owed")


class Trained(Protocol):
    """What a checkpoint needs of transformers' Trainer, and the Trainer of a checkpoint. Names with an underscore are
    private to the Trainer; the exact pin in pyproject.toml makes them reliable."""

    args: TrainingArguments
    state: TrainerState
    model: Any
    model_wrapped: Any
    is_deepspeed_enabled: bool
    _tr_loss: Any

    def store_flos(self) -> None: ...
    def _save_optimizer_and_scheduler(self, output_dir: Any) -> None: ...
    def _save_rng_state(self, output_dir: Any) -> None: ...


class Attempt:
    def __init__(self, store: CheckpointStore, stop: Stop, meter: Meter) -> None:
        self.store, self.stop, self.meter = store, stop, meter
        self.checkpoint: Path | None = None
        """The checkpoint to continue from."""
        self._began = self._earlier_s = 0.0

    def begin(self, trainer: Trained) -> None:
        """Restore the state that the checkpoint holds beside the Trainer's own, which is loaded already."""
        self._began = time.monotonic()
        if self.checkpoint:
            path = _window_file(self.checkpoint, trainer.args.process_index)
            window = torch.load(path, map_location="cpu", weights_only=True)
            self.meter.restore(window.pop("meter"))
            self._earlier_s = window.pop("seconds", 0.0)  # a checkpoint of version 0.1.0 has no such entry
            vars(trainer).update({name: window[name] for name in WINDOW})
            trainer._tr_loss = trainer._tr_loss.to(trainer.args.device)

    def seconds(self) -> float:
        """Seconds of training so far, with those of earlier attempts up to the checkpoint that this attempt
        continues."""
        return self._earlier_s + time.monotonic() - self._began

    def save(self, trainer: Trained) -> None:
        """Commit a checkpoint. Raises CheckpointError on every rank when it failed on any."""
        trainer.store_flos()
        began = time.monotonic()
        self.store.save(trainer.state.global_step, partial(self._fill, trainer), protect=self._best(trainer))
        self.stop.saved(time.monotonic() - began)

    def _fill(self, trainer: Trained, folder: Path) -> None:
        save_weights(folder, trainer)
        trainer._save_optimizer_and_scheduler(str(folder))
        trainer._save_rng_state(str(folder))
        window = {name: getattr(trainer, name) for name in WINDOW} | {
            "meter": self.meter.state(), "seconds": self.seconds(),
        }  # fmt: skip
        torch.save(window, _window_file(folder, trainer.args.process_index))
        if trainer.args.should_save:
            trainer.state.save_to_json(str(folder / TRAINER_STATE))

    def _best(self, trainer: Trained) -> int | None:
        """The best evaluated step among those whose adapters exist: in the store, or in memory."""
        return best_step(trainer.state.log_history, {*self.store.steps(), trainer.state.global_step})

    def load_best(self, trainer: Trained) -> int:
        """Load the adapter of the best evaluated step, after training. Returns the step of the loaded adapter."""
        step = trainer.state.global_step
        best = self.store.ranks.rank0_only(partial(self._best, trainer))
        if best is None or best == step:
            return step
        path = self.store.path(best)
        if fault := self.store.ranks.rank0_only(partial(self.store.fault, path)):
            self.store.say(f"checkpoint {path} is broken ({fault}): step {step} is kept, not the best one")
            return step
        if trainer.is_deepspeed_enabled:
            from transformers.integrations.deepspeed import deepspeed_load_checkpoint

            deepspeed_load_checkpoint(trainer.model_wrapped, str(path), load_module_strict=False)
        else:
            load_weights(trainer.model, path)
        return best


def _window_file(folder: Path, rank: int) -> Path:
    return folder / f"window_{rank}.pt"
