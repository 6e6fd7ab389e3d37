"""The project's `.env`: secrets and settings, read inside the job and by the planner, never passed on."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.outcome import ConfigError
from trainer.settings import CONFIG_FILE, ENVIRONMENT

# What a .env file may set; anything else in it is refused, so that it cannot change how programs are found.
ENV_NAMES = re.compile(
    "HF_TOKEN|HUGGINGFACE_TOKEN|HF_HOME|HF_HUB_OFFLINE|WANDB_[A-Z_]+|CUDA_VISIBLE_DEVICES|"
    "PYTORCH_CUDA_ALLOC_CONF|TOKENIZERS_PARALLELISM|ACCELERATE_CONFIG|" + "|".join((CONFIG_FILE, *ENVIRONMENT))
)


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value lines of a `.env` file; {} when there is none.

    Raises:
        ConfigError: a line that is no assignment, or a name that is not one of ours.
    """
    if not path.is_file():
        return {}
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.removeprefix("export ").partition("=")
        if not equals:
            # Not said back: it may be a bare token.
            raise ConfigError(f"{path} line {number}: takes NAME=value, and there is no = in it")
        if not ENV_NAMES.fullmatch(name.strip()):
            known = ENV_NAMES.pattern.replace("[A-Z_]+", "*").replace("|", ", ")
            raise ConfigError(f"{path} line {number}: {name.strip()!r} is not one of {known}")
        values[name.strip()] = _unquoted(value.strip())
    return {name: value for name, value in values.items() if value}


def _unquoted(text: str) -> str:
    """A value without its quotes, or without the comment that a space and # begin."""
    if text[:1] in ("'", '"') and (end := text.find(text[0], 1)) > 0:
        return text[1:end]
    return re.split(r"\s#", text, maxsplit=1)[0].strip()
