"""The tables of a folder that holds pictures too. The datasets library reads the kind of file of which a folder has
most: where a table lies beside a hundred pictures, it reads the pictures and not the table."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.data.sources import SHARD, SIDE_OF, find_sources, is_lost, is_picture_name, is_records
from trainer.outcome import ConfigError
from trainer.text import plain_or_shown

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CARD = "README.md"
"""Of a snapshot of the hub: it may say which files are read."""
TABLES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
MOST_NAMED = 5
KNOWN = ("parquet", "arrow", "csv", "json", "imagefolder", "webdataset")
"""The readers of the datasets library whose rows can be records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    suffix: str
    by_side: Mapping[str, list[str]]
    folder: Path
    """Relative paths of pictures are relative to it."""


def tables_beside_pictures(folder: Path) -> Tables | None:
    """The tables in a folder; None where no pictures lie beside them, or where a file says what is in the folder.
    Raises ConfigError for tables of which no name says what they are, and for records that are JSON."""
    files = _files(folder)
    if (folder / CARD).is_file() or not any(is_picture_name(path.name) for path in files):
        return None
    if any(path.name in METADATA for path in files):
        return None
    tables = [path for path in files if path.suffix.lower() in TABLES]
    if not tables:
        if any(is_records(path) or is_lost(path) for path in files):
            find_sources(str(folder))  # raises what is wrong with them
        return None
    sides: dict[str, list[str]] = {}
    for path in tables:
        side = "train" if len(tables) == 1 else _side(path, folder)
        if side is None or path.suffix.lower() != tables[0].suffix.lower():
            raise ConfigError(f"{folder} holds several tables and pictures: name one of {_named(tables, folder)}")
        sides.setdefault(side, []).append(str(path))
    return Tables(
        suffix=tables[0].suffix.lower(),
        by_side=sides,
        folder=Path(os.path.commonpath([path.parent for path in tables])),
    )


def check_reader(folder: Path, reader: str) -> None:
    """Raises ConfigError where the datasets library would read files that hold no records, such as texts."""
    if reader not in KNOWN:
        raise ConfigError(f"{folder} has no records: most of its files are read as {reader}")


def not_read(folder: Path, known: Collection[str]) -> str | None:
    """A line about the files of a folder that may hold records or pictures and are not `known`."""
    paths = {os.path.abspath(path) for path in known}
    others = [
        path for path in _files(folder)
        if (path.suffix.lower() in (*TABLES, ".tar") or is_records(path) or is_picture_name(path.name))
        and os.path.abspath(path) not in paths and path.name not in METADATA
    ]  # fmt: skip
    return f"not read: {_named(others, folder)}" if others else None


def _files(folder: Path) -> list[Path]:
    return sorted(
        Path(where, name) for where, _, names in os.walk(folder) for name in names if not name.startswith(".")
    )


def _side(path: Path, folder: Path) -> str | None:
    """The side that the name of a table, or of one of its folders, says."""
    shard = re.fullmatch(SHARD, path.stem)
    words = (*([shard[1]] if shard else []), *path.relative_to(folder).parent.parts)
    return next((SIDE_OF[word.lower()] for word in words if word.lower() in SIDE_OF), None)


def _named(paths: list[Path], folder: Path) -> str:
    names = [plain_or_shown(os.path.relpath(path, folder)) for path in paths]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
