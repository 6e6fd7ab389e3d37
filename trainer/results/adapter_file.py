"""Checks the configuration of an adapter before PEFT reads it, because it may come from anybody.

PEFT does much that the file asks for: it imports modules, allocates weights of any rank, matches any expression with
the name of each layer. Trainyard writes plain LoRA configurations, and reads no others.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.files import read_json
from trainer.flags import options
from trainer.node.model_folder import wrong_file
from trainer.outcome import ConfigError
from trainer.text import shown

ADAPTER_FILE = "adapter_config.json"
SETTING_OF = {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
# Keys about the file, not about what PEFT builds.
WORDS = ("base_model_name_or_path", "peft_version", "revision", "inference_mode")
PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM"}
MOST_PATTERN = 1 << 20
# The form that target_pattern writes: alternative paths, in which the number of a layer is \\d+. No other repetition
# and no dot as a wildcard is allowed, because together they can take for ever to match.
PATHS = r"(?:\\\.\\d\+(?=\\\.)|\\[^\w\n]|[\w|-])+"
PLAIN_PATTERN = re.compile(rf"{PATHS}|\(\?!\(\?:{PATHS}\)\$\)\(\?:{PATHS}\)")


def check_adapter(folder: Path) -> None:
    """Raises ConfigError when the adapter asks for more than LoRA as Trainyard trains it."""
    path = folder / ADAPTER_FILE
    if fault := wrong_file(folder):
        raise ConfigError(f"{folder}: {fault}")
    try:
        saved = read_json(path)
        wrong = next(_wrong(saved), None)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if wrong:
        raise ConfigError(f"{path} says {wrong}: Trainyard reads LoRA adapters as it trains them, and no others")


def _wrong(saved: dict[str, Any]) -> Any:
    from peft import LoraConfig

    usual = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(LoraConfig)
    }
    ours = options(TrainConfig)
    for name, value in {"peft_type": None, **saved}.items():
        if setting := SETTING_OF.get(name):
            if type(value) not in (int, float) or ours[setting].read(str(value)) is None:
                yield f"{name} is {shown(str(value))}"
        elif name == "target_modules":
            if not _is_plain(value):
                yield f"{name} is {shown(str(value))}"
        elif name == "peft_type" or value:
            allowed = PLAIN.get(name, usual.get(name))
            if not (isinstance(value, (str, bool)) if name in WORDS else value == allowed):
                yield f"{shown(name)} is {shown(str(value))}"


def _is_plain(modules: object) -> bool:
    """Whether `modules` are names of modules, "all-linear", or one expression as training writes it."""
    if isinstance(modules, list):
        # PEFT compares each name with each layer.
        return all(isinstance(name, str) for name in modules) and sum(map(len, modules)) <= MOST_PATTERN
    return isinstance(modules, str) and len(modules) <= MOST_PATTERN and bool(PLAIN_PATTERN.fullmatch(modules))
