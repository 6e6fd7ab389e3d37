"""Finds the files that DATA names, and which of them are held out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.braces import split_commas
from trainer.data.file_names import (
    CONVERTIBLE,
    METADATA,
    SIDE_NAMES,
    SIDE_OF,
    is_lost,
    is_named_json,
    is_records,
    record_names,
    side_of,
    stem_of,
)  # fmt: skip
from trainer.data.no_records import MOST_NAMED, TAKES, convert_command, no_train_file, not_json, not_there
from trainer.files import regular
from trainer.outcome import ConfigError
from trainer.text import plain_or_shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The files that DATA means."""

    train: tuple[Path, ...]
    eval: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    """Files that are present but not read, one line each."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.train, *self.eval)


def data_parts(data: str) -> tuple[str, ...]:
    """The files and folders that DATA names, with commas between; a single path may contain a comma."""
    parts = split_commas(data)
    return parts if len(parts) > 1 and not os.path.exists(data) else (data,)


def from_folder(folder: Path, data: str) -> str:
    """`data` with each of its relative paths resolved from `folder`."""
    if os.path.exists(folder / data):
        return str(folder / data)
    return ",".join(str(folder / part) for part in data_parts(data))


def record_folders(data: str) -> tuple[str, ...]:
    """The folders of the files that DATA names, derived from the names alone: the file system is not read."""
    return tuple(dict.fromkeys(os.path.dirname(p) if is_named_json(p) else p for p in split_commas(data)))


def data_files(data: str) -> tuple[Path, ...]:
    """Every file that is read for `data`, held-out records last. Raises ConfigError."""
    return find_sources(data).files


def find_sources(data: str) -> Sources:
    """The files of `data` by side. Raises ConfigError when one does not exist, cannot be read or holds no JSON."""
    parts = data_parts(data)
    found: dict[str, list[Path]] = {side: [] for side in SIDE_NAMES}
    notes: list[str] = []
    for part in parts:
        path = Path(part)
        try:
            if path.is_dir():
                inside = _in_folder(path, part)
                for side, files in inside.items():
                    found[side] += files
                    _check_shards(files if side != "test" else ())
                notes += _not_read(path, [file for files in inside.values() for file in files])
            else:
                regular(path)
                # A name decides the side only when several files are given: a single file is split by sessions.
                found[(side_of(path) or "train") if len(parts) > 1 else "train"].append(path)
                notes += _beside(path) if len(parts) == 1 else []
        except FileNotFoundError:
            raise ConfigError(not_there(part), name="DATA", given=part) from None
        except OSError as error:
            said = f"cannot be read ({error.strerror}): make it readable for whoever runs the job"
            raise ConfigError(said, name="DATA", given=part) from None
    for file in (*found["train"], *found["eval"]):
        regular(file)
        if file.suffix.lower() in CONVERTIBLE:
            raise ConfigError(not_json(file, str(file)), name="DATA", given=file)
    if not found["train"]:
        raise ConfigError(f"names held-out records alone: {TAKES}", name="DATA", given=data)
    if found["test"]:
        notes.append(f"not used: {', '.join(path.name for path in found['test'])} (test records are kept for you)")
    train, held_out = (tuple(dict.fromkeys(found[side])) for side in ("train", "eval"))
    return Sources(train=train, eval=held_out, notes=tuple(notes))


def _in_folder(folder: Path, part: str) -> dict[str, list[Path]]:
    """By side, the files of records in a folder and in its subfolders that are named like a side."""
    here = sorted(folder.iterdir())
    if odd := next((path for path in here if is_lost(path)), None):
        said = (
            f"holds {plain_or_shown(odd.name)}, which is no file (a link to nothing, or a pipe): remove it, or bring it"
        )
        raise ConfigError(said, name="DATA", given=part)
    found: dict[str, list[Path]] = {side: [] for side in SIDE_NAMES}
    files = [path for path in here if is_records(path)]
    for path in files:
        if side := side_of(path):
            found[side].append(path)
    for path in here:
        if path.is_dir() and (side := SIDE_OF.get(path.name.lower())) and not found[side]:
            found[side] = [inside for inside in sorted(path.iterdir()) if is_records(inside)]
    others = [path for path in files if side_of(path) is None and path.name != METADATA]
    metadata = [path for path in found["train"] if path.name == METADATA]
    if metadata or (not found["train"] and (folder / METADATA).is_file()):
        named = metadata[0].relative_to(folder) if metadata else METADATA
        raise ConfigError(f"is a folder of pictures with {named}: {convert_command(part)}", name="DATA", given=part)
    if not found["train"] and len(others) == 1:
        found["train"] = others
    if not found["train"]:
        said = no_train_file(folder, part, here, others, found["test"])
        raise ConfigError(said, name="DATA", given=part)
    return found


def _check_shards(files: Sequence[Path]) -> None:
    """Raises ConfigError for files `-of-00004` that are not four."""
    found: dict[tuple[Path, str, str], set[str]] = {}
    for path in files:
        if shard := re.fullmatch(r"(.*?)-?(\d+)-of-(\d+)", stem_of(path)):
            found.setdefault((path.parent, shard[1], shard[3]), set()).add(shard[2])
    for (parent, name, total), numbers in found.items():
        if len(numbers) < int(total):
            raise ConfigError(
                f"{plain_or_shown(str(parent / name))} has {len(numbers)} of its {int(total)} files "
                f"...-of-{total}: bring the others, or name the files to learn from"
            )


def _not_read(folder: Path, known: Sequence[Path]) -> list[str]:
    """A line about files of records in a folder that are none of the `known` ones."""
    names = {os.path.relpath(path, folder) for path in known}
    if not (others := [name for name in record_names(folder) if name not in names]):
        return []
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    listed = ", ".join(map(plain_or_shown, others[:MOST_NAMED]))
    return [f"not read: {listed}{more} in {plain_or_shown(str(folder))} (DATA=FILE,FILE names several)"]


def _beside(path: Path) -> list[str]:
    """A line about held-out records that lie beside the one file that was named."""
    if side_of(path) != "train":
        return []
    others = [other for other in path.parent.iterdir() if is_records(other) and side_of(other) == "eval"]
    names = ", ".join(sorted(other.name for other in others))
    return [f"not used: {names} beside {path.name} (DATA={path.parent} takes it as held-out records)"] if names else []
