"""Pictures that a record holds itself, as a data: address or as bare base64. They are stored once by their content,
as temporary files of this machine. And what a file: address means."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from trainer.data.turns import FormError
from trainer.files import write_whole
from trainer.outcome import ConfigError

DATA = "data:"
URL_SAFE = str.maketrans("-_", "+/")
FILE = re.compile(r"file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)  # Java writes file:/data/0.png
UNPACKED = ".picture"
# The first bytes of picture files, as bytes and in base64.
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
BASE64_MAGIC = ("iVBORw0KGg", "/9j/", "R0lGOD", "UklGR")
SCHEME_CHARS = 12
"""Characters at the beginning of a name, among which the colon of `data:` and of an address stands."""
SHORTEST = 64
"""Fewest characters of base64 that can be a picture; a path may begin like one."""


def is_path(name: str) -> bool:
    """Whether a name can only be a path: no address, and no picture in base64."""
    return ":" not in name[:SCHEME_CHARS] and not name.startswith(BASE64_MAGIC)


def as_data(name: str) -> str:
    """`name`, with bare base64 turned into a data: address."""
    if name[: len(DATA)].lower() == DATA:
        return DATA + name[len(DATA) :]
    bare = name.startswith(BASE64_MAGIC) and len(name) >= SHORTEST and "." not in name[:SHORTEST]
    return f"{DATA};base64,{name}" if bare else name


def file_path(name: str) -> str:
    """The path that a file: address means; any other name as it is."""
    found = FILE.match(name)
    return unquote(name[found.end() :]) if found else name


def unpack_bytes(address: str) -> bytes:
    """The content of the file that a data: address holds. Raises FormError."""
    header, comma, text = address.partition(",")
    try:
        content = base64.b64decode("".join(text.split()).translate(URL_SAFE), validate=True) if comma else b""
    except (binascii.Error, ValueError):
        content = b""
    if not header.endswith(";base64") or not content.startswith(MAGIC):
        raise FormError(f": {address[:32]}... is no picture in base64", "a data: address that is no picture in base64")
    return content


def unpack(address: str, *, write: bool) -> str:
    """The path of the picture at a data: address; without `write` the file is not made. Raises FormError,
    ConfigError."""
    content = unpack_bytes(address)
    path = picture_folder() / f"{hashlib.sha256(content).hexdigest()}{UNPACKED}"
    if write and not path.is_file():
        try:
            write_whole(path, content, sync=False)
        except OSError as error:
            raise ConfigError(
                f"a picture out of the records cannot be written to {path.parent} ({error.strerror}): "
                "TMPDIR names another folder"
            ) from None
    return str(path)


@cache
def picture_folder() -> Path:
    """A folder for temporary files that belongs to this user alone."""
    folder = Path(tempfile.gettempdir(), f"trainyard-pictures-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
            folder = Path(tempfile.mkdtemp(prefix="trainyard-pictures-"))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="trainyard-pictures-"))
    return folder
