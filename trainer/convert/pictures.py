"""Stores the pictures of a record once by their content, and puts their new paths into the record."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

from trainer.convert.fetch import fetch
from trainer.data.columns import ANSWERS, IMAGE_KEYS, QUESTIONS
from trainer.data.conversation import IMAGE_PART_KEYS
from trainer.data.images import find_image
from trainer.data.inline import DATA, MAGIC, as_data, file_path, unpack_bytes
from trainer.data.names import PICTURES, kind_of_file, kind_of_name
from trainer.data.turns import FormError
from trainer.data.unread import LONGEST_PATH
from trainer.files import MIB, MOST_MIB, without_link, write_whole

FOLDER = "pictures"
SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


class PictureStore:
    """The folder of pictures of one conversion."""

    def __init__(
        self, out: Path, source: Path | None, *, root: Path | None = None, bounds: Path | None = None,
        private: bool = False,
    ) -> None:  # fmt: skip
        """Relative paths of pictures are relative to `source`, or else to `root`; with None no file of this machine is
        read, and with `bounds` none outside of that folder. With `private`, pictures are also fetched from this machine
        and from private networks."""
        without_link(out / FOLDER)
        self._private = private
        self._out = out
        self._source = source
        self._root = str(root) if root else None
        self._bounds = os.path.realpath(bounds) if bounds else None
        self._stored: dict[str, str] = {}
        """New path by old path or address."""
        self.count = 0
        self.lost: Counter[str] = Counter()
        """Why pictures could not be stored, and how many."""
        self.first_lost = ""

    def take(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with each picture as a path in the folder; a picture that cannot be stored stays as it was."""
        taken = {key: self._value(key, value) for key, value in record.items()}
        if taken == record and not any(record.get(key) for key in IMAGE_KEYS):
            found = {key: stored for key, value in record.items() if (stored := self._beside(key, value))}
            return _named({**taken, **found}, list(found))
        return _named(taken, [key for key, value in record.items() if _holds_bytes(value) and key not in IMAGE_KEYS])

    def _beside(self, key: str, value: Any) -> str | None:
        """The stored path of a picture that lies beside a table and is named in a column of any name, but for those of
        questions and answers."""
        if key in (*QUESTIONS, *ANSWERS) or not isinstance(value, str) or kind_of_file(value) != PICTURES:
            return None
        if self._source is None or find_image(value, self._source, self._root) is None:
            return None
        stored = self._text(value)
        return stored if stored != value else None

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(key, each) for each in value]
        if isinstance(value, dict):
            if _is_picture(value):
                return self._store_dict(value)
            return {name: self._value(name, each) for name, each in value.items()}
        if isinstance(value, bytes):
            return self._bytes(value) if value.startswith(MAGIC) else f"{len(value)} bytes"
        if isinstance(value, str) and (kind_of_name(key) == PICTURES or key in (*IMAGE_KEYS, *IMAGE_PART_KEYS)):
            return self._text(value)
        return self._text(value) if isinstance(value, str) and value.startswith("data:image/") else value

    def _store_dict(self, value: dict[str, Any]) -> Any:
        if value.get("bytes"):
            content = value["bytes"]
            return self._bytes(content) if isinstance(content, bytes) else self._text(str(content))
        return self._text(str(value.get("path") or value.get("url")))

    def _bytes(self, content: bytes) -> str:
        """The stored path of a picture's bytes; what they are in words where they are none."""
        try:
            return self._put(content)
        except ValueError as error:
            self._lose(name := f"{len(content)} bytes", error)
            return name

    def _lose(self, name: str, error: Exception) -> None:
        self.lost[f"{type(error).__name__}"] += 1
        self.first_lost = self.first_lost or f"{name[:100]}: {' '.join(str(error).split())}"

    def _text(self, name: str) -> str:
        """The stored path of the picture that a text holds or names (data, address or path); else the text itself."""
        inline = as_data(name)
        if name in self._stored:
            return self._stored[name]
        try:
            if inline.startswith(DATA):
                return self._put(unpack_bytes(inline))
            if len(name) > 8 * LONGEST_PATH or "\n" in name:
                return name
            content = self._content(name)
        except (FormError, OSError, ValueError) as error:
            self._lose(name, error)
            return name
        if content is None:
            return name  # words
        self._stored[name] = self._put(content)
        return self._stored[name]

    def _content(self, name: str) -> bytes | None:
        """The bytes that an address or a file holds; None when `name` is neither. Raises OSError, ValueError."""
        name = file_path(name)
        if "://" in name:
            return _checked(fetch(name, private=self._private))
        found = find_image(name, self._source, self._root) if self._source else None
        if found is None:
            if "." in name and " " not in name:
                raise OSError("is not there")
            return None
        if self._bounds and not os.path.realpath(found).startswith(f"{self._bounds}{os.sep}"):
            raise OSError("lies outside of the data set")
        with found.open("rb") as file:
            return _checked(file.read(MOST_MIB * MIB + 1))

    def _put(self, content: bytes) -> str:
        name = hashlib.sha256(_checked(content)).hexdigest()
        suffix = next((suffix for magic, suffix in SUFFIXES.items() if content.startswith(magic)), ".tiff")
        path = f"{FOLDER}/{name[:2]}/{name}{suffix}"
        if not (self._out / path).is_file():
            write_whole(self._out / path, content, sync=False)
            self.count += 1
        return path


def _checked(content: bytes) -> bytes:
    if len(content) > MOST_MIB * MIB:
        raise ValueError(f"is longer than {MOST_MIB} MiB")
    if not content.startswith(MAGIC):
        raise ValueError("is no picture")
    return content


def _is_picture(value: dict[str, Any]) -> bool:
    return value.keys() <= {"bytes", "path"} and bool(value.get("bytes") or value.get("path"))


def _holds_bytes(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return (isinstance(first, bytes) and first.startswith(MAGIC)) or (isinstance(first, dict) and _is_picture(first))


def _named(record: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    """The record with the pictures of other columns moved to `image` or `images`, in the order of the columns."""
    if not columns or any(record.get(key) for key in IMAGE_KEYS):
        return record
    found = [path for key in columns for path in (record[key] if isinstance(record[key], list) else [record[key]])]
    rest = {key: value for key, value in record.items() if key not in columns}
    return {"image": found[0], **rest} if len(found) == 1 else {"images": found, **rest}
