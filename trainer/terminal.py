"""Keeps the terminal's last row for the progress of a run; all other output scrolls above it.

The rows above become the terminal's scrolling region, as in apt. So the lines of this process, of its libraries, of
other ranks and of the supervisor stay whole, and none of them can reach the last row. When output goes to a file or a
pipe, nothing is drawn.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trainer import log
from trainer.secret_shapes import told
from trainer.text import wrap

SAVE, RESTORE = "\x1b7", "\x1b8"  # save and restore the cursor's place
# the region is the whole screen again; the saved cursor undoes the jump that this causes
WHOLE = f"{SAVE}\x1b[r{RESTORE}"
MIN_COLUMNS, MIN_ROWS = 20, 4
LEAST_BAR = 6  # columns; words are left out before the bar is shorter


def size() -> tuple[int, int] | None:
    """(columns, rows) of the terminal of standard output and error; None when there is no terminal that can move its
    cursor."""
    try:
        if os.environ.get("TERM", "") in ("", "dumb") or not (sys.stdout.isatty() and sys.stderr.isatty()):
            return None
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or replaced by an object that is not a file
        return None
    return (columns, rows) if columns >= MIN_COLUMNS and rows >= MIN_ROWS else None


class LastRow:
    """The bar in the last row. Only one process of a run may draw it."""

    def __init__(self) -> None:
        self._shown: tuple[str, float | None, tuple[str, ...]] | None = None
        self._taken: tuple[int, int] | None = None
        """The terminal's size when its last row was taken."""

    def show(self, before: str, share: float | None = None, *behind: str) -> None:
        """Show `before`, a bar filled to a `share` of 1, and the parts `behind` it, the most important one first: a
        narrow terminal has no room for the last ones."""
        self._shown = before, share, tuple(filter(None, behind))
        if not (found := size()):
            return
        columns, rows = found
        text = ""
        if self._taken is None:
            atexit.register(self.clear)
        if self._taken != found:  # also after the window was resized
            # A row down, which scrolls at the bottom, and up again, so that the cursor is not in the last row.
            text = f"{WHOLE}\x1bD\x1b[A{SAVE}\x1b[1;{rows - 1}r{RESTORE}"
            self._taken = found
        _write(f"{text}{SAVE}\x1b[{rows};1H{_line(*self._shown, columns - 1)}\x1b[K{RESTORE}")

    def clear(self) -> None:
        """Free the row."""
        if self._taken:
            _write(f"{WHOLE}{SAVE}\x1b[{self._taken[1]};1H\x1b[K{RESTORE}")
            atexit.unregister(self.clear)
        self._shown = self._taken = None

    @contextmanager
    def counting(self, total: int, what: str, *, drawn: bool) -> Iterator[Callable[[int], None]]:
        """Yields a function to call with the number of newly done items of `total`; at the end the earlier row is
        shown again."""
        before, done = self._shown, 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            if drawn and total:
                self.show(what, done / total, f"{done}/{total}")

        count(0)
        try:
            yield count
        finally:
            if drawn and before:
                what, share, behind = before
                self.show(what, share, *behind)
            elif drawn:
                self.clear()


LAST_ROW = LastRow()


def give_back() -> None:
    """Free the last row after processes that may have been killed while they used it; its content is erased."""
    if size():
        _write(f"{WHOLE}\x1b[J")


def say(text: str) -> None:
    """Log `text`, broken at spaces for a narrow terminal. It may come from a record, so characters that a terminal
    would act on are escaped. Secrets are hidden before a line is broken, because a token on two lines would not be
    recognised."""
    found = size()
    lines = [told(line) for line in text.split("\n")]
    if found:
        lines = [line if len(line) <= found[0] else _broken(line, found[0]) for line in lines]
    log.say("\n".join(lines))


def _broken(line: str, columns: int) -> str:
    first, *rest = wrap(line, width=columns).split("\n")
    return "\n".join([first, *(wrap(" ".join(rest), width=columns - 2, prefix="  ").split("\n") if rest else ())])


def _line(before: str, share: float | None, parts: Sequence[str], columns: int) -> str:
    """The row in at most `columns` columns; the bar takes the space that the words leave."""
    while True:
        behind = "  ".join(parts)
        room = columns - len(before) - len(behind) - 2
        if room >= LEAST_BAR or len(parts) < 2:
            break
        parts = parts[:-1]
    if share is None or room < 4:
        return f"{before} {behind}"[:columns]
    full, empty = "━─" if (sys.stderr.encoding or "").lower().startswith("utf") else "#-"
    done = round(share * room)
    return f"{before} {full * done}{empty * (room - done)} {behind}"


def _write(text: str) -> None:
    """Write `text` in one call, so that no output of another process comes between."""
    os.write(sys.stderr.fileno(), text.encode(sys.stderr.encoding or "ascii", "replace"))
