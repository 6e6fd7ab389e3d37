"""What the name of a file says: whether it holds records, which side of the data set they are of, or another kind of
data. No file is opened."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
# The names that people give the sides of a data set.
SIDE_NAMES = {
    "train": ("train", "training"),
    "eval": ("eval", "evaluation", "validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
SIDE_OF = {name: side for side, names in SIDE_NAMES.items() for name in names}
# train.jsonl, train-00000-of-00004.jsonl, train_2.json.gz
SIDE_FILE = r"(?i:([a-z]+)(?:[-_.]\d+)?(?:-of-\d+)?)"
# JSON files without records: Trainyard's own, and those that other trainers put beside their records.
NO_RECORDS = (
    r".*\.lengths\.json|lengths\.json|convert\.json|batch\.json|.*\.batch\.json"
    r"|dataset_(?:infos?|dict)\.json|state\.json|\..*"
)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff")
CAPTIONS = (".txt", ".caption")  # of text files beside pictures, as kohya's trainers read them
TABLES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
ZSTD = ".zst"
CONVERTIBLE = (*TABLES, ".tar", *PICTURES, ZSTD)
METADATA = "metadata.jsonl"  # written for the datasets library's imagefolder
MOST_LOOKED_AT = 10_000
"""Files of a folder whose names are looked at for a note: a folder of pictures may hold millions."""


def is_picture_name(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def caption_of(picture: Path) -> Path | None:
    """The text file beside a picture that is called like it; None where there is none."""
    return next((text for suffix in CAPTIONS if (text := picture.with_suffix(suffix)).is_file()), None)


def is_named_json(name: str) -> bool:
    return _unpacked_name(name.lower()).endswith(JSON_SUFFIXES)


def _unpacked_name(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in PACKED_SUFFIXES if name.lower().endswith(suffix)), name)


def side_of(path: Path) -> str | None:
    """The side that the name of a file or folder says: train, eval or test; None for another name."""
    shard = re.fullmatch(SIDE_FILE, stem_of(path))
    return SIDE_OF.get(shard[1].lower()) if shard else None


def suffix_of(path: Path) -> str:
    """.jsonl, or .jsonl.gz where it is packed."""
    return path.name[len(stem_of(path)) :]


def stem_of(path: Path) -> str:
    name = _unpacked_name(path.name)
    return next((name[: -len(suffix)] for suffix in JSON_SUFFIXES if name.lower().endswith(suffix)), name)


def names_in(folder: Path) -> list[str]:
    """The names in a folder, the first of very many; none where they may not be listed."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(entry.name for entry in islice(entries, MOST_LOOKED_AT))
    return []


def is_named_records(name: str) -> bool:
    """Whether a file of this name may hold records."""
    return is_named_json(name) and not re.fullmatch(NO_RECORDS, name)


def is_records(path: Path) -> bool:
    """Whether a file is called like one of records."""
    return is_named_records(path.name) and path.is_file()


def is_lost(path: Path) -> bool:
    """Whether a path is called like records to read, and is no file."""
    named = is_named_records(path.name) and side_of(path) in ("train", "eval")
    return named and not path.is_file() and not path.is_dir()


def record_names(folder: Path) -> list[str]:
    """The files of records in a folder and the first of its folders, by their names alone."""
    found: list[str] = []
    left = MOST_LOOKED_AT
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith((*TABLES, ZSTD)) or is_named_records(name):
                found.append(os.path.relpath(os.path.join(where, name), folder))
        left -= len(names)
        if left <= 0:
            break
    return sorted(found)
