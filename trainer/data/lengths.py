"""What was measured on the data, kept beside it for the plan: lengths by `validate data`, the micro-batch that fits by
`find-batch-size`. Torch-free: `plan` reads it.

A file is taken only for the very bytes and the very model it was measured with; a plan made from a stale
measurement would be worse than one made for `max_length`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.records import data_files
from trainer.files import write_whole

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    model: str
    """As it was given, a hub id or a folder."""
    data_sha256: str
    records: int
    tokens: dict[str, int]
    """Tokens a record, pictures and answer included: p50, p90, p95, p99 and p100, the longest."""
    supervised: dict[str, int]
    """Tokens of the answer and its end of turn, likewise."""
    pictures: int
    """The most that a record has."""


def lengths_path(data: str) -> Path:
    return beside(data, "lengths.json")


def beside(data: str, name: str) -> Path:
    path = Path(data)
    return path / name if path.is_dir() else path.with_name(f"{path.name}.{name}")


def data_digest(data: str) -> str:
    """SHA-256 over the JSONL file(s); pictures are left out, a login node shall not read them all."""
    digest = hashlib.sha256()
    for path in data_files(data):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """The smallest value that at least p % do not exceed, for each of PERCENTILES."""
    ordered = sorted(values)
    return {f"p{p}": ordered[max(0, -(-p * len(ordered) // 100) - 1)] for p in PERCENTILES}


def write_lengths(data: str, lengths: Lengths) -> Path:
    return write_measured(lengths_path(data), lengths)


def write_measured(path: Path, measured: Any) -> Path:
    write_whole(path, json.dumps(dataclasses.asdict(measured), indent=1) + "\n")
    return path


def read_lengths(data: str, model: str) -> Lengths | None:
    """What was measured for these bytes with this model; None when nothing was, or something else."""
    try:
        found = Lengths(**json.loads(lengths_path(data).read_text(encoding="utf-8")))
        sizes = [found.tokens["p100"], found.supervised["p100"], found.pictures]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        return None
    same = found.model.rstrip("/") == model.rstrip("/")
    return found if same and found.data_sha256 == data_digest(data) else None
