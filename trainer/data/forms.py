"""The three ways people write a training record, read into one: turns of text and pictures, then the answer.

    {"frames": [four paths], "context": "...", "question": "...", "output": "..."}   image or images instead of
                                       frames for ready pictures; "image": null for a record of text alone
    {"messages": [{"role": "user", "content": "... or a list of parts"}, ...], "images": [...]}
    {"conversations": [{"from": "human", "value": "<image> ..."}, ...], "image": "..."}

`system` beside any of them is a system turn in front.

The loss falls on the last assistant turn alone; turns before it, earlier answers too, are what the model is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
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
# The key of a conversation's turns: in each, the key of who speaks and that of what is said.
CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}

Role = Literal["system", "user", "assistant"]
# Spellings of TRL, LLaVA, LLaMA-Factory and of Gemma itself.
ROLES: dict[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip


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


def read_line(line: bytes | str) -> dict[str, Any]:
    """The object that a line of a data file holds. Raises FormError."""
    try:
        # Bytes may come in, so that a file that is not UTF-8 is reported by line like any other mistake.
        entry = json.loads(line.rstrip())
        json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        said = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise FormError(f" is not JSON ({said}): it takes {FORMAT_HINT}") from None
    if not isinstance(entry, dict):
        raise FormError(f" is not an object: it takes {FORMAT_HINT}")
    return entry


def read_form(entry: dict[str, Any], place: Callable[[str], str] = str) -> tuple[tuple[Turn, ...], str]:
    """(turns before the answer, the answer), the paths of images as `place` makes them of the record's own.

    Raises:
        FormError: the record has none of the three forms, or one of them wrongly.
    """
    pictures = _beside(entry, place)
    key = next((key for key in CONVERSATIONS if key in entry), None)
    said = _conversation(entry, key) if key else _flat(entry, bool(pictures))
    turns = [(role, list(_parts(what, n, bool(pictures), place))) for n, (role, what) in enumerate(said, start=1)]
    if (places := sum(part is None for _, parts in turns for part in parts)) == 0:
        # Images without a place go in front of the first user turn, as in TRL.
        next(parts for role, parts in turns if role == "user")[:0] = pictures
    elif places != len(pictures):
        raise FormError(f" has {len(pictures)} images, but {places} places for them ({PLACEHOLDER} or an image part)")
    supply = iter(pictures)
    filled = [Turn(role=r, parts=tuple(next(supply) if part is None else part for part in ps)) for r, ps in turns]
    for number, turn in enumerate(filled, start=1):
        if not turn.parts:
            raise FormError(f": turn {number} is empty" if number < len(turns) else ": the answer is empty")
        if turn.role != "user" and any(isinstance(part, Picture) for part in turn.parts):
            raise FormError(": only user turns can hold images")
    *before, last = filled
    return tuple(before), "".join(part for part in last.parts if isinstance(part, str))


def _flat(entry: dict[str, Any], pictured: bool) -> list[tuple[Role, Any]]:
    """(who speaks, what is said): the question, then the answer."""
    lacking = [key for key in FLAT_KEYS if key not in entry]
    if not any(key in entry for key in IMAGE_KEYS):
        lacking.insert(0, 'image or frames ("image": null where there is none)')
    if lacking:
        raise FormError(f" lacks {', '.join(lacking)}: it takes {FORMAT_HINT}")
    for key in FLAT_KEYS:
        if not isinstance(entry[key], str):
            raise FormError(f': {key} takes a string (JSON goes in as text, nothing as ""), got {_short(entry[key])}')
    text = "\n\n".join(part for part in (entry["context"], entry["question"]) if part)
    if not pictured and not text.strip():
        raise FormError(" has no image, and context and question are both empty")
    # In lists, where a placeholder is a word like others.
    said: list[tuple[Role, Any]] = [("user", [text]), ("assistant", [entry["output"]])]
    return [("system", [entry["system"]]), *said] if entry.get("system") else said


def _conversation(entry: dict[str, Any], key: str) -> list[tuple[Role, Any]]:
    """(who speaks, what is said) of each turn, the answer last."""
    said, (role_key, text_key) = entry[key], CONVERSATIONS[key]
    if not isinstance(said, list) or not said:
        raise FormError(f": {key} takes a list of turns, got {_short(said)}")
    if entry.get("system"):
        said = [{role_key: "system", text_key: entry["system"]}, *said]
    turns: list[tuple[Role, Any]] = []
    for number, turn in enumerate(said, start=1):
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise FormError(f": turn {number} of {key} takes {role_key} and {text_key}, got {_short(turn)}")
        if (role := ROLES.get(str(turn[role_key]))) is None:
            raise FormError(f": {role_key} {_short(turn[role_key])} of turn {number}: it takes {', '.join(ROLES)}")
        if own := next((name for name in IMAGE_KEYS if turn.get(name)), None):
            raise FormError(f": turn {number} has {own}: they go beside {key}, or into the turn's parts as type image")
        turns.append((role, turn[text_key]))
    roles = [role for role, _ in turns]
    alternating = roles[1:] if roles[0] == "system" else roles
    if not alternating or alternating != ["user", "assistant"] * (len(alternating) // 2):
        raise FormError(
            f": {key} takes turns that alternate user, assistant, behind one system turn at most, and end with "
            f"the assistant's answer; got {', '.join(roles)}"
        )
    return turns


def _parts(content: Any, number: int, pictured: bool, place: Callable[[str], str]) -> Iterator[str | Picture | None]:
    """What turn `number` says and shows; None is the place of an image that has no path here."""
    if isinstance(content, str):
        # A placeholder means an image only where the record brings images; elsewhere it is a word like others.
        pieces = re.split(f"({PLACEHOLDER})", content) if pictured else [content]
        content = [{"type": "image"} if pictured and piece == PLACEHOLDER else piece for piece in pieces]
    if not isinstance(content, list):
        raise FormError(f": turn {number} takes text or a list of parts, got {_short(content)}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if kind == "text" else part
        if isinstance(text, str):
            if text.strip():
                yield text
        elif kind in ("image", "image_url"):
            own = next((part[k] for k in ("image", "path", "url", "image_url") if part.get(k)), None)
            own = own.get("url") if isinstance(own, dict) else own
            yield None if own is None else Picture(paths=_paths([own], place))
        else:
            raise FormError(f": a part of turn {number} takes type image or text, got {_short(part)}")


def _beside(entry: dict[str, Any], place: Callable[[str], str]) -> list[Picture]:
    """The pictures that stand beside the text: one of image, images and frames; none where that is null."""
    given = [key for key in IMAGE_KEYS if entry.get(key) not in (None, [])]
    if not given:
        return []
    if len(given) > 1:
        raise FormError(f": {' and '.join(given)} do not go together: give one of them")
    named = entry[given[0]]
    paths = _paths(named if isinstance(named, list) else [named], place)
    if given[0] != "frames":
        return [Picture(paths=(path,)) for path in paths]
    if len(paths) != FRAMES:
        raise FormError(f" has {len(paths)} frames: a grid takes four")
    return [Picture(paths=paths)]


def _paths(names: list[Any], place: Callable[[str], str]) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str) or not name:
            raise FormError(": image takes a path, images and frames a list of paths")
        if name.startswith(("http://", "https://", "data:")):
            raise FormError(f": {_short(name)} is no file: download the images and give their paths")
    return tuple(place(name.removeprefix("file://")) for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
