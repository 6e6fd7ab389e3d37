"""Other names of the settings, from trainer/config.py, and the names that `.env` may hold."""

from __future__ import annotations

from trainer.config import SETTINGS

CONFIG_FILE = "CONFIG_FILE"
LORA = "lora"

# Settings by their names in the environment and in .env, and by their names in other trainers.
ENVIRONMENT: dict[str, str] = {setting.env: name for name, setting in SETTINGS.items() if setting.env} | {"LORA": LORA}
OURS = {other: name for name, setting in SETTINGS.items() for other in setting.also.split()} | ENVIRONMENT
ALLOCATOR, FORMER_ALLOCATOR = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
"""torch's two names of one thing; since 2.9 the first."""
SECRETS = ("HF_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY")
# The names that .env may set, besides WANDB_*; any other is refused, so that .env cannot change how programs are
# found.
ENV_FILE = (
    "HF_TOKEN", "HUGGINGFACE_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", ALLOCATOR, FORMER_ALLOCATOR,
    "TOKENIZERS_PARALLELISM", "ACCELERATE_CONFIG", CONFIG_FILE, *ENVIRONMENT,
)  # fmt: skip

# A value below 1 is a share of the steps, as in transformers 5.
SHARES = {"warmup_steps": "warmup_fraction"}
