"""The objects in a JSON file, however it is written: one a line, an array, pretty-printed or one after another, also
packed. Only one object is in memory at a time. In a file of lines, a wrong line is one fault. In other files,
nothing behind a mistake in the JSON can be read."""

from __future__ import annotations

import codecs
import io
import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.packed import READ_BYTES, opened
from trainer.data.turns import FormError
from trainer.files import MIB, MOST_MIB, bounded_lines, check_depth, parse_json
from trainer.outcome import ConfigError

# Half of an escaped surrogate pair, as far as a pattern can find it without decoding the escapes one by one.
HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)
CHUNK_CHARACTERS = 1 << 18
BETWEEN = re.compile(r"[\s,\ufeff]*")  # between elements; some files have commas behind lines too
NOT_JSON = "is not JSON"
NO_OBJECT = "is not an object"

Found = tuple[str, dict[str, Any] | FormError]


def read_objects(path: Path) -> Iterator[Found]:
    """Pairs of (where in the file, the object or its fault). Raises ConfigError for a file that is not text,
    OSError."""
    with opened(path) as file:
        head = file.peek(READ_BYTES)[:READ_BYTES]
        yield from _lines(file) if _is_lines(head) else _values(file, path)


def read_stream(file: io.BufferedReader) -> Iterator[Found]:
    """As `read_objects`, but each line as soon as it arrives. Raises ConfigError."""
    head = file.peek(READ_BYTES)[:READ_BYTES]
    begun = b"\n" not in head and not head.lstrip().startswith(b"[")  # the first line has not arrived completely
    yield from _lines(file) if begun or _is_lines(head) else _values(file, Path("-"))


def _is_lines(head: bytes) -> bool:
    """Whether a file that begins with `head` has one object a line."""
    lines = [line for line in head.removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip()]
    first = lines[0].strip() if lines else b""
    if not first.startswith((b"{", b"[")):
        return True
    if first.startswith(b"["):
        return False
    if _is_object(first):
        return True
    # Either one wrong line, or the beginning of an object that goes on: a pretty-printed one indents its content.
    return (len(lines) == 1 and len(head) >= READ_BYTES) or any(map(_is_object, lines[1:]))


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(file: BinaryIO) -> Iterator[Found]:
    for number, line in enumerate(bounded_lines(file), start=1):
        if line.strip():
            try:
                yield f"line {number}", read_line(line)
            except FormError as error:
                yield f"line {number}", error


def read_line(line: bytes | str) -> dict[str, Any]:
    """The object that a line of a data file holds. Raises FormError."""
    if len(line) > MOST_MIB * MIB:
        raise FormError(f" {_too_long()}")
    try:
        # Bytes are accepted, so that a line that is not UTF-8 is reported like any other mistake.
        entry = parse_json(line.rstrip(), _parsed)
        return _checked(entry, line if isinstance(line, bytes) else line.encode(errors="surrogatepass"))
    except ValueError as error:
        said = _in_words(error) or (
            f"{error.msg.removesuffix(' at')} at column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else error
        )
        raise FormError(f" {NOT_JSON} ({said})", NOT_JSON) from None


def _too_long() -> str:
    return f"is longer than {MOST_MIB} MiB, the most of one object: split it, or write its records one a line"


def _in_words(error: Exception) -> str:
    """What is wrong, where Python's own words speak to who wrote the program; else ""."""
    return "it holds a number of thousands of digits" if "integer string conversion" in str(error) else ""


def _parsed(line: bytes | str) -> Any:
    """As json.loads, but an object with the same key twice is an error; json.loads would silently drop one value."""
    if isinstance(line, bytes):
        line = line.decode("utf-8" if line.startswith(b'{"') else json.detect_encoding(line), "surrogatepass")
    return DECODER.decode(line)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dictionary. Raises ValueError for a key that occurs twice."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError(_twice(pairs))
    return entry


