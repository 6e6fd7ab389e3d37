"""What a record's pictures and words are, to tell whether two records show the model the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from trainer.data.grid import load_image
from trainer.data.looks import look
from trainer.data.turns import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file of a picture, looked at."""

    digest: str = ""
    """Digest of its pixels as the model sees them; empty when it does not open."""
    size: tuple[int, int] | None = None
    """(width, height); None when it does not open."""
    look: bytes = b""
    """What it looks like, whatever its exact pixels."""
    error: str = ""


def open_file(path: str) -> File:
    try:
        image = load_image(path)
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        return File(digest=digest, size=image.size, look=look(image))
    except OSError as error:
        return File(error=str(error))


def contents(record: Record, files: Mapping[str, File]) -> tuple[str, ...]:
    """Hashes of what is shown before each answer that is learned: pictures by their pixels and text as it is, the same
    for two records that show the model the same."""
    digest, found = hashlib.sha256(), []
    for turn in record.turns:
        if turn.learned:
            found.append(digest.hexdigest())
        parts = [part if isinstance(part, str) else [files[path].digest for path in part.paths] for part in turn.parts]
        digest.update(repr((turn.role, parts)).encode())
    return (*found, digest.hexdigest())


def arrangement(record: Record, files: Mapping[str, File]) -> Hashable:
    """All that the number of tokens which pictures add depends on: how many files make each and how large these are,
    their order, and the edges of the texts, which a tokenizer may join with what the processor puts around a picture
    (spaces, newlines, and signs in front of them)."""
    turns = []
    for turn in record.turns if record.pictures else ():
        parts = [_edges(p) if isinstance(p, str) else tuple(files[path].size for path in p.paths) for p in turn.parts]
        turns.append((turn.role, *parts))
    return tuple(turns)


def _edges(text: str) -> tuple[str, str]:
    """What of a text goes from either end to its first letter or digit, that included."""
    start = next((place for place, sign in enumerate(text) if sign.isalnum()), len(text) - 1)
    end = next((place for place in reversed(range(len(text))) if text[place].isalnum()), 0)
    return text[: start + 1], text[end:]
