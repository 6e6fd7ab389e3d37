"""The rows of csv files as texts. The datasets library would turn 0012 into 12, and N/A into nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.file_kinds import HEAD_BYTES
from trainer.data.file_names import is_picture_name
from trainer.data.growth import Bounded
from trainer.data.packed import MAGICS, PACKED, separator, unpacked
from trainer.outcome import ConfigError
from trainer.text import shown

ROWS_AT_ONCE = 1_000


class CsvRows:
    """The rows of csv files, every cell as the text that it is: 0012 stays 0012, and an empty cell empty."""

    def __init__(self, files: Sequence[str], options: dict[str, Any]) -> None:
        self._files = files
        self._options = options

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import pandas  # type: ignore[import-untyped]

        as_text = {"dtype": str, "keep_default_na": False, "na_filter": False, "chunksize": ROWS_AT_ONCE}
        for file in self._files:
            options = {**self._options, **_separated(file, self._options), **as_text}
            try:
                with _content(file) as content, pandas.read_csv(content, **options) as chunks:
                    for chunk in chunks:
                        chunk.columns = _names(file, chunk, pandas.RangeIndex)
                        yield from chunk.to_dict("records")
            except UnicodeDecodeError:
                raise ConfigError(f"{file} is not UTF-8: save it as UTF-8") from None
            except pandas.errors.EmptyDataError:
                raise ConfigError(f"{file} is empty") from None


@contextmanager
def _content(file: str) -> Iterator[Any]:
    """What pandas reads: a packed file of this machine as what is in it, which has bounds; any other by its name."""
    if not os.path.isfile(file) or not _head(file).startswith((*PACKED,)):
        yield file
        return
    with unpacked(Path(file)) as content:
        try:
            yield content
        except Exception:
            if isinstance(content.raw, Bounded) and content.raw.raised:
                raise content.raw.raised from None
            raise


def _head(file: str) -> bytes:
    with open(file, "rb") as content:
        return content.read(HEAD_BYTES)


def _names(file: str, chunk: Any, numbered: type) -> list[str]:
    """The names of a table's columns; their numbers where the set says that no line names them. Raises ConfigError for
    a table whose first line does not name its columns, each by a name of its own."""
    if not isinstance(chunk.index, numbered):  # else every cell stands one column too far left
        raise ConfigError(f"{file}: rows have more cells than the first line has names")
    names = [str(name).strip() for name in chunk.columns]
    if twice := next((name for name, times in Counter(names).items() if times > 1), None):
        raise ConfigError(f"{file}: two columns are called {shown(twice)}: give each a name of its own")
    if any(map(is_picture_name, names)):
        held = shown(", ".join(names))
        raise ConfigError(
            f"{file}: its first line is a record ({held}): put names in front of it: image,question,answer"
        )
    return names


def _separated(file: str, options: dict[str, Any]) -> dict[str, str]:
    """The option that says what separates the cells of a csv file, where it is no comma: spreadsheets in many
    languages write semicolons."""
    if options.get("sep", ",") != "," or not os.path.isfile(file):
        return {}
    head = _head(file)
    sign = "" if head.startswith(MAGICS) else separator(head)
    return {"sep": sign} if sign else {}
