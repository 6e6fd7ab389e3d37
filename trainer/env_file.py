"""The project's `.env`: secrets and settings, read inside the job and by the planner, never passed on."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.outcome import ConfigError
from trainer.spellings import CONFIG_FILE, ENVIRONMENT

# What a .env file may set, WANDB_* beside; anything else in it is refused, so that it cannot change how programs are
# found.
ENV_NAMES = (
    "HF_TOKEN", "HUGGINGFACE_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM", "ACCELERATE_CONFIG", CONFIG_FILE, *ENVIRONMENT,
)  # fmt: skip
# NAME=value; the value in quotes, or up to the comment that a space and # begin.
LINE = re.compile(r"""(?:export )?([^=]*)=\s*(?:'([^']*)'.*|"([^"]*)".*|(.*?)(?:\s+#.*)?)""")


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value lines of a `.env` file; {} when there is none.

    Raises:
        ConfigError: a line that is no assignment, or a name that is not one of ours.
    """
    values = {}
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if not found:
            # Not said back: it may be a bare token.
            raise ConfigError(f"{path} line {number}: takes NAME=value, and there is no = in it")
        name = found[1].strip()
        if name not in ENV_NAMES and not re.fullmatch("WANDB_[A-Z_]+", name):
            raise ConfigError(f"{path} line {number}: {name!r} is not one of {', '.join((*ENV_NAMES, 'WANDB_*'))}")
        values[name] = found[2] or found[3] or found[4]
    return {name: value for name, value in values.items() if value}
