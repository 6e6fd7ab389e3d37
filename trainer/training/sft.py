"""TRL's SFTTrainer with fp32 adapters, the supervised head and no synchronisation a step, which can be stopped at any
step and continues as if it had not been stopped.

attempt.py handles the contents of a checkpoint. This file adds three things: an evaluation that a stop cut off is
made up for, a last step is not repeated, and early stopping comes at the same step as without the stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as Table
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from trainer.config import TrainConfig
from trainer.data.order import LengthGrouped
from trainer.data.repeats import OWN_ROWS, own_rows, without_repeats
from trainer.evaluation.best import best_step, evaluations_since_best
from trainer.evaluation.heldout import HeldOut, Scores
from trainer.model.features import FeatureCache
from trainer.model.head import install_supervised_head
from trainer.model.processor import TextProcessor
from trainer.model.warm_start import load_weights
from trainer.node.stop import Stop
from trainer.tracking.throughput import Meter
from trainer.training.arguments import sft_arguments
from trainer.training.attempt import Attempt
from trainer.training.callbacks import Steps
from trainer.training.checkpoint import CheckpointStore
from trainer.training.first_checks import check_shards
from trainer.training.schedule import schedule


class StopAsked(Exception):
    """A stop in the middle of an evaluation."""


class VisionSFTTrainer(SFTTrainer):
    """Takes a finished PeftModel and a collator that adds `loss_positions` and `loss_targets`."""

    # The library's types allow both to be missing.
    model: Any
    train_dataset: Any

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        processor: Any,
        collator: Any,
        sizes: tuple[int, int],
        *,
        store: CheckpointStore,
        stop: Stop,
        callbacks: Sequence[TrainerCallback],
        held_out: HeldOut | None = None,
        features: FeatureCache | None = None,
        lengths: Sequence[int] = (),
    ) -> None:
        """Trains on indices: `sizes` are the collator's (training, held-out) records. `held_out` adds its scores to
        each evaluation; the best evaluation is chosen by their `action_accuracy`. `lengths` are the training records'
        tokens, by which steps are grouped; empty: they are not."""
        batch = config.micro_batch_size * config.gradient_accumulation_steps * config.world_size
        self.order = LengthGrouped(lengths, batch=batch, seed=config.seed) if lengths else None
        adapters = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(
            model=model,
            args=sft_arguments(config, evaluated=sizes[1] > 0),
            data_collator=collator,
            train_dataset=Table.from_dict({"index": range(sizes[0])}),
            eval_dataset=Table.from_dict({"index": range(sizes[0], sum(sizes))}) if sizes[1] else None,
            # A class of the library; for a text model the tokenizer.
            processing_class=processor.tokenizer if isinstance(processor, TextProcessor) else processor,
            callbacks=list(callbacks),
        )
        # TRL casts QLoRA adapters to bf16, which is too coarse for small updates at the end of a schedule.
        for parameter, data in adapters:
            parameter.data = data
        install_supervised_head(model.get_base_model())
        # compute_loss itself divides by the tokens of the whole step.
        self.model_accepts_loss_kwargs = True
        self.stop = stop
        # Without held_out only the loss is computed.
        self.held_out = held_out or HeldOut(processor=processor, records=(), answered=(), field=None, choices=None)
        self.patience, self.warmup_fraction = config.early_stopping_patience, config.warmup_fraction
        self.meter = Meter(config, self.args.device, features)
        self.attempt = Attempt(store, stop, self.meter)
        self._evaluation_owed = False
        self._scored: dict[int, Any] = {}
        """The predictions of the latest evaluation by its step, since the adapter that is kept may be that step's."""
        for standard in (PrinterCallback, ProgressCallback):
            self.remove_callback(standard)
        for callback in (self.meter, Steps(stop, self._begin)):
            self.add_callback(callback)

    def train_from(self, step: int) -> Any:
        """`train`, from the store's checkpoint of `step` or from the start (0). Raises Stopped when the ranks were
        stopped."""
        self.attempt.checkpoint = path = self.attempt.store.path(step) if step else None
        trained = self.train(resume_from_checkpoint=str(path) if path else None)
        self.stop.check()
        return trained

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order or super()._get_train_sampler(train_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule(
                optimizer or self.optimizer, warmup_fraction=self.warmup_fraction, steps=num_training_steps
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of one optimizer step, and the number of tokens learned from them on all ranks."""
        return super().get_batch_samples(map(self._without_repeats, epoch_iterator), num_batches, device)

    def _without_repeats(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch that the dataloader has just returned, without repeated records, so that results do not depend on
        the micro-batch."""
        if not self.accelerator.gradient_state.end_of_dataloader:
            return batch
        # Not accelerate's own remainder: a loader that continues within an epoch has none.
        records = len(self.accelerator.gradient_state.active_dataloader.dataset)
        rows, rank, ranks = len(batch["input_ids"]), self.args.process_index, self.args.world_size
        return without_repeats(batch, own_rows(rows, records, rank=rank, ranks=ranks))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over the answer tokens of the whole optimizer step, all ranks and micro-batches."""
        known = {key: value for key, value in inputs.items() if key not in ("labels", OWN_ROWS)}
        outputs = model(**known)
        if num_items_in_batch is None:  # an evaluation
            tokens = inputs["loss_targets"].numel()
            loss = outputs["loss_sum"] / max(1, tokens)
            self._lost += torch.tensor([outputs["loss_sum"], tokens])
        else:  # DDP averages gradients; the divisor counts all ranks
            loss = outputs["loss_sum"] / num_items_in_batch * self.accelerator.num_processes
        if self.model.training:
            self.meter.count(inputs, outputs["correct"])
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add accuracy, speed and memory of the window since the last training log."""
        if "loss" in logs:
            logs |= self.meter.read(self.accelerator)
        if "train_runtime" in logs:
            logs |= self._totals()
        super().log(logs, start_time)

    def _totals(self) -> dict[str, float]:
        """The totals of all attempts; the Trainer counts only this attempt."""
        steps, seconds, records = self.state.global_step, self.attempt.seconds(), len(self.train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        epochs, rest = divmod(steps, -(-records // batch))
        return {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round((epochs * records + rest * batch) / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
            "train_loss": self._total_loss_scalar / max(1, steps),
        }

    def _begin(self) -> None:
        check_shards(self.model, self.args.world_size, self.attempt.store.say)
        self.stop.step = self.state.global_step
        self.attempt.begin(self)
        self.control.should_training_stop = self.state.global_step >= self.state.max_steps
        if self._evaluation_owed:
            self._evaluate(None, None)
        else:
            self._look_at_progress()

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]
        if not self.control.should_training_stop:  # the Trainer checks only after a step, and would take one more
            if self.order:
                self.order.epoch = kwargs["epoch"]
            super()._run_epoch(**kwargs)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        """An evaluation, which draws no random number of the training; one that a stop cuts off is left to the next
        attempt."""
        device = self.args.device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except StopAsked:
            self._evaluation_owed = True
            self.control.should_save = self.control.should_training_stop = True
            return {}
        self._evaluation_owed = False
        if best_step(self.state.log_history) == self.state.global_step:
            self.control.should_save = True
        self._look_at_progress()
        return metrics

    def _look_at_progress(self) -> None:
        """End the training when `patience` evaluations in a row brought no better one."""
        since = evaluations_since_best(self.state.log_history)
        if 0 < self.patience <= since and self.state.global_step < self.state.max_steps:
            best = best_step(self.state.log_history)
            self.attempt.store.say(f"stopped early: {since} evaluations without a better one than that of step {best}")
            self.control.should_save = self.control.should_training_stop = True

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._lost = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, **kwargs)
        # The Trainer's own loss is a mean over batches, whatever the length of their answers.
        lost, tokens = self.accelerator.reduce(self._lost.to(self.args.device)).tolist()
        metrics = {**(output.metrics or {}), "eval_loss": lost / tokens}
        said = self.held_out.score(self.model, self.accelerator, self._pause)
        self._scored = {self.state.global_step: said}
        if found := self.held_out.metrics(said):
            metrics |= {"eval_action_accuracy": found.accuracy, "eval_macro_f1": found.macro_f1}
        return output._replace(metrics=metrics)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._pause()
        return super().prediction_step(model, self._without_repeats(inputs), *args, **kwargs)

    def _pause(self) -> None:
        if self.stop.wanted():
            raise StopAsked

    def scores(self, step: int) -> Scores:
        """The scores of the present model, which is that of `step`. Collective; raises Stopped."""
        return self.held_out.measure(self.model, self.accelerator, self.stop.check, self._scored.get(step))

    def load_best(self) -> int:
        """Load the adapter of the best evaluated step, after training. Returns the step of the loaded adapter."""
        return self.attempt.load_best(self)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.attempt.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))
