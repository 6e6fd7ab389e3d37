"""The tables of a folder that holds pictures too. The datasets library reads the kind of file of which a folder has
most: where a table lies beside a hundred pictures, it reads the pictures and not the table."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.file_names import SIDE_FILE, SIDE_OF, TABLES, is_lost, is_picture_name, is_records, side_of
from trainer.data.sources import find_sources
from trainer.files import MIB
from trainer.outcome import ConfigError
from trainer.text import plain_or_shown

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CARD = "README.md"
"""The page of a data set of the hub. Its head may name the files that are read."""
NAMES_FILES = r"---\r?\n(?:(?!---).*\n)*?(?:configs|data_files)\s*:"
NUMBER = r"(?:^|[-_.])\d+(?:-of-\d+)?$"
"""The end of a name that tells the files of one table apart: part-00001, data-00000-of-00002, 0001."""
MOST_NAMED = 5
KNOWN = ("parquet", "arrow", "csv", "json", "imagefolder", "webdataset")
"""The readers of the datasets library whose rows can be records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The files of one side in one folder."""

    side: str
    files: tuple[str, ...]
    folder: Path
    """Relative paths of pictures are relative to it."""
    root: Path
    """Where a picture is looked for that is not in `folder`."""


def files_in(folder: Path) -> tuple[Path, ...]:
    """All files of a folder and of its folders, without hidden ones, as the datasets library takes them."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in names if not name.startswith(".")]
    return tuple(sorted(found))


def stored_bytes(data: Path) -> int:
    """The size of a file, or of the files of a folder but for pictures; 0 for data of the hub."""
    files = files_in(data) if data.is_dir() else (data,)
    return sum(os.path.getsize(path) for path in files if os.path.isfile(path) and not is_picture_name(path.name))


def tables_beside_pictures(folder: Path, files: Sequence[Path]) -> tuple[Table, ...]:
    """The tables among the `files` of a folder; none where no pictures lie beside them, or where a file says what is
    in the folder. Raises ConfigError for tables of which no name says what they are, and for records that are JSON."""
    pictured = {path.parent for path in files if is_picture_name(path.name)}
    if not pictured or _names_files(folder / CARD) or any(path.name in METADATA for path in files):
        return ()
    tables = [path for path in files if path.suffix.lower() in TABLES]
    if not tables:
        if any(is_lost(path) or (is_records(path) and _is_meant(path, folder, pictured)) for path in files):
            find_sources(str(folder))  # raises what is wrong with them
        return ()
    alone = len({(path.parent, re.sub(NUMBER, "", path.stem)) for path in tables}) == 1
    groups: dict[tuple[str, Path], list[str]] = {}
    for path in tables:
        side = _side(path, folder) or ("train" if alone else None)
        if side is None or path.suffix.lower() != tables[0].suffix.lower():
            raise ConfigError(f"{folder} holds several tables and pictures: name one of {_named(tables, folder)}")
        groups.setdefault(("train" if len(tables) == 1 else side, path.parent), []).append(str(path))
    common = Path(os.path.commonpath([path.parent for path in tables]))
    return tuple(
        Table(side=side, files=tuple(found), folder=own, root=folder if own == common else common)
        for (side, own), found in groups.items()
    )


def _is_meant(path: Path, folder: Path, pictured: Collection[Path]) -> bool:
    """Whether a file of JSON may hold the records of a folder of pictures. In the folder of one class, beside its
    pictures, it does not, unless its name is a side's."""
    return path.parent == folder or path.parent not in pictured or side_of(path) is not None


def _names_files(card: Path) -> bool:
    """Whether the head of a data set's page says which files are read. Any project has a README.md without one."""
    if not card.is_file():
        return False
    with card.open(encoding="utf-8-sig", errors="replace", newline="") as text:
        return bool(re.match(NAMES_FILES, text.read(MIB)))


def check_reader(folder: Path, reader: str) -> None:
    """Raises ConfigError where the datasets library would read files that hold no records, such as texts."""
    if reader not in KNOWN:
        raise ConfigError(f"{folder} has no records: most of its files are read as {reader}")


def not_read(folder: Path, files: Sequence[Path], known: Collection[str]) -> str | None:
    """A line about those of the `files` of a folder that may hold records or pictures and are not `known`."""
    paths = {os.path.abspath(path) for path in known}
    others = [
        path for path in files
        if (path.suffix.lower() in (*TABLES, ".tar") or is_records(path) or is_picture_name(path.name))
        and os.path.abspath(path) not in paths and path.name not in METADATA
    ]  # fmt: skip
    return f"not read: {_named(others, folder)}" if others else None


def _side(path: Path, folder: Path) -> str | None:
    """The side that the name of a table, or of one of its folders, says."""
    shard = re.fullmatch(SIDE_FILE, path.stem)
    words = (*([shard[1]] if shard else []), *path.relative_to(folder).parent.parts)
    return next((SIDE_OF[word.lower()] for word in words if word.lower() in SIDE_OF), None)


def _named(paths: Sequence[Path], folder: Path) -> str:
    names = [plain_or_shown(os.path.relpath(path, folder)) for path in paths]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
