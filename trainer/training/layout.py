"""The facts by which a checkpoint is compared: the settings that losses and scores depend on, the base model, the
records."""

from __future__ import annotations

from dataclasses import MISSING

from trainer.config import SETTINGS, TrainConfig
from trainer.flags import options

Layout = dict[str, float | str]
COMPARED = tuple(name for name, setting in SETTINGS.items() if not setting.continues)
# Older versions had these settings and did not compare them: a manifest that does not name them says nothing of them.
ONCE_FREE = ("device", "init_adapter")
# What older versions did, where it is not today's default.
ONCE = {"group_lengths": False}


def layout_of(config: TrainConfig, *, model: str, data: str, records: int) -> Layout:
    """The facts that must be the same to continue a checkpoint exactly and to compare its scores. `model` is the base
    by its name, without the owner, which differs for a mirror; `data` the digest of the files."""
    told: Layout = {name: getattr(config, name) for name in COMPARED}
    shown = {"model": model.rpartition("/")[2], "data": data[:12], "processes": told.pop("world_size")}
    return {**told, **shown, "training records": records}


def defaults() -> Layout:
    """The settings of a checkpoint whose manifest does not name them: an older version had only these values."""
    found = {name: options(TrainConfig)[name].default for name in COMPARED if name not in ONCE_FREE}
    return {name: default for name, default in (found | ONCE).items() if default is not MISSING}
