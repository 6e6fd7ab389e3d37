"""Files that are there whole or not at all, and the one in a run's folder that says what was asked for and decided.

Whoever may write into a folder of runs can leave a symbolic link under a name that a run will write to. None is
followed: what we write takes a link's place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RECORD_NAME = "run.json"
METRICS_FILE = "metrics.json"
"""Written when all else of a run is there but the report."""
ADAPTER = "adapter"
"""The folder of the weights in a run's."""
USAGE_FILE = "trainyard.json"
"""Beside weights: how they are asked."""
EXAMPLE_FILE = "example.jsonl"
"""One record of a run, to ask its adapter about."""
RECORD_ENV = "TRAINYARD_RUN_RECORD"
"""Path of a ready run.json, where nobody but the supervisor can write into the run's folder."""


# No file of ours nests deeper than 10; where json itself gives up, Python's stack is full for whatever comes after.
MOST_DEPTH = 64


def parse_json(text: str) -> Any:
    """Raises ValueError for whatever cannot be used, what nests too deep too: one damaged record harms no other."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"it nests deeper than {MOST_DEPTH} levels") from None
    level = [found]
    for _ in range(MOST_DEPTH):
        nested = [value for value in level if isinstance(value, (dict, list))]
        level = [part for value in nested for part in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise ValueError(f"it nests deeper than {MOST_DEPTH} levels")
    return found


def read_json(path: Path) -> Any:
    """Raises OSError, ValueError."""
    return parse_json(path.read_text(encoding="utf-8"))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then rename: a reader finds all of it, or what was there before. Makes the folder,
    and takes the place of a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        with beside.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def without_links(folder: Path) -> Path:
    """`folder`, made, and neither a link nor with one in it: for libraries that write whatever files they like."""
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()
    return folder
