"""Names that other trainers, older versions and tutorials use for our settings, translated with a notice."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.config import LORA_PRESETS
from trainer.outcome import ConfigError
from trainer.text import shown

RENAMED: dict[str, str] = {
    "model_name": "model",
    "model_name_or_path": "model",
    "dataset": "data",
    "dataset_path": "data",
    "data_path": "data",
    "image_folder": "image_root",
    "lora_rank": "lora_r",
    "rank": "lora_r",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "model_max_length": "max_length",
    "cutoff_len": "max_length",
    "warmup_ratio": "warmup_fraction",
    "lr": "learning_rate",
    "max_norm": "max_grad_norm",
    "batch_size": "micro_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "train_batch_size": "micro_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_checkpointing": "activation_checkpointing",
    "optim": "optimizer",
    "load_in_4bit": "quantization",
    "random_seed": "seed",
}

# Other words for a value, by our name of the setting.
REWORDED: dict[str, dict[str, str]] = {
    "optimizer": {
        "adamw_torch": "adamw",
        "adamw_torch_fused": "adamw",
        "adamw_hf": "adamw",
        "adamw_8bit": "paged_adamw_8bit",
        "adamw_bnb_8bit": "paged_adamw_8bit",
        "paged_adamw": "paged_adamw_8bit",
    },
    "quantization": {"true": "nf4", "false": "none", "4bit": "nf4"},
}

# What is the same for every run here: the values that say so are dropped with a notice, others refused.
FIXED: dict[str, tuple[tuple[str, ...], str]] = {
    "torch_dtype": (("auto", "bfloat16", "bf16"), "GPUs compute in bf16, adapters are kept in fp32"),
    "dtype": (("auto", "bfloat16", "bf16"), "GPUs compute in bf16, adapters are kept in fp32"),
    "bf16": (("true",), "GPUs compute in bf16, adapters are kept in fp32"),
    "fp16": (("false",), "GPUs compute in bf16, adapters are kept in fp32"),
    "evaluation_strategy": (("steps",), "the held-out loss is computed every eval_steps"),
    "eval_strategy": (("steps",), "the held-out loss is computed every eval_steps"),
    "lr_scheduler_type": (("cosine",), "the schedule is cosine"),
    "attn_implementation": (("sdpa",), "attention is sdpa: others ignore the image mask or need far more memory"),
    "bnb_4bit_quant_type": (("nf4",), "4-bit means NF4"),
    "packing": (("false",), "samples are not packed"),
    "remove_unused_columns": (("false",), "nothing is removed"),
    "report_to": (("wandb", "tensorboard", "all"), "W&B and TensorBoard are always written, W&B offline if need be"),
}  # fmt: skip

REFUSED: dict[str, str] = {
    "num_train_epochs": "runs are counted in optimizer steps: give max_steps",
    "epochs": "runs are counted in optimizer steps: give max_steps",
    "warmup_steps": "give warmup_fraction, the share of max_steps",
    "tokenizer": "the model's own processor is used: leave it out",
    "processing_class": "the model's own processor is used: leave it out",
    "load_in_8bit": "quantization takes nf4 or none",
}
LORA = "lora"


def translate(given: Mapping[str, object], source: str) -> tuple[dict[str, object], list[str]]:
    """(values by today's names, what to tell). `lora` becomes rank and alpha, under whatever says them outright.

    Raises:
        ConfigError: a name that has no counterpart, a value that is not what every run has, one thing said twice.
    """
    values: dict[str, object] = {}
    names: dict[str, str] = {}
    notices: list[str] = []
    for name, value in given.items():
        if name in REFUSED:
            raise ConfigError(f"{source}: {name} is not a setting here: {REFUSED[name]}")
        word = str(value).lower()
        if name in FIXED:
            allowed, reason = FIXED[name]
            if word not in allowed:
                raise ConfigError(f"{source}: {name}={shown(str(value))}: {reason}; leave it out")
            notices.append(f"{source}: {name} is not needed: {reason}")
            continue
        current = RENAMED.get(name, name)
        meant = REWORDED.get(current, {}).get(word, value)
        if current in values:
            raise ConfigError(f"{source}: {names[current]} and {name} are both {current} here: leave one out")
        values[current], names[current] = meant, name
        if (current, meant) != (name, value):
            notices.append(f"{source}: {name}={value} is {current}={meant} here")
    if LORA in values:
        preset = values.pop(LORA)
        if preset not in LORA_PRESETS:
            raise ConfigError(f"{source}: lora takes {' or '.join(LORA_PRESETS)}, got {shown(str(preset))}")
        rank, alpha = LORA_PRESETS[str(preset)]
        values = {"lora_r": rank, "lora_alpha": alpha, **values}
    return values, notices
