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

from trainer.job import JobSpec
from trainer.records import data_files

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The largest micro-batch that really fits."""

    request: dict[str, Any]
    """What it depends on, see `depends_on`."""
    data_sha256: str
    micro_batch_size: int
    peak_bytes: int
    """The most that any process needed with it."""

    @staticmethod
    def depends_on(spec: JobSpec, label: str) -> dict[str, Any]:
        """`label` is that of the plan's Candidate. How many processes there are matters where they share weights."""
        names = (
            "model",
            "device",
            "vram_gib",
            "quantization",
            "lora",
            "lora_dropout",
            "vision",
            "max_length",
        )
        shards = {"processes": spec.num_processes} if label.startswith("deepspeed") else {}
        return {
            "config": label,
            **{name: getattr(spec, name) for name in names if hasattr(spec, name)},
            **shards,
        }


def lengths_path(data: str) -> Path:
    return _beside(data, "lengths.json")


def batch_path(data: str) -> Path:
    return _beside(data, "batch_size.json")


def _beside(data: str, name: str) -> Path:
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
    return _write(lengths_path(data), lengths)


def write_batch(data: str, batch: Batch) -> Path:
    return _write(batch_path(data), batch)


def _write(path: Path, measured: Lengths | Batch) -> Path:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(dataclasses.asdict(measured), indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
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


def read_batch(spec: JobSpec, data: str) -> Batch | None:
    """What fits this request with the records at `data`; None when nothing was measured, or for another one."""
    try:
        found = Batch(**json.loads(batch_path(data).read_text(encoding="utf-8")))
        label, sizes = str(found.request["config"]), (found.micro_batch_size, found.peak_bytes)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not all(type(size) is int and size > 0 for size in sizes):
        return None
    same = found.request == Batch.depends_on(spec, label)
    return found if same and found.data_sha256 == data_digest(data) else None
