"""What a training record says, whichever form it is written in: turns of text and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


class FormError(Exception):
    """What is wrong with one record, in words that follow the place where it stands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture as the model sees it."""

    paths: tuple[str, ...]
    """The file of a ready picture, or the four frames of a grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    role: Role
    parts: tuple[str | Picture, ...]
    learned: bool = False
    """An answer that has a loss; any other turn is only shown."""

    @property
    def text(self) -> str:
        return "".join([part for part in self.parts if isinstance(part, str)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What one record says."""

    turns: tuple[Turn, ...]
    """The last one is an answer."""
    unread: tuple[tuple[str, Any], ...] = ()
    """(key, value) of all that stands beside what was read."""
    no_picture: bool = False
    """A key of pictures is there, and says that there is none."""
    marked: bool = True
    """Whether there may be a marker in the text."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Picture))
