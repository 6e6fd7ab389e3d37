"""Other names of our settings, as trainer/config.py has them, and what `.env` may hold."""

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

# Below 1 it is a share of the steps, as transformers 5 takes it.
SHARES = {"warmup_steps": "warmup_fraction"}
