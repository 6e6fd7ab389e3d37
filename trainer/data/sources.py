"""Finds the files that DATA names, and which of them are held out. For files that are not JSON, the error names the
command that converts them."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from urllib.parse import unquote

from trainer.commands import training_command
from trainer.data.braces import BRACES, expanded, split_commas
from trainer.data.file_kinds import HEAD_BYTES, TEXT, UNPACKED_BY, kind_of, unpack_advice
from trainer.data.file_names import (
    CONVERTIBLE,
    JSON_SUFFIXES,
    METADATA,
    MOST_LOOKED_AT,
    SIDE_NAMES,
    SIDE_OF,
    TABLES,
    ZSTD,
    caption_of,
    is_lost,
    is_named_json,
    is_named_records,
    is_picture_name,
    is_records,
    names_in,
    side_of,
    stem_of,
    suffix_of,
)  # fmt: skip
from trainer.files import regular
from trainer.outcome import ConfigError
from trainer.text import nearest, plain_or_shown

HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
HUB_ADDRESS = rf"(?:hf://|https?://(?:www\.)?huggingface\.co/)datasets/({HUB_ID}?)(?:/tree/main|/viewer(?:/.*)?)?/?"
ADDRESS = r"(?i:[a-z][a-z0-9+]{1,9}://)"
TAKES = "give a file of JSON records, or a folder with train.jsonl"
MOST_NAMED = 5
RECORDS = rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*"'
"""The beginning of a file of records."""
MOST_OPENED = 100
"""Files of a folder that are opened to look for records: each picture may have a text file beside it."""


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


def convert_command(data: str) -> str:
    """The command that converts `data` to records, with its arguments filled in."""
    name = re.split(r"[/\\]", data.rstrip("/\\"))[-1].partition(".")[0]
    return training_command("trainer", "convert", data, f"{name or 'data'}-records")


def hub_id(data: str) -> str | None:
    """The id of the data set of the hub that `data` is, or is the address of."""
    if address := re.fullmatch(HUB_ADDRESS, data):
        return address[1]
    return data if re.fullmatch(HUB_ID, data) else None


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
            raise ConfigError(_not_there(part), name="DATA", given=part) from None
        except OSError as error:
            said = f"cannot be read ({error.strerror}): make it readable for whoever runs the job"
            raise ConfigError(said, name="DATA", given=part) from None
    for file in (*found["train"], *found["eval"]):
        regular(file)
        if file.suffix.lower() in CONVERTIBLE:
            raise ConfigError(_not_json(file, str(file)), name="DATA", given=file)
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
        if len(others) > 1:
            how = f"several: DATA={','.join(map(str, others))}"
            if len(others) > MOST_NAMED:
                suffix, where = suffix_of(others[0]), shlex.quote(str(folder))
                how = f"make one file of all: cat {where}/*{suffix} > {where}/train{suffix}"
                if [path for path in here if path.name.endswith(suffix)] != others:
                    how = f"put those into {where}/train/"
            raise ConfigError(
                f"is a folder with {len(others)} files of records and no train.jsonl: name the one to "
                f"learn from, or {how}",
                name="DATA",
                given=part,
            )
        if found["test"]:
            tests = ",".join(map(str, found["test"][:MOST_NAMED]))
            raise ConfigError(
                f"holds test records alone, which are not used: DATA={tests} trains on them", name="DATA", given=part
            )
        inner = next((p for p in here if p.is_dir() and any(is_records(p / name) for name in names_in(p))), None)
        inside = [Path(part, name) for name in _records_in(folder) if is_named_json(name)]
        if inner is None and inside:
            several = ",".join(map(str, inside[:MOST_NAMED]))
            raise ConfigError(f"holds its records further inside: name them: DATA={several}", name="DATA", given=part)
        if inner is None and (hidden := _otherwise_named(here)):
            said = (
                f"holds records in {plain_or_shown(hidden.name)}, a name that does not say so: DATA={hidden} reads it"
            )
            raise ConfigError(said, name="DATA", given=part)
        if inner is None and (
            # Pictures lie beside the table that names them.
            known := min(
                (p for p in folder.rglob("*") if p.suffix.lower() in CONVERTIBLE),
                key=lambda p: (is_picture_name(p.name), p),
                default=None,
            )
        ):
            raise ConfigError(_not_json(known, part), name="DATA", given=part)
        if inner is None and (archive := next((p for p in here if p.suffix.lower() in UNPACKED_BY), None)):
            said = f"holds {archive.name} and no JSON: {unpack_advice(archive)}"
            raise ConfigError(said, name="DATA", given=part)
        if inner is None and (other := _other_kind(here)):
            raise ConfigError(other, name="DATA", given=part)
        instead = f"did you mean DATA={inner}?" if inner else TAKES
        raise ConfigError(f"is a folder without train.jsonl: {instead}", name="DATA", given=part)
    return found


def _otherwise_named(paths: Sequence[Path]) -> Path | None:
    """The first of some files that begins like records and is called otherwise."""
    others = (path for path in paths if path.suffix.lower() not in (*JSON_SUFFIXES, *CONVERTIBLE) and path.is_file())
    for path in islice((path for path in others if not path.name.startswith(".")), MOST_OPENED):
        with suppress(OSError), path.open("rb") as file:
            if re.match(RECORDS, file.read(HEAD_BYTES)):
                return path
    return None


def _other_kind(paths: Sequence[Path]) -> str | None:
    """The first of some files that is of a known kind, and what helps."""
    for path in (path for path in paths[:MOST_LOOKED_AT] if path.is_file() and not path.name.startswith(".")):
        with suppress(OSError), path.open("rb") as file:
            kind = kind_of(file.read(HEAD_BYTES), path)
            if kind and not kind.startswith(TEXT):  # notes and licences lie in any folder
                return f"holds {plain_or_shown(path.name)}, which is {kind}"
    return None


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


def _records_in(folder: Path) -> list[str]:
    """Files of records in a folder and the first of its folders, by their names alone."""
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


def _not_read(folder: Path, known: Sequence[Path]) -> list[str]:
    """A line about files of records in a folder that are none of the `known` ones."""
    names = {os.path.relpath(path, folder) for path in known}
    if not (others := [name for name in _records_in(folder) if name not in names]):
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


def _pattern(data: str) -> str:
    """What names the files that a pattern means."""
    every = chain.from_iterable(glob.iglob(one, recursive=True) for one in islice(expanded(data), MOST_LOOKED_AT))
    if not (found := sorted(islice(every, MOST_LOOKED_AT))):
        return f"is a pattern that no file matches: {TAKES}"
    folders = {os.path.dirname(path) or "." for path in found}
    how = f"DATA={shlex.quote(','.join(found))} names them"
    if not is_named_json(found[0]):
        how = convert_command(min(folders))
    elif len(found) > MOST_NAMED:
        how = _together([Path(path) for path in found], data) if len(folders) == 1 else "DATA=FOLDER,FILE names several"
    return f"is a pattern, which is not expanded, of {len(found)} files: {how}"


def _together(found: Sequence[Path], pattern: str) -> str:
    """How the many files of one folder that a pattern matches are read: as the folder, where a name says a side."""
    folder, suffixes = shlex.quote(str(found[0].parent)), {suffix_of(path) for path in found}
    whole = found[0].with_name(f"train{min(suffixes)}")
    if any(map(side_of, found)) or os.path.lexists(whole):
        return f"DATA={folder} reads its train and eval files, and names the others"
    if len(suffixes) > 1:
        return "DATA=FOLDER,FILE names several"
    # What a shell expands stays as it is.
    pieces = re.split(r"(\[[^\]]*\]|\{[^{}]*\}|[*?]+)", os.path.basename(pattern))
    files = "".join(piece if n % 2 else piece and shlex.quote(piece) for n, piece in enumerate(pieces))
    return f"make one file of all: cat {folder}/{files} > {shlex.quote(str(whole))}"


def _not_json(found: Path, data: str) -> str:
    if found.suffix == ZSTD:
        return f"{found.name} is packed by zstd: unpack it (zstd -d {found.name}), or pack it by gzip"
    if str(found) == data and found.suffix.lower() not in (*TABLES, ".tar"):
        return "is a picture: name the file of records that shows it, or the folder of all pictures"
    if is_picture_name(found.name) and (text := caption_of(found)):
        said = f"holds pictures with a text beside each ({found.name}, {text.name}) and no JSON"
        return f"{said}: {convert_command(data)} --question TEXT makes records with one question, the texts as answers"
    return f"holds {found.suffix[1:]} files ({found.name}) and no JSON: {convert_command(data)}"


def _not_there(data: str) -> str:
    if len(data) > 2 and data[0] == data[-1] and data[0] in "'\"":
        return f"has quotation marks in it: DATA={shlex.quote(data[1:-1])}"
    if re.match(ADDRESS, data):
        scheme, _, rest = data.partition("://")
        how = f"copy it to a folder with {scheme}'s own tool"
        if hub_id(data):
            how = convert_command(data)
        elif scheme == "hf":
            how = "hf download fetches files of the hub, and DATA names their folder"
        elif scheme in ("http", "https"):
            how = f"curl -LO {shlex.quote(data)} fetches it"
        elif scheme == "file":
            how = f"DATA={unquote(rest)}"
        return f"is an address, which is not read: {how}"
    if re.search(rf"[*?\[]|{BRACES}", data):
        return _pattern(data)
    if hub_id(data):
        return f"does not exist: {TAKES}; a data set of the hub is fetched by {convert_command(data)}"
    several = re.split(r"[;:\s]+", data)
    if len(several) > 1 and all(map(os.path.exists, several)):
        return f"does not exist: commas stand between several: DATA={','.join(several)}"
    names = names_in(Path(os.path.dirname(data) or "."))
    return f"does not exist: {TAKES}{nearest(os.path.basename(data), names)}"
