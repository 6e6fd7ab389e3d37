"""TRL's SFTTrainer with three things changed: fp32 adapters, the supervised head, and no sync a step."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback

from trainer.config import ZERO3_SETTINGS, TrainConfig
from trainer.model.head import install_supervised_head
from trainer.tracking.throughput import Meter
from trainer.training.resumable import Measure, ResumableTrainer


class VisionSFTTrainer(ResumableTrainer):
    """Takes a ready PeftModel and a collator that adds `loss_positions` and `loss_targets`."""

    def __init__(self, *, model: Any, run_config: TrainConfig, **kwargs: Any) -> None:
        adapters = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(model=model, **kwargs)
        # TRL casts QLoRA adapters to bf16, too coarse for small updates at the end of a schedule.
        for name, parameter in model.named_parameters():
            if name in adapters:
                parameter.data = adapters[name]
        install_supervised_head(model.get_base_model())
        # compute_loss divides by the tokens of the whole step itself.
        self.model_accepts_loss_kwargs = True
        self.meter = Meter(run_config, self.args.device)
        self.add_callback(self.meter)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over the answer tokens of the whole optimizer step, every rank and micro-batch."""
        inputs = {key: value for key, value in inputs.items() if key != "labels"}
        scored = inputs["loss_targets"].numel()
        outputs = model(**inputs)
        loss = outputs["loss_sum"] / (max(1, scored) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; the divisor counts all ranks
        if self.model.training:
            self.meter.count(inputs, outputs["correct"])
        return (loss, outputs) if return_outputs else loss

    def window(self) -> dict[str, Any]:
        return super().window() | self.meter.state()

    def restore_window(self, window: dict[str, Any]) -> None:
        super().restore_window(window)
        self.meter.restore(window)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add accuracy, speed and memory of the window since the last training log."""
        if "loss" in logs:
            logs |= self.meter.read(self.accelerator)
        super().log(logs, start_time)


class ShardCheck(TrainerCallback):
    """At toy size, or with DeepSpeed's own thresholds, ZeRO-3 quietly partitions nothing."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        shards = [
            p.ds_numel / p.ds_tensor.numel() for p in model.parameters() if p.requires_grad and hasattr(p, "ds_tensor")
        ]
        if not shards:
            return
        parts = round(min(shards))
        if parts != args.world_size:
            raise RuntimeError(f"ZeRO-3 keeps 1 of {parts} of an adapter here, not 1 of {args.world_size}")
        if state.is_world_process_zero:
            print(f"  {'largest share of an adapter here':<38} 1 of {parts}", flush=True)


def build_trainer(
    config: TrainConfig,
    model: Any,
    processor: Any,
    sizes: tuple[int, int],
    collator: Any,
    callbacks: list[Any],
    store: Any,
    stop: Any,
    measure: Measure = lambda between: {},
) -> Any:
    """The SFTTrainer for this run, over indices: `sizes` are the collator's (training, held-out) records.

    `measure` adds metrics to each evaluation; the best one is chosen by its `action_accuracy`.
    """
    from datasets import Dataset as Table
    from transformers import PrinterCallback, ProgressCallback
    from trl import SFTConfig

    on_cpu = config.device == "cpu"
    arguments = SFTConfig(
        output_dir=config.output_dir,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup_fraction * config.max_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim={"adamw": "adamw_torch_fused"}.get(config.optimizer, config.optimizer),
        bf16=os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16",
        use_cpu=on_cpu,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        eval_strategy="steps" if sizes[1] else "no",
        eval_steps=config.eval_steps,
        per_device_eval_batch_size=config.micro_batch_size,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=config.save_steps,
        report_to="none",
        # On the CPU the forward pass has all cores; on a GPU workers decode pictures meanwhile.
        dataloader_num_workers=0 if on_cpu else 4,
        dataloader_persistent_workers=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        gradient_checkpointing=False,  # trainer.model has it on the language model alone
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        ddp_find_unused_parameters=False,
        ddp_timeout=config.collective_timeout_s,
    )
    if arguments.deepspeed_plugin is not None:
        # accelerate's YAML refuses these keys, and the plan's memory estimate counts on them.
        arguments.deepspeed_plugin.deepspeed_config["zero_optimization"].update(ZERO3_SETTINGS)
        arguments.deepspeed_plugin.deepspeed_config["zero_force_ds_cpu_optimizer"] = False
    trainer = VisionSFTTrainer(
        model=model,
        run_config=config,
        store=store,
        stop=stop,
        measure=measure,
        patience=config.early_stopping_patience,
        args=arguments,
        data_collator=collator,
        train_dataset=Table.from_dict({"index": list(range(sizes[0]))}),
        eval_dataset=Table.from_dict({"index": list(range(sizes[0], sum(sizes)))}) if sizes[1] else None,
        processing_class=processor,
        callbacks=[*callbacks, ShardCheck()],
    )
    for standard in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(standard)
    return trainer
