"""What a training record says, whichever form it is written in: turns of text and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


class FormError(Exception):
    """What is wrong with one record, in words that follow the place where it stands."""

    def __init__(self, said: str, kind: str = "", *, cure: str = "") -> None:
        super().__init__(said)
        self.kind = kind or said.removeprefix(":").strip()
        """The same words for all records that have this fault."""
        self.cure = cure
        """What helps, by its name in trainer/data/faults.py."""


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
    """The last one is an answer, or a user's turn behind it that nobody answers."""
    as_json: int = 0
    """Answers that stand in the record as JSON values, and are learned as their text."""
    unread: tuple[tuple[str, Any], ...] = ()
    """(key, value) of all that stands beside what was read."""
    no_picture: bool = False
    """A key of pictures is there, and says that there is none."""
    marked: bool = True
    """Whether there may be a marker in the text."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Picture))


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record that can be learned from."""

    turns: tuple[Turn, ...]
    """What the model is shown before the last answer that it learns, in the order it is shown it; earlier answers that
    it learns too say so. The paths in it exist."""
    answer: str
    """What it learns to say next: these parts alone have a loss."""
    session: str
    """Records of one session never fall on both sides of a split."""

    @property
    def count(self) -> int:
        """How many answers it learns to say."""
        return sum([turn.learned for turn in self.turns]) + 1

    @property
    def answers(self) -> tuple[str, ...]:
        """All that it learns to say."""
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
