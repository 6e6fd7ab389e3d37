"""Plain text for people: sizes, wrapped lines and aligned tables. No colours, independent of the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

GIB = 1024**3
# Of an example in a log: lines at either end, characters a line.
EXAMPLE_LINES, EXAMPLE_CHARS = 2, 300


def gib(size_bytes: int) -> str:
    """`size_bytes` in GiB with useful digits: 0.05, 1.49, 41.3."""
    size = size_bytes / GIB
    return f"{size:.1f}" if abs(size) >= 9.995 else f"{size:.2f}"


def time_left(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def wrap(text: str, *, width: int, prefix: str = "") -> str:
    """`text` broken at spaces, at most `width` columns; lines after the first align behind `prefix`."""
    lines = textwrap.wrap(text, width - len(prefix), break_long_words=False, break_on_hyphens=False)
    return prefix + f"\n{' ' * len(prefix)}".join(lines)


def format_table(rows: Sequence[Sequence[str]], *, rules_before: Sequence[int] = ()) -> str:
    """`rows` in aligned columns, the first to the left and the others to the right.

    A line of dashes precedes each row whose index is in `rules_before`. All rows must have the same length.
    """
    rows = [tuple(map(printable, row)) for row in rows]  # a label or a folder's name may hold any character
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for index, (first, *others) in enumerate(rows):
        if index in rules_before:
            lines.append("-" * (sum(widths) + 2 * len(others)))
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def shown(text: str) -> str:
    """`text` on one line, escaped where necessary, and shortened if it is long."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def without_middle(text: str, most: int) -> str:
    """`text`, or about `most` characters of it: its beginning and its end."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def brief_example(text: str) -> str:
    """An example of several lines for a log: its first and last lines, none of them long."""
    lines = text.split("\n")
    if len(lines) > 2 * EXAMPLE_LINES:
        lines[EXAMPLE_LINES:-EXAMPLE_LINES] = [f"... {len(lines) - 2 * EXAMPLE_LINES} more parts ..."]
    return "\n".join(without_middle(line, EXAMPLE_CHARS) for line in lines)


def plain_or_shown(text: str) -> str:
    """`text` unchanged if it is one plain word, a number or a path, else as `shown`."""
    return text if re.fullmatch(r"[A-Za-z0-9_./:,@%+=~-]{1,255}", text) else shown(text)


def printable(text: str) -> str:
    """`text` with every character that a terminal would act on escaped: ESC, BEL, newlines, marks that reverse
    text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, but newlines stay."""
    return "\n".join(map(printable, text.split("\n")))


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: one line, without a bar that would begin the next cell."""
    return printable(text).replace("|", "\\|")


def nearest(word: str, known: Sequence[str]) -> str:
    """`, did you mean X?` when a known name is similar, else ""."""
    import difflib  # imported late: needed only for error messages

    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f", did you mean {by_lower[close[0]]}?" if close else ""


def known_are(word: str, known: Iterable[str]) -> str:
    """The words behind an unknown name: the one that may have been meant, and all known names."""
    names = list(known)
    return f"{nearest(word, names) or ':'} known are {', '.join(names)}"
