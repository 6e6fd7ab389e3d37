"""The three ways people write a training record, read into one: turns of text and pictures, then the answer.

    {"frames": [four paths], "context": "...", "question": "...", "output": "..."}   image or images instead of
                                       frames for ready pictures; "image": null for a record of text alone
    {"messages": [{"role": "user", "content": "... or a list of parts"}, ...], "images": [...]}
    {"conversations": [{"from": "human", "value": "<image> ..."}, ...], "image": "..."}

The loss falls on the last assistant turn; turns before it are what the model is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

PLACEHOLDER = "<image>"
FORMAT_HINT = (
    'one object a line: {"image": "grid.png"} or {"frames": ["0.png", "1.png", "2.png", "3.png"]}, '
    'with "context", "question" and "output"; or {"messages": [...]}, or {"conversations": [...]}'
)
FLAT_KEYS = ("context", "question", "output")
IMAGE_KEYS = ("image", "images", "frames")
FRAMES = 4

Role = Literal["system", "user", "assistant"]
# Spellings of TRL, LLaVA, LLaMA-Factory and of Gemma itself.
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


class FormError(Exception):
    """What is wrong with one record, in words that follow the place where it stands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture as the model sees it."""

    paths: tuple[str, ...]
    """The file of a ready picture, or the four frames of a grid."""


Part = str | Picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    role: Role
    parts: tuple[Part, ...]


def read_form(entry: Any) -> tuple[tuple[Turn, ...], str]:
    """(turns before the answer, the answer), with paths as the record spells them.

    Raises:
        FormError: the record has none of the three forms, or one of them wrongly.
    """
    if not isinstance(entry, dict):
        raise FormError(f" is not an object: it takes {FORMAT_HINT}")
    for key, role_key, text_key in (("messages", "role", "content"), ("conversations", "from", "value")):
        if key in entry:
            return _conversation(entry, key, role_key, text_key)
    return _flat(entry)


def _flat(entry: dict[str, Any]) -> tuple[tuple[Turn, ...], str]:
    lacking = [key for key in FLAT_KEYS if key not in entry]
    if not any(key in entry for key in IMAGE_KEYS):
        lacking.insert(0, 'image or frames ("image": null where there is none)')
    if lacking:
        raise FormError(f" lacks {', '.join(lacking)}: it takes {FORMAT_HINT}")
    for key in FLAT_KEYS:
        if not isinstance(entry[key], str):
            raise FormError(f": {key} is {type(entry[key]).__name__}, not a string")
    pictures = _top_level(entry)
    text = "\n\n".join(part for part in (entry["context"], entry["question"]) if part)
    parts: list[Part] = [*pictures, *([text] if text.strip() else [])]
    if not parts:
        raise FormError(" has no image, and context and question are both empty")
    return (Turn(role="user", parts=tuple(parts)),), _answer(entry["output"])


def _conversation(entry: dict[str, Any], key: str, role_key: str, text_key: str) -> tuple[tuple[Turn, ...], str]:
    said = entry[key]
    if not isinstance(said, list) or not said:
        raise FormError(f": {key} takes a list of turns, got {_short(said)}")
    pending = _top_level(entry)
    supply, declared = iter(pending), len(pending)
    turns: list[Turn] = []
    if entry.get("system"):
        said = [{role_key: "system", text_key: entry["system"]}, *said]
    for number, turn in enumerate(said, start=1):
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise FormError(f": turn {number} of {key} takes {role_key} and {text_key}, got {_short(turn)}")
        if turn[role_key] not in ROLES:
            raise FormError(f": {role_key} {_short(turn[role_key])} of turn {number}: it takes {', '.join(ROLES)}")
        parts = tuple(_parts(turn[text_key], supply, declared, number))
        if not parts:
            raise FormError(f": turn {number} of {key} is empty")
        turns.append(Turn(role=ROLES[turn[role_key]], parts=parts))
    _check_order([turn.role for turn in turns], key)
    if left := tuple(supply):
        if len(left) != declared:
            raise FormError(
                f" has {declared} images, but {declared - len(left)} places for them ({PLACEHOLDER} or an image part)"
            )
        # Images without a place go in front of the first user turn, as in TRL.
        first = next(index for index, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn(role="user", parts=(*left, *turns[first].parts))
    *before, last = turns
    if any(isinstance(part, Picture) for turn in turns if turn.role != "user" for part in turn.parts):
        raise FormError(": only user turns can hold images")
    return tuple(before), _answer("".join(part for part in last.parts if isinstance(part, str)))


def _check_order(roles: Sequence[Role], key: str) -> None:
    wanted: list[Role] = ["system"] if roles[0] == "system" else []
    while len(wanted) < len(roles):
        wanted.append("assistant" if wanted and wanted[-1] == "user" else "user")
    if list(roles) != wanted or roles[-1] != "assistant":
        raise FormError(
            f": {key} takes turns that alternate user, assistant, behind one system turn at most, and end with "
            f"the assistant's answer; got {', '.join(roles)}"
        )


def _parts(content: Any, supply: Iterator[Picture], declared: int, number: int) -> Iterator[Part]:
    """The parts of one turn, taking images without a path of their own from `supply`."""

    def take() -> Picture:
        try:
            return next(supply)
        except StopIteration:
            raise FormError(f" has {declared} images, but more places for them (turn {number})") from None

    if isinstance(content, str):
        # A placeholder means an image only where the record brings images; elsewhere it is a word like others.
        pieces = content.split(PLACEHOLDER) if declared else [content]
        for index, text in enumerate(pieces):
            if index:
                yield take()
            if text.strip():
                yield text
        return
    if not isinstance(content, list):
        raise FormError(f": turn {number} takes text or a list of parts, got {_short(content)}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if part["text"].strip():
                yield part["text"]
        elif kind in ("image", "image_url"):
            own = next((part[k] for k in ("image", "path", "url", "image_url") if part.get(k)), None)
            own = own.get("url") if isinstance(own, dict) else own
            yield take() if own is None else Picture(paths=_paths([own]))
        else:
            raise FormError(f": a part of turn {number} takes type image or text, got {_short(part)}")


def _top_level(entry: dict[str, Any]) -> list[Picture]:
    """The pictures that stand beside the text: one of image, images and frames; none where that is null."""
    given = [key for key in IMAGE_KEYS if entry.get(key) not in (None, [])]
    if not given:
        return []
    if len(given) > 1:
        raise FormError(f": {' and '.join(given)} do not go together: give one of them")
    named = entry[given[0]]
    paths = _paths(named if isinstance(named, list) else [named])
    if given[0] != "frames":
        return [Picture(paths=(path,)) for path in paths]
    if len(paths) != FRAMES:
        raise FormError(f" has {len(paths)} frames: a grid takes four")
    return [Picture(paths=paths)]


def _paths(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise FormError(": image takes a path, images and frames a list of paths")
    if remote := next((name for name in names if name.startswith(("http://", "https://", "data:"))), None):
        raise FormError(f": {_short(remote)} is no file: download the images and give their paths")
    return tuple(name.removeprefix("file://") for name in names)


def _answer(text: str) -> str:
    if not text.strip():
        raise FormError(": the answer is empty")
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
