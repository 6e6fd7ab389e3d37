"""run.json beside a run: what it was asked for and what was decided."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD_NAME = "run.json"


RECORD_ENV = "TRAINYARD_RUN_RECORD"
"""Path of a ready run.json, where nobody but the supervisor can write into the run's folder."""


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    beside = folder / f".{RECORD_NAME}.{os.getpid()}"
    beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    beside.replace(folder / RECORD_NAME)
