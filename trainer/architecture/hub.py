"""What huggingface_hub takes for a model's id and where it keeps what it has downloaded, without importing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from trainer.files import once

HUB_ID = re.compile(r"(?!.*(--|\.\.))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b(?<!\.git)", re.ASCII)


def is_hub_id(model: str) -> bool:
    """Whether the hub could have a model of that name: owner/name, for old models the name alone."""
    return HUB_ID.fullmatch(model) is not None


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps what it has downloaded."""
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or str(Path(home, "hub"))
    return Path(cache).expanduser()


def cached_config(model: str, environ: Mapping[str, str]) -> Path | None:
    """config.json of the revision that `main` names in the hub cache, laid out as huggingface_hub does."""
    repo = hub_cache(environ) / ("models--" + model.replace("/", "--"))
    revision = once(_revision, repo / "refs" / "main")
    config = repo / "snapshots" / (revision or "") / "config.json"
    return config if revision and config.is_file() else None


def _revision(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
