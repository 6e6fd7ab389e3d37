"""The content of a training record, whatever form it is written in: turns of text and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
# Spellings of TRL, LLaVA, LLaMA-Factory, OpenAI and of Gemma itself.
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant",
}  # fmt: skip


def role_of(said: object) -> Role | None:
    """The speaker that a turn names, also in brackets and capitals; None for any other word."""
    known = ROLES.get(said) if isinstance(said, str) else None
    return known or ROLES.get(str(said).strip("<|> \t\r\n").lower())


class FormError(Exception):
    """A fault of one record, in words that follow the place of the record."""

    def __init__(self, said: str, kind: str = "", *, cure: str = "") -> None:
        super().__init__(said)
        self.kind = kind or said.removeprefix(":").strip()
        """The same words for all records with this fault."""
        self.cure = cure
        """The advice that helps, by its name in trainer/data/faults.py."""


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture as the model sees it."""

    paths: tuple[str, ...]
    """The file of a ready picture, or the four frames of a grid."""


@lru_cache(maxsize=4096)
def picture_of(paths: tuple[str, ...]) -> Picture:
    """The picture of these files. Records that show the same one, mostly near each other in a set, share the
    object."""
    return Picture(paths=paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    role: Role
    parts: tuple[str | Picture, ...]
    learned: bool = False
    """Whether this is an answer that has a loss; any other turn is only shown."""

    @property
    def text(self) -> str:
        return "".join([part for part in self.parts if isinstance(part, str)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The content of one record."""

    turns: tuple[Turn, ...]
    """The last turn is an answer, or a user's turn behind it that nobody answers."""
    as_json: int = 0
    """Number of answers that are JSON values in the record, and are learned as their text."""
    unread: tuple[tuple[str, Any], ...] = ()
    """(key, value) of everything in the record that was not read."""
    no_picture: bool = False
    """Whether the record has a key for pictures whose value says that there is none."""
    marked: bool = True
    """Whether the text may contain a marker."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Picture))


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record that can be learned from."""

    turns: tuple[Turn, ...]
    """The turns shown before the last learned answer, in order; earlier answers that are learned too are marked so.
    All paths in them exist."""
    answer: str
    """The last answer that the model learns. Only learned answers have a loss."""
    session: str
    """Records of one session never fall on both sides of a split."""
    place: str = field(default="", compare=False)
    """Where it stands in its file, for a message."""

    @property
    def count(self) -> int:
        """The number of answers to learn."""
        return sum([turn.learned for turn in self.turns]) + 1

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers to learn."""
        return (*(turn.text for turn in self.turns if turn.learned), self.answer)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Picture))

    @property
    def images(self) -> tuple[Path, ...]:
        """Every file of every picture."""
        return tuple(Path(path) for picture in self.pictures for path in picture.paths)

    @property
    def prompt(self) -> str:
        """The text that the model is shown."""
        return "\n\n".join(part for turn in self.turns for part in turn.parts if isinstance(part, str))
