"""Opens a file of records, which may be packed by gzip, bzip2 or xz, and names files that hold no JSON: archives,
tables, web pages, other encodings."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.file_kinds import BINARY, HEAD_BYTES, TEXT, described, is_binary, kind_of, unpack_advice
from trainer.data.growth import Bounded
from trainer.data.no_records import convert_command
from trainer.files import MIB
from trainer.outcome import ConfigError

READ_BYTES = MIB
# The first bytes of a packed file, by the module of the standard library that reads it.
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma"}
ZSTD = b"\x28\xb5\x2f\xfd"
MAGICS = (*PACKED, ZSTD)
TABLE_MAGICS = {b"PAR1": "parquet", b"ARROW1": "arrow"}
ARCHIVE_MAGICS = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive",
                  ZSTD: "packed by zstd"}  # fmt: skip
PAGES = (b"<!DOCTYPE", b"<!doctype", b"<html", b"<?xml")
OF_PYTHON = (b"{'", b"[{'")
POINTER = b"version https://git-lfs"
TAR, TAR_PLACE = b"ustar", 257
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
MOST_MEMORY_BYTES = 128 * MIB  # `xz -9` takes 65 MiB to unpack


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a file of JSON, unpacked. Raises ConfigError for a file that is damaged or no JSON, OSError."""
    with path.open("rb") as raw:
        head = raw.read(HEAD_BYTES)
        if problem := no_json(head, path):
            raise ConfigError(f"{path} is {problem}")
        with _unpacked(raw, head, path) as file:
            if head.startswith((*PACKED,)) and (problem := _no_json_inside(file.peek(HEAD_BYTES)[:HEAD_BYTES], path)):
                raise ConfigError(f"{path} is packed, and inside {problem}")
            yield file


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a file, unpacked. Raises ConfigError for a file that is damaged, or packed and stands for more
    than anybody's records, OSError."""
    with path.open("rb") as raw, _unpacked(raw, raw.read(HEAD_BYTES), path) as file:
        yield file


@contextmanager
def _unpacked(raw: BinaryIO, head: bytes, path: Path) -> Iterator[io.BufferedReader]:
    raw.seek(0)
    name = next((name for magic, name in PACKED.items() if head.startswith(magic)), "")
    try:
        yield io.BufferedReader(_decompressed(raw, name, path), READ_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, name, error) from None
    except Exception as error:
        # bz2 raises OSError without a number, lzma an error of its own.
        if not name or isinstance(error, ConfigError) or getattr(error, "errno", None):
            raise
        if not (isinstance(error, OSError) or type(error).__module__ == "_lzma"):
            raise
        if "Memory usage limit" in str(error):
            most = f"{path} needs more than {MOST_MEMORY_BYTES / MIB:g} MiB to unpack"
            raise ConfigError(f"{most}: unpack it (xz -d), or pack it by xz -6") from None
        raise _damaged(path, name, error) from None


def _decompressed(raw: BinaryIO, name: str, path: Path) -> Any:
    if not name:
        return raw
    try:
        module = import_module(name)
        content = _Xz(raw, module) if name == "lzma" else module.open(raw)
        return Bounded(content, path, os.fstat(raw.fileno()).st_size)
    except ImportError:
        said = f"{path} is packed by {name}, which this Python was built without: unpack it, or pack it by gzip"
        raise ConfigError(said) from None


class _Xz(io.RawIOBase):
    """The content of an xz file. The file itself says how much memory unpacking takes, up to 4 GiB, and lzma.open
    would follow it."""

    def __init__(self, raw: BinaryIO, lzma: Any) -> None:
        self._raw = raw
        self._decoder = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, MOST_MEMORY_BYTES)
        self._stream = self._decoder()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stream.eof:  # another stream may follow, behind zeros
                packed = self._stream.unused_data.lstrip(b"\0")
                while not packed and (block := self._raw.read(READ_BYTES)):
                    packed = block.lstrip(b"\0")
                if not packed:
                    return 0
                self._stream = self._decoder()
            else:
                packed = self._raw.read(READ_BYTES) if self._stream.needs_input else b""
                if not packed and self._stream.needs_input:
                    raise EOFError("it ends too early")
            if content := self._stream.decompress(packed, len(buffer)):
                buffer[: len(content)] = content
                return len(content)


def _damaged(path: Path, name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{path} is a damaged {name} file ({error}): pack it again")


def no_json(head: bytes, path: Path) -> str | None:
    """What the file at `path`, whose content begins with `head`, is instead of JSON, and what helps; None for a file
    that may hold JSON."""
    if kind := next((kind for magic, kind in TABLE_MAGICS.items() if head.startswith(magic)), None):
        named = path if path.suffix == f".{kind}" else path.with_suffix(f".{kind}")
        first = "" if named == path else f"name it {named.name}, then "
        return f"{kind}, and no JSON: {first}{convert_command(str(named))}"
    kind = kind_of(head, path)
    if kind and not (kind.startswith(TEXT) and separator(head)):  # many call a table .txt
        return kind
    if kind := next((kind for magic, kind in ARCHIVE_MAGICS.items() if head.startswith(magic)), None):
        return f"{kind}, and no JSON: {unpack_advice(path)}"
    if head[TAR_PLACE:].startswith(TAR):
        return f"a tar archive, and no JSON: unpack it (tar -xf {path.name}), and name what was in it"
    if head.startswith(PAGES):
        return "a web page, and no JSON: fetch the file that the page leads to"
    if head.startswith(POINTER):
        return "a pointer of Git LFS, and no JSON: git lfs pull fetches the file"
    if head.removeprefix(BOM_UTF8).lstrip().startswith(OF_PYTHON):
        return "in Python's notation, and no JSON: json.dumps writes a record as JSON"
    if head.startswith(MAGICS):
        return None  # its bytes may look like a table's; what is in it is looked at when it is unpacked
    if is_binary(head):
        return described(BINARY, path)
    encoding = json.detect_encoding(head[:4]).upper()
    if not encoding.startswith("UTF-8"):
        return f"{encoding[:6]}: save it as UTF-8"
    if sign := separator(head):
        named = path.with_suffix(".tsv" if sign == "\t" else ".csv")
        how = f"name it {named.name}, then {convert_command(str(named))}"
        return f"a table with {SEPARATORS[sign]} between its cells, and no JSON: {how}"
    return None


def _no_json_inside(head: bytes, path: Path) -> str | None:
    """As `no_json`, of what is in a packed file."""
    return "packed again: unpack it once" if head.startswith((*PACKED,)) else no_json(head, path)


def separator(head: bytes) -> str:
    """What stands between the cells of a table that begins with `head`; "" where it begins like no table, whose first
    two lines have as many cells, the first one's being different names."""
    lines = head.decode(errors="replace").removeprefix("\ufeff").splitlines()[:2]
    cut = len(head) >= HEAD_BYTES and head.count(b"\n") < 2
    if len(lines) < 2 or any(line.lstrip().startswith(("{", "[", '"{')) for line in lines):
        return ""
    for sign in SEPARATORS:
        try:
            names, cells = csv.reader(lines, delimiter=sign)
        except (csv.Error, ValueError):
            continue
        alike = len(names) == len(cells) or (cut and 1 < len(cells) < len(names))
        if alike and len(names) == len({*names} - {""}) > 1:
            return sign
    return ""
