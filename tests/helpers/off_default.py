"""A value of a setting that is not its default: what is tested at defaults alone is not seen to act."""

from __future__ import annotations

from typing import Any

from trainer.config import TrainConfig
from trainer.flags import options


def off_default(name: str) -> Any:
    option, default = options(TrainConfig)[name], options(TrainConfig)[name].default
    if option.kind is bool:
        return not default
    if name == "lora_targets":
        return "attention"  # of names, only those that the model has are taken
    if option.kind is str:
        words = ("another", *option.pattern.split("|"))
        return next(word for word in words if option.read(word) not in (None, default))
    tries = (default + 1, default // 2) if option.kind is int else (default / 2, default + 0.1)
    return next(value for value in tries if value != default and option.read(str(value)) == value)
