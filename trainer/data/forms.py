"""The three ways people write a training record, read into one: turns of text and pictures, then the answer.

    {"frames": [four paths], "context": "...", "question": "...", "output": "..."}   image or images instead of
                                       frames for ready pictures; "image": null for a record of text alone
    {"messages": [{"role": "user", "content": "... or a list of parts"}, ...], "images": [...]}
    {"conversations": [{"from": "human", "value": "<image> ..."}, ...], "image": "..."}

`system` beside any of them is a system turn in front.

Every assistant turn is learned, but one that says `weight: 0` or `loss: false`, which is only shown. What a record
holds beyond these keys comes back as `unread`: trainer/data/unread.py judges it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from trainer.data.places import SIGNS, put_pictures
from trainer.data.turns import Form, FormError, Picture, Role, Turn
from trainer.files import MIB, MOST_MIB, parse_json

FORMAT_HINT = (
    'one object a line: {"image": "grid.png"} or {"frames": ["0.png", "1.png", "2.png", "3.png"]}, '
    'with "context", "question" and "output"; or {"messages": [...]}, or {"conversations": [...]}'
)
# Half of an escaped surrogate pair, as far as that can be seen without reading the escapes one by one.
HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)
FLAT_KEYS = ("context", "question", "output")
IMAGE_KEYS = ("image", "images", "frames")
FRAMES = 4
# The key of a conversation's turns: in each, the key of who speaks and that of what is said.
CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}
# The keys that are read beside the turns, by the key of these (none: those of the flat form).
READ: dict[str | None, frozenset[str]] = {
    key: frozenset((*IMAGE_KEYS, "system", *((key,) if key else FLAT_KEYS))) for key in (None, *CONVERSATIONS)
}
# Whether an answer is learned, as OpenAI and ms-swift say it: what stands for no, and for yes.
LEARNED_BY = {"weight": (0, 1), "loss": (False, True)}
# The keys of a picture among a turn's parts; what is read of each type of part.
IMAGE_PART_KEYS = ("image", "path", "url", "image_url")
READ_OF_PART = {"text": ("type", "text"), **dict.fromkeys(("image", "image_url"), ("type", "text", *IMAGE_PART_KEYS))}

# Spellings of TRL, LLaVA, LLaMA-Factory and of Gemma itself.
ROLES: dict[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip

Said = tuple[Role, Any, bool]  # who speaks, what is said, whether it is learned


def read_line(line: bytes | str) -> dict[str, Any]:
    """The object that a line of a data file holds. Raises FormError."""
    if len(line) > MOST_MIB * MIB:
        raise FormError(f" is longer than {MOST_MIB} MiB: it takes {FORMAT_HINT}")
    try:
        # Bytes may come in, so that a file that is not UTF-8 is reported by line like any other mistake.
        entry = parse_json(line.rstrip())
        raw = line if isinstance(line, bytes) else line.encode(errors="surrogatepass")
        if b"\xed" in raw or HALF.search(raw):
            json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except ValueError as error:
        said = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise FormError(f" is not JSON ({said}): it takes {FORMAT_HINT}") from None
    if not isinstance(entry, dict):
        raise FormError(f" is not an object: it takes {FORMAT_HINT}")
    return entry


def read_form(entry: dict[str, Any], place: Callable[[str], str] = str) -> Form:
    """The record's turns, the paths of images as `place` makes them of the record's own, and what was not read.

    Raises:
        FormError: the record has none of the three forms, or one of them wrongly.
    """
    beside = _beside(entry, place)
    key = next((key for key in CONVERSATIONS if key in entry), None)
    unread = [item for item in entry.items() if item[0] not in READ[key]]
    said_of_all = [(name, value) for name, value in unread if name in LEARNED_BY and _is_either(name, value)]
    said = _conversation(entry, key, unread) if key else _flat(entry, bool(beside))
    if said_of_all:
        unread = [item for item in unread if item not in said_of_all]
        learned = all(value for _, value in said_of_all)
        said = [(role, what, learn and learned) for role, what, learn in said]
    turns = [list(_parts(what, n, place, unread)) for n, (_, what, _) in enumerate(said, start=1)]
    marked = any(sign in part for parts in turns for part in parts if isinstance(part, str) for sign in SIGNS)
    pictured, filled = put_pictures(turns, [role for role, *_ in said], beside, marked), []
    for number, ((role, _, learned), parts) in enumerate(zip(said, pictured, strict=True), start=1):
        if not parts:
            raise FormError(f": turn {number} is empty" if number < len(said) else ": the answer is empty")
        if role != "user" and any(isinstance(part, Picture) for part in parts):
            raise FormError(": only user turns can hold images")
        filled.append(Turn(role=role, parts=tuple(parts), learned=learned))
    no_picture = not beside and any(name in entry for name in IMAGE_KEYS)
    return Form(turns=tuple(filled), unread=tuple(unread), no_picture=no_picture, marked=marked)


def _flat(entry: dict[str, Any], pictured: bool) -> list[Said]:
    """The question, then the answer."""
    lacking = [key for key in FLAT_KEYS if key not in entry]
    if not any(key in entry for key in IMAGE_KEYS):
        lacking.insert(0, 'image or frames ("image": null where there is none)')
    if lacking:
        raise FormError(f" lacks {', '.join(lacking)}: it takes {FORMAT_HINT}")
    for key in FLAT_KEYS:
        if not isinstance(entry[key], str):
            how = "JSON goes in as text" if key == "output" else 'nothing goes in as ""'
            raise FormError(f": {key} takes a string ({how}), got {_short(entry[key])}")
    text = "\n\n".join(part for part in (entry["context"], entry["question"]) if part)
    if not pictured and not text.strip():
        raise FormError(" has no image, and context and question are both empty")
    said: list[Said] = [("user", text, False), ("assistant", entry["output"], True)]
    return [("system", entry["system"], False), *said] if entry.get("system") else said


def _conversation(entry: dict[str, Any], key: str, unread: list[tuple[str, Any]]) -> list[Said]:
    """Each turn, the answer last; what turns hold besides is added to `unread`."""
    said, (role_key, text_key) = entry[key], CONVERSATIONS[key]
    if not isinstance(said, list) or not said:
        raise FormError(f": {key} takes a list of turns, got {_short(said)}")
    turns: list[Said] = [("system", entry["system"], False)] if entry.get("system") else []
    for number, turn in enumerate(said, start=len(turns) + 1):
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise FormError(f": turn {number} of {key} takes {role_key} and {text_key}, got {_short(turn)}")
        if (role := ROLES.get(str(turn[role_key]))) is None:
            raise FormError(f": {role_key} {_short(turn[role_key])} of turn {number}: it takes {', '.join(ROLES)}")
        learned = role == "assistant"
        for name in turn.keys() - {role_key, text_key} if len(turn) > 2 else ():
            if name in LEARNED_BY:
                learned = _is_learned(name, turn[name], number, role) and learned
            elif name not in IMAGE_KEYS:
                unread.append((name, turn[name]))
            elif turn[name]:
                raise FormError(
                    f": turn {number} has {name}: they go beside {key}, or into the turn's parts as type image"
                )
        turns.append((role, turn[text_key], learned))
    roles = [role for role, *_ in turns]
    alternating = roles[1:] if roles[0] == "system" else roles
    if not alternating or alternating != ["user", "assistant"] * (len(alternating) // 2):
        raise FormError(
            f": {key} takes turns that alternate user, assistant, behind one system turn at most, and end with "
            f"the assistant's answer; got {', '.join(roles)}"
        )
    return turns


def _is_either(name: str, value: Any) -> bool:
    """Whether a value beside the turns says that all or none are learned; a column may hold another weight or loss."""
    number = int if name == "loss" else int | float  # a column of losses may hold 0.0
    return isinstance(value, number) and value in LEARNED_BY[name]


def _is_learned(name: str, value: Any, number: int, role: Role) -> bool:
    """What `weight` or `loss` of a turn says. Raises FormError for anything but yes and no, and for a yes of a turn
    that is no answer."""
    no, yes = (json.dumps(value) for value in LEARNED_BY[name])
    if value is None:
        return True
    if not isinstance(value, int | float) or value not in LEARNED_BY[name]:
        raise FormError(f": {name} {_short(value)} of turn {number}: it takes {yes} (learned) or {no} (only shown)")
    if value and role != "assistant":
        raise FormError(f": {name} {yes} of turn {number}, which is the {role}'s: only answers are learned")
    return bool(value)


def _parts(
    content: Any, number: int, place: Callable[[str], str], unread: list[tuple[str, Any]]
) -> Iterator[str | Picture | None]:
    """What turn `number` says and shows; None is the place of an image that has no path here."""
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list):
        raise FormError(f": turn {number} takes text or a list of parts, got {_short(content)}")
    for part in content:
        kind = str(part.get("type")) if isinstance(part, dict) else ""
        text = part.get("text") if kind == "text" else part
        if isinstance(text, str):
            yield text
        elif kind in ("image", "image_url"):
            own = next((part[k] for k in IMAGE_PART_KEYS if part.get(k)), None)
            own = (own.get("url") or own.get("path") or own) if isinstance(own, dict) else own
            yield None if own is None else Picture(paths=_paths([own], place))
        else:
            raise FormError(f": a part of turn {number} takes type image or text, got {_short(part)}")
        if isinstance(part, dict) and len(part) > 2:
            unread.extend((k, v) for k, v in part.items() if k not in READ_OF_PART[kind])


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
