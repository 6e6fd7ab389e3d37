"""A real pseudo-terminal with an emulator behind it: what a person sees, and can scroll back to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
from typing import Any

import pyte

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[78D=>]|\][^\x07]*\x07)")


class Terminal:
    """Standard output and error of those that open `path`."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns = columns
        self.master, self.slave = pty.openpty()
        self.path = os.ttyname(self.slave)
        self.screen: Any = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._escape = b""
        """The beginning of an escape sequence whose end has not been read."""
        self.last_rows: list[str] = []
        """All that has stood in the last row whenever the cursor was put back, in order."""
        self.resize(columns, rows)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.columns = columns
        self.screen.resize(rows, columns)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has the other side open any more
            while data := os.read(self.master, 65536):
                self.feed(data)

    def feed(self, data: bytes) -> None:
        """Show what was read. The kernel may cut it anywhere, so a row may be half drawn at its end."""
        self.raw += data
        data = self._escape + data
        self._escape = b"\x1b" if data.endswith(b"\x1b") else b""
        for part in re.split(rb"(?<=\x1b8)", data.removesuffix(self._escape)):
            self._stream.feed(part)
            last = self.screen.display[-1].rstrip()
            if part.endswith(b"\x1b8") and self.last_rows[-1:] != [last]:
                self.last_rows.append(last)

    def lines(self) -> list[str]:
        """Scrolled away and on the screen, without what stands in the last row."""
        away = ["".join(row[x].data for x in range(self.columns)).rstrip() for row in self.screen.history.top]
        return [*away, *(line.rstrip() for line in self.screen.display)]

    def printed(self) -> list[str]:
        """Lines as they were written, however long, without moves of the cursor and the text behind them."""
        text = re.sub(r"\x1b7.*?\x1b8", "", self.raw.decode(errors="replace"), flags=re.S)
        return [line.rpartition("\r")[2] for line in ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")]

    def close(self) -> None:
        """Wait until everything that was written has been read."""
        os.close(self.slave)
        self._reader.join(20)
        os.close(self.master)
