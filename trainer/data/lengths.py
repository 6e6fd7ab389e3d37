"""Measurements on the data, kept beside it for the plan: lengths by `validate data`, the micro-batch that fits by
`find-batch-size`. Torch-free, because `plan` reads them.

A file is used only for exactly the bytes, the model and the Trainyard version that it was measured with; a plan from
a stale measurement would be worse than a plan for `max_length`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.data.sources import data_files, data_parts
from trainer.files import MIB, MOST_MIB, once, read_json, regular, write_whole

# Files in a model's folder that decide picture sizes, the text around pictures and turns, and tokenization.
PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "image_processor_config.json", "chat_template.jinja",
    "chat_template.json", "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "config.json",
)  # fmt: skip
SAMPLED = 64
PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Measured lengths of the records of a data set, as the tokens of one model."""

    model: str
    """The model as it was given, a hub id or a folder."""
    data_sha256: str
    records: int
    tokens: dict[str, int]
    """Tokens a record, pictures and answer included: p50, p90, p95, p99 and p100, the longest."""
    supervised: dict[str, int]
    """Tokens of the learned answers and their ends of turn, with the same percentiles."""
    learn: str
    """Which answers of a conversation are learned: all or last."""
    pictures: int
    """The largest number of pictures in a record."""
    trainyard: str
    """Trainyard's version, which pins the libraries that turn pictures and text into tokens."""
    processor_sha256: str | None
    """Digest of the files that configure the processor, where `model` is a folder."""
    picture_bytes: dict[str, int]
    """Sizes of at most SAMPLED picture files, by their paths: a login node should not read the sizes of all."""


def lengths_path(data: str) -> Path:
    return beside(data, "lengths.json")


def beside(data: str, name: str) -> Path:
    """The path of `name` in the folder `data`, or beside the file `data`; for several files, beside the first."""
    first, *others = data_parts(data)
    path, name = Path(first), f"and-{len(others)}-more.{name}" if others else name
    return path / name if path.is_dir() else path.with_name(f"{path.name}.{name}")


def data_digest(data: str) -> str:
    """SHA-256 over the files of records, without the pictures: a login node should not read all of them."""
    digest = hashlib.sha256()
    for path in data_files(data):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(MIB):
                content.update(chunk)
        digest.update(path.name.encode() + b"\0" + content.digest())
    return digest.hexdigest()


def processor_digest(model: Path) -> str | None:
    """SHA-256 over PROCESSOR_FILES in the folder `model`; None when `model` is not a folder on this machine."""
    if not model.is_dir():
        return None
    digest = hashlib.sha256()
    for name in PROCESSOR_FILES:
        with contextlib.suppress(OSError):
            with regular(model / name).open("rb") as file:
                content = file.read(MOST_MIB * MIB)  # no model has a longer one
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def sample_pictures(paths: Iterable[Path]) -> dict[str, int]:
    """Sizes in bytes of some of the files at `paths`, spread evenly."""
    ordered = sorted({str(path.absolute()) for path in paths})
    return {path: os.path.getsize(path) for path in ordered[:: -(-len(ordered) // SAMPLED) or 1]}


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """The smallest value that at least p % do not exceed, for each of PERCENTILES."""
    ordered = sorted(values)
    return {f"p{p}": ordered[max(0, -(-p * len(ordered) // 100) - 1)] for p in PERCENTILES}


def write_lengths(data: str, lengths: Lengths) -> Path:
    return write_measured(lengths_path(data), lengths)


def write_measured(path: Path, measured: Any) -> Path:
    write_whole(path, json.dumps(dataclasses.asdict(measured), indent=1) + "\n")
    return path


def read_lengths(data: str, model: str, project_dir: Path = Path(), *, learn: str = "all") -> Lengths | None:
    """The measurement of these bytes with this model; None when there is none, or only one of other bytes or another
    model. A model's folder and pictures that are not on this machine, as when a job runs on another one, are not
    compared. A measurement of all answers also holds for the last answers alone."""
    try:
        found = Lengths(**once(read_json, lengths_path(data)))
        sizes = [found.tokens["p100"], found.supervised["p100"], found.pictures]
        here = {path: os.path.getsize(path) for path in found.picture_bytes if os.path.isfile(path)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        return None
    if not isinstance(found.model, str) or not isinstance(found.picture_bytes, dict):
        return None
    processor = processor_digest(project_dir / model)
    same = (
        found.model.rstrip("/") == model.rstrip("/")
        and found.trainyard == __version__
        and found.learn in ("all", learn)
        and (processor is None or processor == found.processor_sha256)
        and here.items() <= found.picture_bytes.items()
    )
    return found if same and found.data_sha256 == once(data_digest, data) else None
