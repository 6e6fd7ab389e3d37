"""Turns a run's settings into the arguments of TRL's SFTTrainer."""

from __future__ import annotations

import os

from trl import SFTConfig

from trainer.config import ZERO3_SETTINGS, TrainConfig

# Settings that have the same name in the Trainer.
SAME_NAMES = (
    "output_dir", "gradient_accumulation_steps", "max_steps", "learning_rate", "weight_decay", "max_grad_norm", "seed",
    "logging_steps", "eval_steps", "save_steps",
)  # fmt: skip


def sft_arguments(config: TrainConfig, *, evaluated: bool) -> SFTConfig:
    """The Trainer's arguments; `evaluated` is whether there are records to evaluate during training."""
    on_gpu = config.device == "cuda"
    arguments = SFTConfig(
        **{name: getattr(config, name) for name in SAME_NAMES},
        per_device_train_batch_size=config.micro_batch_size,
        per_device_eval_batch_size=config.micro_batch_size,
        optim={"adamw": "adamw_torch_fused"}.get(config.optimizer, config.optimizer),
        bf16=os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16",
        use_cpu=config.device == "cpu",
        data_seed=config.seed,
        logging_first_step=True,
        eval_strategy="steps" if evaluated else "no",
        # On the CPU the forward pass uses all cores; with an NVIDIA GPU workers decode pictures at the same time.
        dataloader_num_workers=4 if on_gpu else 0,
        dataloader_persistent_workers=on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        gradient_checkpointing=False,  # trainer.model enables it on the language model alone
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        ddp_find_unused_parameters=False,
        # TRL would let a mixture's own forward compute a loss of its frozen routers, which fails behind a cache.
        router_aux_loss_coef=0.0,
        ddp_timeout=config.collective_timeout_s,
    )
    if arguments.deepspeed_plugin is not None:
        # accelerate's YAML refuses these keys, and the plan's memory estimate relies on them.
        arguments.deepspeed_plugin.deepspeed_config["zero_optimization"].update(ZERO3_SETTINGS)
        arguments.deepspeed_plugin.deepspeed_config["zero_force_ds_cpu_optimizer"] = False
    return arguments
