"""Other names: of our settings, as trainer/config.py has them, and what is no setting here."""

from __future__ import annotations

from trainer.config import SETTINGS

CONFIG_FILE = "CONFIG_FILE"
LORA = "lora"

# Settings by their names in the environment and in .env, and by their names in other trainers.
ENVIRONMENT: dict[str, str] = {setting.env: name for name, setting in SETTINGS.items() if setting.env} | {"LORA": LORA}
OURS = {other: name for name, setting in SETTINGS.items() for other in setting.also.split()} | ENVIRONMENT
SECRETS = ("HF_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY")
# What .env may set, WANDB_* beside; anything else in it is refused, so that it cannot change how programs are found.
ENV_FILE = (
    "HF_TOKEN", "HUGGINGFACE_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM", "ACCELERATE_CONFIG", CONFIG_FILE, *ENVIRONMENT,
)  # fmt: skip

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
