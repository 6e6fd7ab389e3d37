"""The form of a hub model id and the place of the hub's cache, as huggingface_hub has them, without importing it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from trainer.files import once, read_typed

HUB_ID = re.compile(r"(?!.*(--|\.\.))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b(?<!\.git)", re.ASCII)


def is_hub_id(model: str) -> bool:
    """Whether `model` is a possible hub id: owner/name, for old models the name alone."""
    return HUB_ID.fullmatch(model) is not None


def hub_cache(environ: Mapping[str, str]) -> Path:
    """The folder in which huggingface_hub keeps its downloads."""
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or str(Path(home, "hub"))
    return Path(os.path.expanduser(cache))


def cached_config(model: str, environ: Mapping[str, str]) -> Path | None:
    """The path of config.json for the revision `main` in the hub cache; None when that revision is not cached."""
    repo = hub_cache(environ) / ("models--" + model.replace("/", "--"))
    revision = once(_revision, repo / "refs" / "main")
    config = repo / "snapshots" / (revision or "") / "config.json"
    return config if revision and config.is_file() else None


def _revision(path: Path) -> str | None:
    try:
        return read_typed(path).decode().strip()
    except (OSError, ValueError):
        return None
