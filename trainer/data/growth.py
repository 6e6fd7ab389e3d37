"""Limits how much a small file may stand for. bzip2 packs a thousand million ends of lines into a kilobyte, and a table
a thousand million equal rows: nothing of it fills the memory, and reading it takes days."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.files import MIB
from trainer.outcome import ConfigError

FREE_BYTES, MOST_TIMES = 128 * MIB, 200
"""A file may stand for FREE_BYTES and MOST_TIMES its own size; texts are packed to a tenth."""
FREE_ROWS = 1_000_000


@dataclass(kw_only=True, slots=True)
class Growth:
    """What was made of one file, or of several."""

    name: str
    stored_bytes: int
    made_bytes: int = 0
    made_rows: int = 0

    def add(self, size_bytes: int, rows: int = 0) -> None:
        """Raises ConfigError for more than anybody's records."""
        self.made_bytes += size_bytes
        self.made_rows += rows
        if self.made_bytes > FREE_BYTES + MOST_TIMES * self.stored_bytes:
            raise ConfigError(f"{self.name} stands for more than {MOST_TIMES:,} times its size: look into it")
        if self.made_rows > FREE_ROWS + self.stored_bytes:
            raise ConfigError(f"{self.name} stands for more rows than it has bytes: look into it")


class Bounded(io.RawIOBase):
    """The content of a packed file, as long as it may be. Raises ConfigError behind that."""

    def __init__(self, unpacked: Any, path: Path, stored_bytes: int) -> None:
        self._unpacked = unpacked
        self._growth = Growth(name=str(path), stored_bytes=stored_bytes)
        self.raised: BaseException | None = None
        """What ended the reading; pandas has no word of it in its own error."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._unpacked.readinto(buffer)
            self._growth.add(count)
        except BaseException as error:
            self.raised = error
            raise
        return count
