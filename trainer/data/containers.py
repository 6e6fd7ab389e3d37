"""The records of a file that is one object: keyed by their ids, under one key, or under the names of the sides."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.data.columns import ANSWERS, CONTEXTS, CONVERSATIONS, IMAGE_KEYS, QUESTIONS, TEXTS
from trainer.data.file_names import SIDE_OF
from trainer.data.foreign import coco, is_gemini, is_labelme
from trainer.data.json_text import Found, read_objects
from trainer.data.packed import opened
from trainer.data.turns import FormError
from trainer.text import plain_or_shown

OF_A_RECORD = (*QUESTIONS, *ANSWERS, *CONTEXTS, *CONVERSATIONS, TEXTS)
# The key by which InternVL and LLaMA-Factory name the file of each data set, in a list of data sets.
NAMES_RECORDS = ("annotation", "file_name")


def read_records(path: Path, known: Container[str] = (), notes: list[str] | None = None) -> Iterator[Found]:
    """As `read_objects`; where the file is a single object that holds the records, these, which is added to `notes`.
    An object with a key of `known` is a record. Raises ConfigError, OSError."""
    objects = read_objects(path)
    for first in objects:
        second = next(objects, None)
        alone = not second and not isinstance(first[1], FormError) and not any(key in known for key in first[1])
        held = _held(first[1], path) if alone and _is_object(path) else None  # type: ignore[arg-type]
        if isinstance(held, FormError):
            yield first[0], held
        elif held:
            if notes is not None:
                notes.append(f"{plain_or_shown(path.name)} is one object: the {len(held)} records in it are read")
            yield from ((f"record {number}", record) for number, record in enumerate(held, start=1))
        else:
            yield first
        if second:
            yield second
        yield from objects


def _held(entry: dict[str, Any], path: Path) -> Sequence[dict[str, Any] | FormError] | FormError | None:
    """The records in an object, or why it cannot be read; None where it is a record itself."""
    if is_gemini(entry) or is_labelme(entry):
        return None
    if annotated := coco(entry):
        return annotated
    pictures = [key for key in IMAGE_KEYS if key in entry and not _is_of_objects(entry[key])]
    if columns := [*pictures, *(key for key in OF_A_RECORD if key in entry)]:
        return _columns() if all(isinstance(entry[key], list | dict) for key in columns) and _is_table(entry) else None
    lists = {key: value for key, value in entry.items() if _is_of_objects(value)}
    if not lists:
        values = list(entry.values())
        if len(values) > 1 and _is_of_objects(values):
            return _listed_files(values, path) or values
        return _listed_files(values, path)
    if len(lists) == 1:
        (held,) = lists.values()
        return held
    if all(key.lower() in SIDE_OF for key in lists):
        return [{"split": key, **record} for key, held in lists.items() for record in held]
    named = " and ".join(map(plain_or_shown, list(lists)[:4]))
    return FormError(f" holds lists of objects under {named}: put the records into a file of their own", cure="form")


def _is_object(path: Path) -> bool:
    """Whether the file is an object, and no array of one."""
    with opened(path) as file:
        return file.peek(1).removeprefix(BOM_UTF8).lstrip().startswith(b"{")


def _columns() -> FormError:
    return FormError(" holds columns and no records: pandas writes records by to_json(FILE, orient='records')")


def _is_table(entry: dict[str, Any]) -> bool:
    """Whether the values are columns: lists or objects of one length, and no turns."""
    lengths = {len(value) if isinstance(value, list | dict) else -1 for value in entry.values()}
    return len(lengths) == 1 and len(entry) > 1 and not any(_is_of_objects(value) for value in entry.values())


def _is_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _listed_files(values: Sequence[Any], path: Path) -> FormError | None:
    """The fault of a list of data sets, which names files of records; None for anything else."""
    if not values or not _is_of_objects([*values]):
        return None
    for key in NAMES_RECORDS:
        names = [value.get(key) for value in values]
        if all(isinstance(name, str) and "." in name for name in names) and not any("output" in v for v in values):
            data = ",".join(str(path.parent / name) for name in names)
            roots = {str(root) for value in values if (root := value.get("root"))}
            root = f" (image_root: {roots.pop()})" if len(roots) == 1 else ""
            return FormError(f" lists files of records and holds none: DATA={data}{root}")
    return None
