"""The look at a run's records, kept in the run's folder: an attempt that goes on with the same records, pictures,
settings and code as the one before does not look at all of them again.

The file holds a digest of everything that the look depends on. Another digest, or a damaged file, means a new look.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from trainer import data
from trainer.architecture.hub import cached_config
from trainer.config import TrainConfig
from trainer.data.lengths import processor_digest
from trainer.data.records import SIDES, Dataset, take_apart, without
from trainer.files import read_json, write_whole
from trainer.text import printable

LOOK_FILE = ".look.json"
LIBRARIES = ("transformers", "tokenizers", "jinja2", "pillow", "numpy")
"""What turns records into tokens, beside the code in trainer/data."""


class Look(NamedTuple):
    """What a look at the records tells."""

    apart: dict[str, set[int]]
    """As `Inspection.apart`."""
    unfit: dict[str, set[int]]
    lines: list[str]
    """What the log says."""
    tokens: list[int]
    """The tokens of each training record that is kept."""

    def kept(self, dataset: Dataset) -> Dataset:
        """The data set without the unfit records."""
        return without(take_apart(dataset, self.apart), self.unfit)


def known_look(config: TrainConfig, dataset: Dataset, look: Callable[[], Look], say: Callable[[str], object]) -> Look:
    """What an earlier attempt of the run has found, with a log line, if nothing has changed since; else the result of
    `look`, which is kept. Raises what `look` raises."""
    path, key = Path(config.output_dir, LOOK_FILE), _key(config, dataset)
    if key and (known := read_look(path, key, dataset)):
        say("data: an earlier attempt has looked at every record and picture, and none has changed since")
        return known
    found = look()
    if key:
        sets = {name: {side: sorted(some[side]) for side in SIDES} for name, some in found._asdict().items()
                if name in ("apart", "unfit")}  # fmt: skip
        with suppress(OSError):  # the next attempt looks again
            write_whole(path, json.dumps({"key": key, **found._asdict(), **sets}), sync=False)
    return found


def read_look(path: Path, key: str, dataset: Dataset) -> Look | None:
    """What the file at `path` holds; None where it is of another `key`, damaged, or no look at `dataset`."""
    try:
        found = read_json(path)
        if found["key"] != key:
            return None
        apart, unfit = ({side: set(map(int, found[name][side])) for side in SIDES} for name in ("apart", "unfit"))
        known = Look(apart, unfit, list(map(printable, found["lines"])), list(map(int, found["tokens"])))
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # damaged, in any way
        return None
    fits = len(known.tokens) == len(known.kept(dataset).train) and min(known.tokens, default=1) > 0
    return known if fits else None


def _key(config: TrainConfig, dataset: Dataset) -> str | None:
    """A digest of all that the look depends on; None when the processor's files are not on this machine."""
    folder = Path(config.model)
    if not folder.is_dir():
        cached = cached_config(config.model, os.environ)
        folder = cached.parent if cached else folder
    processor = processor_digest(folder)
    if processor is None:
        return None
    digest = hashlib.sha256()
    for part in _parts(config, dataset, processor):
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()


def _parts(config: TrainConfig, dataset: Dataset, processor: str) -> Iterator[object]:
    yield config, processor, [version(name) for name in LIBRARIES]
    for path in sorted(Path(data.__path__[0]).glob("*.py")):
        yield path.name, path.read_bytes()
    yield dataset.sha256, dataset.left_out, dataset.unusable
    yield from dataset.train
    yield "held out"
    yield from dataset.eval
    yield from _pictures(path for record in (*dataset.train, *dataset.eval) for path in record.images)


def _pictures(paths: Iterable[Path]) -> Iterator[tuple[str, Any]]:
    """Each file with its size and the time of its last change."""
    for path in sorted(set(paths)):
        try:
            found = path.stat()
            yield str(path), (found.st_size, found.st_mtime_ns)
        except OSError as error:
            yield str(path), str(error)
