"""Files that are there whole or not at all, and the one in a run's folder that says what was asked for and decided."""

from __future__ import annotations

import os
from pathlib import Path

RECORD_NAME = "run.json"
METRICS_FILE = "metrics.json"
"""Written when all else of a run is there but the report."""
RECORD_ENV = "TRAINYARD_RUN_RECORD"
"""Path of a ready run.json, where nobody but the supervisor can write into the run's folder."""


def write_whole(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename: a reader finds all of it, or what was there before. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
