"""Fingerprints of a record's pictures and words, which tell whether two records show the model the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from trainer.data.grid import load_seen
from trainer.data.looks import look
from trainer.data.turns import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file of a picture, after opening it."""

    digest: str = ""
    """Digest of the pixels as the model sees them; empty when the file does not open."""
    size: tuple[int, int] | None = None
    """(width, height); None when the file does not open."""
    grey_bits: int = 0
    """Bits that the greys of a 16-bit file are taken to use; 0 for any other file."""
    look: bytes = b""
    """A rough fingerprint of the picture that survives small changes of its pixels."""
    animated: bool = False
    """Whether the file holds further pictures behind the first one, which alone is shown."""
    error: str = ""


def open_file(path: str) -> File:
    try:
        image, bits, animated = load_seen(path)
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        return File(digest=digest, size=image.size, grey_bits=bits, look=look(image), animated=animated)
    except OSError as error:
        return File(error=str(error))


def contents(record: Record, files: Mapping[str, File]) -> tuple[str, ...]:
    """For each learned answer, a hash of the pixels and text shown before it; equal for two records that show the
    model the same."""
    digest, found = hashlib.sha256(), []
    for turn in record.turns:
        if turn.learned:
            found.append(digest.hexdigest())
        parts = [part if isinstance(part, str) else [files[path].digest for path in part.paths] for part in turn.parts]
        digest.update(repr((turn.role, parts)).encode())
    return (*found, digest.hexdigest())


def arrangement(record: Record, files: Mapping[str, File]) -> Hashable:
    """Everything that decides how many tokens the pictures add: the number and sizes of the files of each picture,
    their order, and the edges of the texts, which a tokenizer may join with what the processor puts around a picture
    (spaces, newlines, and punctuation in front of them)."""
    turns = []
    for turn in record.turns if record.pictures else ():
        parts = [_edges(p) if isinstance(p, str) else tuple(files[path].size for path in p.paths) for p in turn.parts]
        turns.append((turn.role, *parts))
    return tuple(turns)


def wording(record: Record) -> Hashable:
    """Everything that decides which text the record is rendered to: its words, and the places of its pictures."""
    turns = ((t.role, t.learned, *(p if isinstance(p, str) else None for p in t.parts)) for t in record.turns)
    return (*turns, record.answer)


def _edges(text: str) -> tuple[str, str]:
    """The two ends of a text, each up to and including its first letter or digit."""
    start = next((place for place, sign in enumerate(text) if sign.isalnum()), len(text) - 1)
    end = next((place for place in reversed(range(len(text))) if text[place].isalnum()), 0)
    return text[: start + 1], text[end:]