def _twice(pairs: list[tuple[str, Any]]) -> str:
    names = [name for name, _ in pairs]
    return f"{next(name for name in names if names.count(name) > 1)!r} stands in an object twice"


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _checked(entry: Any, raw: bytes) -> dict[str, Any]:
    """`entry`, which was read from `raw`. Raises FormError unless it is an object, ValueError for text with half a
    surrogate pair."""
    if b"\xed" in raw or (b"\\u" in raw and HALF.search(raw)):
        json.dumps(entry, ensure_ascii=False).encode()  # raises for half of a surrogate pair
    if not isinstance(entry, dict):
        raise FormError(f" {NO_OBJECT}, got {reprlib.repr(entry)}", NO_OBJECT, cure="form")
    return entry


def _values(file: BinaryIO, path: Path) -> Iterator[Found]:
    """The values of arrays, or of objects that follow one another. Raises ConfigError where the file cannot be read
    further."""
    text, number, in_array = _Text(file, path), 0, False
    while text.skip(BETWEEN):
        if text.starts("]" if in_array else "["):
            text.place += 1
            in_array = not in_array
            continue
        number += 1
        try:
            entry, raw = text.value()
        except _TooLong as error:
            raise ConfigError(f"{path} record {number} {error}") from None
        except (ValueError, RecursionError) as error:
            said = _in_words(error) or str(error)
            if isinstance(error, json.JSONDecodeError):
                said = f"{error.msg} in line {text.line + error.lineno - 1}"
            raise ConfigError(f"{path} record {number} {NOT_JSON} ({said}): nothing behind it can be read") from None
        try:
            if text.twice:
                raise ValueError(text.twice)
            yield f"record {number}", _checked(check_depth(entry), raw.encode())
        except FormError as error:
            yield f"record {number}", error
        except ValueError as error:
            yield f"record {number}", FormError(f" {NOT_JSON} ({error})", NOT_JSON)
    if in_array:
        raise ConfigError(f"{path} ends within its array, behind record {number}: it may have been cut off")


class _TooLong(ValueError):
    """A value that is longer than what is read of one."""


class _Text:
    """A file's text from `place` on, read only as far as needed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._json = json.JSONDecoder(object_pairs_hook=self._object)
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self.place = 0
        self.line = 1
        """The line of the file at which the text in memory begins."""
        self.twice = ""
        """The fault of the last value when one of its objects holds a key twice."""

    def skip(self, signs: re.Pattern[str]) -> bool:
        """Move behind `signs`; returns whether anything follows."""
        while True:
            self.place = signs.match(self._text, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self._text) or not self._more():
                return self.place < len(self._text)

    def starts(self, sign: str) -> bool:
        return self._text.startswith(sign, self.place)

    def value(self) -> tuple[Any, str]:
        """(the value at `place`, its text). Raises ValueError, RecursionError."""
        while True:
            self.twice = ""
            try:
                value, end = self._json.raw_decode(self._text, self.place)
            except json.JSONDecodeError as error:
                # A value that is cut off fails at its end, or at the beginning of its cut string.
                cut = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if cut and len(self._text) - self.place > MOST_MIB * MIB:
                    raise _TooLong(_too_long()) from None
                if cut and self._more():
                    continue
                raise
            text = self._text[self.place : end]
            self.place = end
            return value, text

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The pairs as a dictionary. A key that occurs twice is only noted, because the text behind this value can
        still be read."""
        entry = dict(pairs)
        if len(entry) < len(pairs):
            self.twice = self.twice or _twice(pairs)
        return entry

    def _more(self) -> bool:
        """Read at least as much again as is in memory; returns False at the end of the file. Raises ConfigError for a
        file that is not text."""
        held = len(self._text) - self.place
        read = self._file.read(max(CHUNK_CHARACTERS, held))
        try:
            chunk = self._decode.decode(read, final=not read)
        except UnicodeDecodeError as error:  # in a file of lines this is a fault of the line
            raise ConfigError(f"{self._path} is not UTF-8 ({error.reason}): save it as UTF-8") from None
        if not read:
            return False
        self.line += self._text.count("\n", 0, self.place)
        self._text, self.place = self._text[self.place :] + chunk, 0
        return True
