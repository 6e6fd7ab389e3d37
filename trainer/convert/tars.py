"""Bounds what is read of a tar of webdataset, whose members the datasets library reads whole."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from trainer.data.file_kinds import HEAD_BYTES
from trainer.data.packed import MAGICS
from trainer.outcome import ConfigError
from trainer.text import GIB, shown

MOST_MEMBER_BYTES = GIB
"""A video beside a picture may have some hundred MiB; a picture or a record has a tenth of it."""


def refuse_packed(path: Path) -> None:
    """Raises ConfigError for a packed file under the name of a tar: a megabyte of it may unpack to all memory, since
    a member is read whole."""
    for tar in [path] if path.is_file() else sorted(path.rglob("*.[tT][aA][rR]")):
        if tar.suffix.lower() == ".tar" and tar.is_file():
            with tar.open("rb") as file:
                if file.read(HEAD_BYTES).startswith(MAGICS):
                    raise ConfigError(f"{tar} is packed: unpack it (tar -xf), and pack it again by tar -cf alone")


def bound_members(builder: Any) -> None:
    """Make a builder of the library's read the members of its tars by `_members`; any other builder stays as it is."""
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    if isinstance(builder, WebDataset):
        builder._get_pipeline_from_tar = partial(_samples, builder._get_pipeline_from_tar)


def _samples(read: Any, tar: str, members: Any) -> Any:
    return read(tar, _members(tar, members))


def _members(tar: str, members: Iterator[tuple[str, IO[bytes]]]) -> Iterator[tuple[str, IO[bytes]]]:
    """The members of a tar, each within bounds. Raises ConfigError for a packed one, which the library would unpack,
    and for those of which tar keeps only the parts that are no zeros."""
    from datasets.filesystems import EXTENSION_TO_COMPRESSION_FS_FILE_CLS as UNPACKED

    left_bytes = os.path.getsize(tar) if os.path.isfile(tar) else None
    for name, file in members:
        if name.lower().endswith((*UNPACKED,)):
            raise ConfigError(f"{tar}: {shown(name)} is packed: unpack it, and pack the tar again")
        most = MOST_MEMBER_BYTES if left_bytes is None else min(MOST_MEMBER_BYTES, left_bytes)
        content = file.read(most + 1)
        if len(content) > MOST_MEMBER_BYTES:
            raise ConfigError(f"{tar}: {shown(name)} has more than {MOST_MEMBER_BYTES / GIB:g} GiB: take it out")
        if len(content) > most:
            raise ConfigError(f"{tar} holds more than its size, in sparse files: pack it again without --sparse")
        left_bytes = None if left_bytes is None else left_bytes - len(content)
        yield name, io.BytesIO(content)
