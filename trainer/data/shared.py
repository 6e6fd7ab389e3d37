"""Reads the records of a run once a node: the first rank reads the files and writes an index, which the other ranks
read in a tenth of the time.

The index lies in the folder that the supervisor made for this attempt on this node alone. It is guarded by a lock
that the kernel releases when the holder ends, for whatever reason; the next rank then does the work. If the folder
supports no lock or has no room for the index, each rank reads the files itself, all at the same time: one after
another they would be late.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from trainer.config import TrainConfig
from trainer.data.bounds import BOUNDS
from trainer.data.records import Dataset, dataset_of
from trainer.data.turns import Record, Turn, picture_of
from trainer.outcome import ATTEMPT_DIR_ENV, ConfigError

INDEX, LOCK, PART = "records.jsonl", "records.lock", ".part"
ALONE = "records.alone"
"""Name of an empty file that exists when the index cannot be written."""


def node_dataset(config: TrainConfig, environ: Mapping[str, str]) -> Dataset:
    """As `dataset_of`, but one rank of this node reads for all. Raises the same ConfigError on each of them."""
    folder = environ.get(ATTEMPT_DIR_ENV)
    if not folder or environ.get("LOCAL_WORLD_SIZE", "1") == "1":
        return dataset_of(config)
    BOUNDS.megapixels = config.max_image_megapixels
    path = Path(folder, INDEX)
    lock = _locked(Path(folder, LOCK))
    if lock is None:
        return dataset_of(config)
    with lock:
        if not path.is_file() and not path.with_name(ALONE).exists():
            return _read_first(config, path)
    return read_index(path) if path.is_file() else dataset_of(config)


def _locked(path: Path) -> IO[str] | None:
    """The file at `path` once no other rank holds it; None when the file system has no locks, or no room."""
    with ExitStack() as opened:
        try:
            lock = opened.enter_context(path.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            return None
        opened.pop_all()
        return lock


def _read_first(config: TrainConfig, path: Path) -> Dataset:
    """The result of `dataset_of`, which is also written to `path`, or else its refusal."""
    try:
        dataset = dataset_of(config)
    except ConfigError as error:
        _write(path, iter([{"refused": vars(error)}]))
        raise
    _write(path, _index(dataset))
    return dataset


def _write(path: Path, lines: Iterator[Any]) -> None:
    """Write the file completely or not at all; when there is no room, the other ranks learn that they must read the
    records themselves."""
    part = path.with_name(path.name + PART)
    try:
        with part.open("w") as file:
            for line in lines:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        with suppress(OSError):
            path.with_name(ALONE).touch()


def _index(dataset: Dataset) -> Iterator[Any]:
    """The lines of the index: the data set without its records, the paths of all pictures, then a line for each
    record, in which numbers stand for paths."""
    records = (*dataset.train, *dataset.eval)
    paths: dict[str, int] = {}
    for record in records:
        for picture in record.pictures:
            for path in picture.paths:
                paths.setdefault(path, len(paths))
    yield {
        "split": dataset.split, "notes": dataset.notes, "left_out": dataset.left_out, "unusable": dataset.unusable,
        "files": [str(path) for path in dataset.files], "sha256": dataset.sha256, "train": len(dataset.train),
    }  # fmt: skip
    yield list(paths)
    for record in records:
        turns = [
            (turn.role, turn.learned, [p if isinstance(p, str) else [paths[x] for x in p.paths] for p in turn.parts])
            for turn in record.turns
        ]
        yield turns, record.answer, record.session, record.place


def read_index(path: Path) -> Dataset:
    """The data set that an index holds. Raises the ConfigError that it holds."""
    with path.open() as file:
        about = json.loads(file.readline())
        if "refused" in about:
            raise ConfigError(**about["refused"])
        records = list(_records(file))
    count = about.pop("train")
    texts: dict[str, Any] = {name: tuple(about.pop(name)) for name in ("notes", "left_out")}
    files = tuple(map(Path, about.pop("files")))
    return Dataset(train=tuple(records[:count]), eval=tuple(records[count:]), files=files, **texts, **about)


def _records(file: IO[str]) -> Iterator[Record]:
    paths = json.loads(file.readline())
    for line in file:
        turns, answer, session, place = json.loads(line)
        yield Record(
            turns=tuple(
                Turn(
                    role=role,
                    parts=tuple(p if isinstance(p, str) else picture_of(tuple(paths[n] for n in p)) for p in parts),
                    learned=learned,
                )
                for role, learned, parts in turns
            ),
            answer=sys.intern(answer), session=sys.intern(session), place=place,
        )  # fmt: skip
