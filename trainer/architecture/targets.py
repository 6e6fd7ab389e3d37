"""Which linears of the language model get an adapter: the setting `lora_targets`, read alike by plan and trainer.

A linear is known by its path in the language model, `layers.N.self_attn.q_proj` for those of all layers. The names of
its parts are the model's own; `python -m trainer layers` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainer.outcome import ConfigError
from trainer.text import nearest

ALL, ATTENTION = "all", "attention"


def is_target(path: str, targets: str) -> bool:
    """Whether the linear at `path` gets an adapter: `targets` names it, or a part that it lies in."""
    parts = path.split(".")
    return any(_names(target, parts) for target in targets.split(","))


def _names(target: str, parts: list[str]) -> bool:
    if target == ATTENTION:
        return any("attn" in part or ATTENTION in part for part in parts)
    return target == ALL or target in parts


def check_targets(paths: Iterable[str], targets: str) -> None:
    """Raises ConfigError for `targets` that name no linear at these `paths`."""
    paths = tuple(paths)
    idle = [target for target in targets.split(",") if not any(is_target(path, target) for path in paths)]
    if not idle:
        return
    known = tuple(dict.fromkeys(part for path in paths for part in path.split(".")[-2:] if part != "N"))
    raise ConfigError(
        f"no linear of the language model is, or lies in, {', '.join(idle)}{nearest(idle[0], known)}",
        name="LORA_TARGETS",
        given=targets,
        advice=f"take {ALL}, or some of {', '.join(known)}",
    )
