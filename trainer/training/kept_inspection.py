"""Keeps in a run's folder what the inspection of its records found: an attempt that goes on with the same records,
pictures, model, settings, libraries and code as the one before does not inspect them again.

The file holds a SHA-256 over all that the inspection depends on and over what it found. Where the digest is another
one, or what was found cannot be so, the records are inspected again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import trainer
from trainer.architecture.hub import cached_config
from trainer.config import TrainConfig
from trainer.data.records import SIDES, Dataset, keep_fit, take_apart
from trainer.files import MIB, MOST_MIB, file_state, read_json, regular, write_whole
from trainer.node.model_folder import TEXTS
from trainer.outcome import ConfigError
from trainer.text import printable

KEPT_FILE = ".inspection.json"
MOST_LINES, MOST_CHARACTERS_A_LINE = 1000, 4000  # a set has some lines of some hundred characters


class InspectionResult(NamedTuple):
    """What a run needs of trainer.data.inspection.Inspection."""

    apart: dict[str, set[int]]
    unfit: dict[str, set[int]]
    lines: list[str]
    """What the log says, each as `one_line` makes it."""
    tokens: list[int]
    """The tokens of each training record that is kept."""

    def kept(self, dataset: Dataset, *, strict: bool) -> Dataset:
        """As `Inspection.kept`."""
        return keep_fit(take_apart(dataset, self.apart), self.unfit, self.lines, strict=strict)


def one_line(text: str) -> str:
    """`text` as a line of an InspectionResult: printable, and cut where it is too long."""
    return printable(text)[:MOST_CHARACTERS_A_LINE]


def inspect_once(
    config: TrainConfig, dataset: Dataset, inspect: Callable[[], InspectionResult], say: Callable[[str], object]
) -> InspectionResult:
    """What an earlier attempt of the run has found, with a log line, if nothing has changed since; else the result of
    `inspect`, which is kept. Raises what `inspect` raises."""
    path, key = Path(config.output_dir, KEPT_FILE), _key(config, dataset)
    if key and (known := read_kept(path, key, config, dataset)):
        say("data: an earlier attempt has inspected every record and picture, and none has changed since")
        return known
    result = inspect()
    if key:
        with suppress(OSError):  # the next attempt inspects again
            write_whole(path, kept_text(key, result._asdict()), sync=False)
    return result


def kept_text(key: str, result: dict[str, Any]) -> str:
    """The content of the file."""
    return json.dumps({"sha256": _digest(key, result), "result": result}, default=sorted)


def _digest(key: str, result: Any) -> str:
    return hashlib.sha256(json.dumps([key, result], default=sorted).encode()).hexdigest()


def read_kept(path: Path, key: str, config: TrainConfig, dataset: Dataset) -> InspectionResult | None:
    """What the file at `path` holds; None where it is of another `key`, damaged, or what no inspection of `dataset`
    finds."""
    try:
        found = read_json(path)
        result = found["result"]
        if found["sha256"] != _digest(key, result):
            return None
        apart = {side: set(_whole(result["apart"][side], len(getattr(dataset, side)))) for side in SIDES}
        split = take_apart(dataset, apart)
        unfit = {side: set(_whole(result["unfit"][side], len(getattr(split, side)))) for side in SIDES}
        tokens = _whole(result["tokens"], config.max_length + 1)
        known = InspectionResult(apart, unfit, result["lines"], tokens)
        kept = known.kept(dataset, strict=config.strict)
        lines_fit = known.lines == [one_line(line) for line in known.lines[:MOST_LINES]]
    except (OSError, LookupError, TypeError, ValueError, ConfigError):
        return None
    return known if lines_fit and len(tokens) == len(kept.train) and 0 not in tokens else None


def _whole(found: Any, end: int) -> list[int]:
    """`found`, if all in it are whole numbers from 0 to before `end`. Raises ValueError."""
    if not all(type(number) is int and 0 <= number < end for number in found):
        raise ValueError
    return found


def _key(config: TrainConfig, dataset: Dataset) -> str | None:
    """A digest of all that the inspection depends on; None when the model's files are not on this machine."""
    folder = Path(config.model)
    if not folder.is_dir():
        if not (cached := cached_config(config.model, os.environ)):
            return None
        folder = cached.parent
    digest = hashlib.sha256()
    for part in _parts(config, dataset, folder):
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()


def _parts(config: TrainConfig, dataset: Dataset, model: Path) -> Iterator[object]:
    yield config
    texts = (path for path in model.glob("*/*") if path.suffix in TEXTS)  # as in additional_chat_templates
    yield from _contents(model, (*(path for path in model.glob("*") if not path.name.startswith("README")), *texts))
    code = Path(trainer.__path__[0])
    yield from _contents(code, code.rglob("*.py"))
    # Any library may have a part in it, and its version is in this folder's name.
    yield sorted({info.name for folder in sys.path for info in Path(folder).glob("*.*-info")})
    yield dataset.sha256, dataset.left_out, dataset.unusable
    yield from dataset.train
    yield "held out"
    yield from dataset.eval
    pictures = {path for record in (*dataset.train, *dataset.eval) for path in record.images}
    yield [(str(path), file_state(path)) for path in sorted(pictures)]


def _contents(folder: Path, paths: Iterable[Path]) -> Iterator[tuple[str, object]]:
    """Each file's name and SHA-256; only the size of a file that is longer than any tokenizer, as weights are."""
    for path in sorted(paths):
        with suppress(OSError):
            size = regular(path).stat().st_size
            content = size if size > MOST_MIB * MIB else hashlib.sha256(path.read_bytes()).hexdigest()
            yield str(path.relative_to(folder)), content
