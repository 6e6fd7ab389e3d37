"""Says why what DATA names holds no records, and what to do instead: the name that was meant, or the command that
converts the files."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from urllib.parse import unquote

from trainer.commands import training_command
from trainer.data.braces import BRACES, expanded
from trainer.data.file_kinds import HEAD_BYTES, TEXT, UNPACKED_BY, kind_of, unpack_advice
from trainer.data.file_names import (
    CONVERTIBLE,
    JSON_SUFFIXES,
    MOST_LOOKED_AT,
    TABLES,
    ZSTD,
    caption_of,
    is_named_json,
    is_picture_name,
    is_records,
    names_in,
    record_names,
    side_of,
    suffix_of,
)  # fmt: skip
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


def convert_command(data: str) -> str:
    """The command that converts `data` to records, with its arguments filled in."""
    name = re.split(r"[/\\]", data.rstrip("/\\"))[-1].partition(".")[0]
    return training_command("trainer", "convert", data, f"{name or 'data'}-records")


def hub_id(data: str) -> str | None:
    """The id of the data set of the hub that `data` is, or is the address of."""
    if address := re.fullmatch(HUB_ADDRESS, data):
        return address[1]
    return data if re.fullmatch(HUB_ID, data) else None


def not_there(data: str) -> str:
    """What DATA is that names nothing that exists, and what to do."""
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


def not_json(found: Path, data: str) -> str:
    """What a file is that holds no JSON, and the command that makes records of it."""
    if found.suffix == ZSTD:
        return f"{found.name} is packed by zstd: unpack it (zstd -d {found.name}), or pack it by gzip"
    if str(found) == data and found.suffix.lower() not in (*TABLES, ".tar"):
        return "is a picture: name the file of records that shows it, or the folder of all pictures"
    if is_picture_name(found.name) and (text := caption_of(found)):
        said = f"holds pictures with a text beside each ({found.name}, {text.name}) and no JSON"
        return f"{said}: {convert_command(data)} --question TEXT makes records with one question, the texts as answers"
    return f"holds {found.suffix[1:]} files ({found.name}) and no JSON: {convert_command(data)}"


def no_train_file(folder: Path, part: str, here: Sequence[Path], others: Sequence[Path], tests: Sequence[Path]) -> str:
    """What a folder holds in place of one file of training records, and what to do. `part` names the folder in DATA,
    `here` is all that is in it, `others` its files of records whose name says no side, `tests` those for tests."""
    if len(others) > 1:
        how = f"several: DATA={','.join(map(str, others))}"
        if len(others) > MOST_NAMED:
            suffix, where = suffix_of(others[0]), shlex.quote(str(folder))
            how = f"make one file of all: cat {where}/*{suffix} > {where}/train{suffix}"
            if [path for path in here if path.name.endswith(suffix)] != others:
                how = f"put those into {where}/train/"
        return (
            f"is a folder with {len(others)} files of records and no train.jsonl: name the one to learn from, or {how}"
        )
    if tests:
        return f"holds test records alone, which are not used: DATA={_several(tests)} trains on them"
    if inner := next((p for p in here if p.is_dir() and any(is_records(p / name) for name in names_in(p))), None):
        return f"is a folder without train.jsonl: did you mean DATA={inner}?"
    if inside := [Path(part, name) for name in record_names(folder) if is_named_json(name)]:
        return f"holds its records further inside: name them: DATA={_several(inside)}"
    if hidden := _otherwise_named(here):
        return f"holds records in {plain_or_shown(hidden.name)}, a name that does not say so: DATA={hidden} reads it"
    convertible = (path for path in folder.rglob("*") if path.suffix.lower() in CONVERTIBLE)
    # Pictures lie beside the table that names them.
    if known := min(convertible, key=lambda path: (is_picture_name(path.name), path), default=None):
        return not_json(known, part)
    if archive := next((path for path in here if path.suffix.lower() in UNPACKED_BY), None):
        return f"holds {archive.name} and no JSON: {unpack_advice(archive)}"
    return _other_kind(here) or f"is a folder without train.jsonl: {TAKES}"


def _several(paths: Sequence[Path]) -> str:
    return ",".join(map(str, paths[:MOST_NAMED]))


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
