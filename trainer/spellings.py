"""Names for our settings: those of the environment, and what other trainers, older versions and tutorials say."""

from __future__ import annotations

CONFIG_FILE = "CONFIG_FILE"
LORA = "lora"

# Names of the environment and of .env.
ENVIRONMENT: dict[str, str] = {
    "MODEL_NAME": "model", "GRID_DATASET_PATH": "data", "OUTPUT_DIR": "output_dir", "IMAGE_ROOT": "image_root",
    "MAX_STEPS": "max_steps", "BATCH_SIZE": "micro_batch_size", "GRAD_ACCUM": "gradient_accumulation_steps",
    "LEARNING_RATE": "learning_rate", "MAX_LENGTH": "max_length", "LORA": LORA,
}  # fmt: skip
SECRETS = ("HF_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY")
# What .env may set, WANDB_* beside; anything else in it is refused, so that it cannot change how programs are found.
ENV_FILE = (
    "HF_TOKEN", "HUGGINGFACE_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM", "ACCELERATE_CONFIG", CONFIG_FILE, *ENVIRONMENT,
)  # fmt: skip

# Other names by ours.
RENAMED: dict[str, str] = {
    "model": "model_name model_name_or_path", "data": "dataset dataset_path data_path",
    "max_length": "max_seq_length max_seq_len model_max_length cutoff_len",
    "micro_batch_size": "batch_size per_device_train_batch_size train_batch_size",
    "gradient_accumulation_steps": "grad_accum", "activation_checkpointing": "gradient_checkpointing",
    "lora_r": "lora_rank rank", "image_root": "image_folder", "warmup_fraction": "warmup_ratio", "optimizer": "optim",
    "quantization": "load_in_4bit", "learning_rate": "lr", "max_grad_norm": "max_norm", "seed": "random_seed",
}  # fmt: skip
OURS = {other: name for name, others in RENAMED.items() for other in others.split()} | ENVIRONMENT

# Other words for a value, by our name of the setting.
REWORDED: dict[str, dict[str, str]] = {
    "quantization": {"true": "nf4", "false": "none", "4bit": "nf4"},
    "optimizer": dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw")
    | dict.fromkeys(("paged_adamw", "adamw_8bit", "adamw_bnb_8bit"), "paged_adamw_8bit"),
}

# No settings here: (the values that say what every run has, which are dropped with a notice; why others are refused).
BF16 = "GPUs compute in bf16, adapters are kept in fp32"
EVERY = "the held-out loss is computed every eval_steps"
EPOCHS = "runs are counted in optimizer steps: give max_steps"
PROCESSOR = "the model's own processor is used"
NEEDLESS: dict[str, tuple[str, str]] = {
    "torch_dtype": ("auto bfloat16 bf16", BF16), "dtype": ("auto bfloat16 bf16", BF16),
    "bf16": ("true", BF16), "fp16": ("false", BF16), "lr_scheduler_type": ("cosine", "the schedule is cosine"),
    "evaluation_strategy": ("steps", EVERY), "eval_strategy": ("steps", EVERY),
    "attn_implementation": ("sdpa", "attention is sdpa: others ignore the image mask or need far more memory"),
    "bnb_4bit_quant_type": ("nf4", "4-bit means NF4"), "load_in_8bit": ("false", "quantization takes nf4 or none"),
    "packing": ("false", "samples are not packed"), "remove_unused_columns": ("false", "nothing is removed"),
    "report_to": ("wandb tensorboard all", "W&B and TensorBoard are always written, W&B offline if need be"),
    "num_train_epochs": ("", EPOCHS), "epochs": ("", EPOCHS),
    "warmup_steps": ("", "give warmup_fraction, the share of max_steps"),
    "tokenizer": ("", PROCESSOR), "processing_class": ("", PROCESSOR),
}  # fmt: skip
