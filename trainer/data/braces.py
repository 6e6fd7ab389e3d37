"""Braces in DATA, as a shell reads them: part{0,1}.jsonl, part{00..11}.jsonl."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

BRACES = r"\{(?:(\d{1,9})\.\.(\d{1,9})|[^{}]*,[^{}]*)\}"
MOST_NUMBERS = 10_000


def split_commas(data: str) -> tuple[str, ...]:
    """`data` at its commas, except those between braces."""
    return tuple(part.strip() for part in re.findall(r"(?:\{[^{}]*\}|[^,])+", data) if part.strip())


def expanded(pattern: str) -> Iterator[str]:
    """What a shell makes of `pattern`: one text for each choice of words between braces."""
    if not (braces := re.search(BRACES, pattern)):
        yield pattern
        return
    words: Iterable[str] = braces[0][1:-1].split(",")
    if first := braces[1]:
        numbers = islice(range(int(first), int(braces[2]) + 1), MOST_NUMBERS)
        words = (str(number).zfill(len(first)) for number in numbers)
    for word in words:
        yield from expanded(pattern[: braces.start()] + word + pattern[braces.end() :])
