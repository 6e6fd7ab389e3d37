"""Training records: JSONL in, checked, split by session. Torch-free, so `submit` can refuse bad data at once.

A record is an object with `context`, `question`, `output` and its picture: `image` (one ready image) or
`frames` (four, composed to a 2x2 grid). Paths are relative to the JSONL file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.outcome import ConfigError

REQUIRED_KEYS = ("context", "question", "output")
FORMAT_HINT = (
    'one object a line: {"image": "grid.png"} or {"frames": ["0.png", "1.png", "2.png", "3.png"]}, '
    'with "context", "question" and "output"'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    images: tuple[Path, ...]
    """One ready image, or the four frames of a grid."""
    prompt: str
    answer: str
    session: str
    """Records of one session never fall on both sides of a split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    train: tuple[Record, ...]
    eval: tuple[Record, ...]
    split: str
    """How the two were told apart, in words."""


def load_dataset(data: str, *, eval_fraction: float = 0.1, seed: int = 0) -> Dataset:
    """Read and check every record at `data`: a JSONL file, or a folder with train.jsonl and maybe eval.jsonl.

    Without an eval.jsonl, whole sessions (`metadata.session_id`) are held out, about `eval_fraction` of the
    records, chosen by `seed`; without session ids each record counts as a session of its own.

    Raises:
        ConfigError: the data is missing, empty, malformed (naming the line), or its images are not there.
    """
    path = Path(data)
    if not path.exists():
        raise ConfigError(f"DATA={data} does not exist: give a JSONL file or a folder with train.jsonl")
    train_path, eval_path = (path / "train.jsonl", path / "eval.jsonl") if path.is_dir() else (path, None)
    if not train_path.is_file():
        raise ConfigError(f"DATA={data} is a folder without train.jsonl: give a JSONL file or add it")
    train = _read(train_path)
    if eval_path is not None and eval_path.is_file():
        held_out = _read(eval_path)
        if shared := {r.session for r in train if r.session} & {r.session for r in held_out if r.session}:
            raise ConfigError(
                f"DATA={data} has {len(shared)} session(s) in train.jsonl and eval.jsonl alike, for example "
                f"{min(shared)!r}: move each session to one side"
            )
        return Dataset(train=train, eval=held_out, split="eval.jsonl")
    return _split(train, eval_fraction=eval_fraction, seed=seed)


def check_records(data: str) -> Dataset:
    """`load_dataset` for callers that only want to know whether it would work."""
    return load_dataset(data)


def _read(path: Path) -> tuple[Record, ...]:
    records: list[Record] = []
    images: set[Path] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                # Bytes in, so that a file that is not UTF-8 is reported by line like any other mistake.
                entry = json.loads(line)
            except ValueError as error:
                raise ConfigError(
                    f"{path} line {number} is not JSON ({error}): it takes {FORMAT_HINT}"
                ) from None
            record = _parse(entry, path, number)
            records.append(record)
            images.update(record.images)
    if not records:
        raise ConfigError(f"{path} holds no records: it takes {FORMAT_HINT}")
    if missing := sorted(str(image) for image in images if not image.is_file()):
        shown = ", ".join(missing[:3])
        raise ConfigError(
            f"{path}: {len(missing)} of {len(images)} images are missing, for example {shown}: "
            f"paths are relative to {path.parent}/"
        )
    return tuple(records)


def _parse(entry: Any, path: Path, number: int) -> Record:
    where = f"{path} line {number}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is not an object: it takes {FORMAT_HINT}")
    lacking = [key for key in REQUIRED_KEYS if key not in entry]
    if "image" not in entry and "frames" not in entry:
        lacking.insert(0, "image or frames")
    if lacking:
        raise ConfigError(f"{where} lacks {', '.join(lacking)}: it takes {FORMAT_HINT}")
    for key in REQUIRED_KEYS:
        if not isinstance(entry[key], str):
            raise ConfigError(f"{where}: {key} is {type(entry[key]).__name__}, not a string")
    names = [entry["image"]] if "image" in entry else entry["frames"]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{where}: image takes a path, frames a list of four paths")
    if "image" not in entry and len(names) != 4:
        raise ConfigError(f"{where} has {len(names)} frames: a grid takes four")
    metadata = entry.get("metadata")
    session = str(metadata.get("session_id", "")) if isinstance(metadata, dict) else ""
    return Record(
        images=tuple(path.parent / name for name in names),
        prompt="\n\n".join(part for part in (entry["context"], entry["question"]) if part),
        answer=entry["output"],
        session=session,
    )


def _split(records: Sequence[Record], *, eval_fraction: float, seed: int) -> Dataset:
    """Hold out whole sessions until about `eval_fraction` of the records are."""
    keys = [record.session or f"record {index}" for index, record in enumerate(records)]
    # Ordered by a hash of the name: neither their order in the file nor their names decide.
    order = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    wanted, held_out = eval_fraction * len(records), set[str]()
    counts = Counter(keys)
    taken = 0
    for key in order[:-1]:  # at least one session stays for training
        if taken + counts[key] / 2 > wanted:
            continue
        held_out.add(key)
        taken += counts[key]
        if taken >= wanted:
            break
    sessions = sum(1 for record in records if record.session)
    how = (
        f"{len(held_out)} of {len(order)} sessions held out" if sessions else "single records: no session ids"
    )
    return Dataset(
        train=tuple(r for r, key in zip(records, keys, strict=True) if key not in held_out),
        eval=tuple(r for r, key in zip(records, keys, strict=True) if key in held_out),
        split=how,
    )
