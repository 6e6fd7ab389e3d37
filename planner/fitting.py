"""The micro-batch that `find-batch-size` found to fit, kept beside the data for the plan. It is used only for exactly
the bytes, model and request that it was measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.job import FIELDS, JobSpec
from trainer.config import SETTINGS
from trainer.data.lengths import beside, data_digest, write_measured
from trainer.files import once, read_json

# Settings of a request on which no memory depends; the data are compared by their bytes instead.
FREE = ("data", "run_id", "lora_alpha", "max_steps", "learning_rate", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The largest micro-batch that fitted in a test."""

    request: dict[str, Any]
    """The values that the result depends on, see `depends_on`."""
    data_sha256: str
    micro_batch_size: int
    peak_bytes: int
    """The most bytes that any process needed with it."""

    @staticmethod
    def depends_on(spec: JobSpec, label: str) -> dict[str, Any]:
        """The values of a request that the result depends on. `label` is that of the plan's Candidate. The number of
        processes matters only when they share weights."""
        names = ("vram_gib", *(name for name in FIELDS if name in SETTINGS and name not in FREE))
        shards = {"processes": spec.num_processes} if label.startswith("deepspeed") else {}
        return {"config": label, **{name: spec.value(name) for name in names}, **shards}


def batch_path(data: str) -> Path:
    return beside(data, "batch_size.json")


def write_batch(data: str, batch: Batch) -> Path:
    return write_measured(batch_path(data), batch)


def read_batch(spec: JobSpec, data: str) -> Batch | None:
    """The micro-batch that fits this request with the records at `data`; None when this request was not measured."""
    try:
        found = Batch(**once(read_json, batch_path(data)))
        label, sizes = str(found.request["config"]), (found.micro_batch_size, found.peak_bytes)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not all(type(size) is int and size > 0 for size in sizes):
        return None
    same = found.request == Batch.depends_on(spec, label)
    return found if same and found.data_sha256 == once(data_digest, data) else None
