"""Reads the forms in which people write a training record into one form: turns of text and pictures, then the answer.

    {"frames": [four paths], "context": "...", "question": "...", "output": "..."}   image or images instead of
                                       frames for ready pictures; trainer/data/columns.py knows other names of the texts
    {"messages": [{"role": "user", "content": "... or a list of parts"}, ...], "images": [...]}
    {"conversations": [{"from": "human", "value": "<image> ..."}, ...], "image": "..."}

`system` beside any of these forms is a system turn in front. Consecutive turns of the same user become one turn. An
answer that is an object, a number, true or false is learned as its JSON text. A user's turn behind the last answer is
not shown. Every assistant turn is learned, except a turn with `weight: 0`, `loss: false`, `training: false` or
`mask: true`, which is only shown. Any other key of a record is returned as `unread`, which trainer/data/unread.py
judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import isnan
from typing import Any

from trainer.data.answers import answer_text
from trainer.data.columns import (
    ANSWER,
    ANSWERS,
    CONTEXT,
    CONTEXTS,
    CONVERSATIONS,
    IMAGE_KEYS,
    PAIRS,
    QUESTION,
    QUESTIONS,
    as_known,
    as_list,
    is_conversation,
    pair_cure,
    suggest,
)  # fmt: skip
from trainer.data.conversation import IMAGE_PART_KEYS, LEARNED_BY, READ_OF_PART, Said, part_type, read_conversation
from trainer.data.foreign import fault
from trainer.data.inline import DATA, SCHEME_CHARS, as_data, file_path, is_path
from trainer.data.names import PICTURES, is_file_name, is_quiet, kind_of_file, kind_of_name
from trainer.data.places import PLACES, Parts, may_hold_marker, put_pictures
from trainer.data.turns import Form, FormError, Picture, Turn, picture_of, short

CLASSES = ("label", "cls", "class", "target")  # names of a picture's class, which may be a number
FLAT_KEYS = (CONTEXT, QUESTION, ANSWER)
FRAMES = 4
EMPTY = "the answer is empty"
CELLS = (*QUESTIONS, *ANSWERS, *CONTEXTS, *IMAGE_KEYS)
"""The keys under which NaN, as pandas writes it, is the empty cell of a table."""
# The keys that are read beside the turns, by the key of the turns (None: the flat form).
READ: dict[str | None, frozenset[str]] = {
    key: frozenset((*IMAGE_KEYS, "system", *((key,) if key else FLAT_KEYS))) for key in (None, *CONVERSATIONS)
}


def read_form(entry: dict[str, Any], place: Callable[[str], str] = str) -> Form:
    """The record's turns, with the paths of images passed through `place`, and the keys that were not read.

    Raises:
        FormError: the record has none of the forms, or a form with a mistake.
    """
    if empty := [name for name in CELLS if isinstance(value := entry.get(name), float) and isnan(value)]:
        entry = {**entry, **dict.fromkeys(empty, "")}
    given, entry = entry, as_known(entry)
    beside = _beside(entry, place)
    key = next((key for key in CONVERSATIONS if key in entry), None)
    unread = [item for item in entry.items() if item[0] not in READ[key]]
    said_of_all = [(name, value) for name, value in unread if name in LEARNED_BY and _is_either(name, value)]
    said = read_conversation(entry, key, unread) if key else _flat(entry, given, bool(beside))
    if said_of_all:
        unread = [item for item in unread if item not in said_of_all]
        learned = all(value for _, value in said_of_all)
        said = [(role, what, learn and learned) for role, what, learn in said]
    said, as_json = _answers_as_text(said)
    each: list[Parts] = [
        [what] if isinstance(what, str) else list(_parts(what, number, place, unread))
        for number, (_, what, _) in enumerate(said, start=1)
    ]
    said, turns = _joined(said, each)
    marked = any([may_hold_marker(part) for parts in turns for part in parts if isinstance(part, str)])
    pictured, filled = put_pictures(turns, [role for role, *_ in said], beside, marked), []
    for number, ((role, _, learned), parts) in enumerate(zip(said, pictured, strict=True), start=1):
        if not parts:
            raise FormError(*((f": {EMPTY}",) if role == "assistant" and number >= len(said) - 1
                              else (f": turn {number} is empty", "a turn is empty")))  # fmt: skip
        if role != "user" and any(isinstance(part, Picture) for part in parts):
            raise FormError(": only user turns can hold images")
        filled.append(Turn(role=role, parts=tuple(parts), learned=learned))
    # An empty text does not say it: every table has empty cells.
    no_picture = not beside and any(entry.get(name, "") != "" for name in IMAGE_KEYS)
    return Form(
        turns=tuple(filled), as_json=as_json, unread=tuple(unread), no_picture=no_picture, marked=marked
    )  # fmt: skip


def _answers_as_text(said: list[Said]) -> tuple[list[Said], int]:
    """(the turns with answers that are JSON values replaced by their text, the number of such answers)."""
    texts = {
        number: text
        for number, (role, what, _) in enumerate(said)
        if role == "assistant" and not isinstance(what, str) and (text := answer_text(what)) is not None
    }
    if not texts:
        return said, 0
    return [(role, texts.get(n, what), learned) for n, (role, what, learned) in enumerate(said)], len(texts)


def _joined(said: list[Said], turns: list[Parts]) -> tuple[list[Said], list[Parts]]:
    """The turns with consecutive turns of the user, or of the system, joined into one."""
    if all(one[0] != other[0] for one, other in pairwise(said)):
        return said, turns
    speakers: list[Said] = []
    joined: list[Parts] = []
    for one, parts in zip(said, turns, strict=True):
        if not speakers or speakers[-1][0] != one[0]:
            speakers.append(one)
            joined.append(parts)
            continue
        before = joined[-1]
        if before and parts and isinstance(before[-1], str) and isinstance(parts[0], str):
            parts = [f"{before.pop()}\n\n{parts[0]}", *parts[1:]]
        before += parts
    return speakers, joined


def _flat(entry: dict[str, Any], given: dict[str, Any], pictured: bool) -> list[Said]:
    """The turns of the flat form: the question, then the answer. `given` has the names that the file has."""
    if lacking := [key for key in (QUESTION, ANSWER) if key not in entry]:
        if foreign := fault(given):
            raise foreign
        lists = [k for k, v in given.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
        lists = [] if lists and is_conversation(given[lists[0]]) else lists
        inside = lists[0] if len(lists) == len(given) == 1 else None
        if inside and len(lacking) == 2:
            raise FormError(f" holds its records under {inside!r}: put that list into a file of its own", cure="form")
        raise _lacks(given, lacking)
    texts = [entry.get(key) or "" if key == CONTEXT else entry[key] for key in FLAT_KEYS]
    for key, text in zip(FLAT_KEYS, texts, strict=True):
        if not isinstance(text, str) and (key != ANSWER or answer_text(text) is None):
            raise _no_text(key, text)
    text = "\n\n".join(part for part in texts[:2] if part)
    if not pictured and not text.strip():
        raise FormError(" has no image, and context and question are both empty")
    said_last: list[Said] = [("user", text, False), ("assistant", entry[ANSWER], True)]
    return [("system", entry["system"], False), *said_last] if entry.get("system") else said_last


def _no_text(key: str, value: Any) -> FormError:
    """The fault of a value that stands for a text of the flat form and is none."""
    if key == ANSWER and value is None:
        return FormError(f": {EMPTY}")
    how = 'nothing goes in as ""'
    if isinstance(value, list):
        how = "a list goes in as its JSON text" if key == ANSWER else "of several, each goes into a record of its own"
    elif key == ANSWER:
        how = "JSON has no NaN and no Infinity: write them as text"
    takes = f"{key} takes a string ({how})"
    return FormError(f": {takes}, got {short(value)}", takes)


def _lacks(given: dict[str, Any], lacking: list[str]) -> FormError:
    """The fault of a record without a question or an answer, with the setting that would read it."""
    lacks = f"lacks {' and '.join(lacking)}"
    said = f" {lacks} (it has {short(', '.join(given))})"
    if given.keys() >= {*PAIRS}:
        return FormError(f"{said}; {pair_cure(given)}", f"{lacks}, and is a pair to choose from")

    def is_text(name: str, value: Any) -> bool:
        if isinstance(value, str) and is_file_name(value):
            return False
        if name in CLASSES and lacking == [ANSWER] and isinstance(value, int):
            return True
        if name in (*FLAT_KEYS, *QUESTIONS, *ANSWERS, *CONTEXTS) or is_quiet(name) or kind_of_name(name):
            return False
        return isinstance(value, str) or (lacking == [ANSWER] and isinstance(value, dict))

    if columns := suggest(given, lacking, is_text):
        shows = next((name for name, value in given.items() if isinstance(value, str) and
                      (kind_of_name(name) == PICTURES or kind_of_file(value) == PICTURES)), "")  # fmt: skip
        shows = f",image={shows}" if shows and not any(given.get(key) for key in IMAGE_KEYS) else ""
        return FormError(f"{said}; columns: {columns}{shows} would read it", lacks, cure="form")
    texts = [name for name, value in given.items() if is_text(name, value)]
    texts = texts or [name for name in CLASSES if isinstance(given.get(name), int)]
    if len(texts) < len(lacking) == 2 and texts and isinstance(given.get("answers"), list):
        how = f"answers holds several: the one to learn goes under {ANSWER}, and columns: question={texts[0]} reads"
        return FormError(f"{said}; {how} the question", lacks)
    if len(texts) < len(lacking) == 2 and texts:
        return FormError(f"{said}; columns: answer={texts[0]} learns that", lacks, cure="question")
    several = [name for name, value in given.items() if isinstance(value, list) and value and is_text(name, value[0])]
    if lacking == [ANSWER] and len(several) == 1:
        return FormError(f"{said}; {several[0]} holds several: the one to learn goes under {ANSWER}", lacks)
    return FormError(said, lacks, cure="question" if lacking == [QUESTION] else "form")


def _is_either(name: str, value: Any) -> bool:
    """Whether `value`, which stands beside the turns, says that all or none are learned. Such a column may also hold
    another kind of weight or loss."""
    number = int if name == "loss" else int | float  # a column of losses may hold 0.0
    return isinstance(value, number) and value in LEARNED_BY[name]


def _parts(
    content: Any, number: int, place: Callable[[str], str], unread: list[tuple[str, Any]]
) -> Iterator[str | Picture | None]:
    """The text and pictures of turn `number`; None marks the place of an image whose path is not in the part."""
    if not isinstance(content, list):
        takes = "takes text or a list of parts"
        raise FormError(f": turn {number} {takes}, got {short(content)}", f"a turn {takes}")
    for part in content:
        kind = part_type(part) if isinstance(part, dict) else ""
        text = part.get("text") if kind == "text" else part
        if isinstance(text, str):
            yield text
        elif kind == "image":
            own = next((part[k] for k in IMAGE_PART_KEYS if part.get(k)), None)
            yield None if own is None else picture_of(_paths([own], place))
        else:
            takes = "takes type image or text"
            raise FormError(f": a part of turn {number} {takes}, got {short(part)}", f"a part of a turn {takes}")
        if isinstance(part, dict) and len(part) > ("type" in part) + 1:
            unread.extend((k, v) for k, v in part.items() if k not in READ_OF_PART[kind])


def _beside(entry: dict[str, Any], place: Callable[[str], str]) -> list[Picture]:
    """The pictures of the one key among image, images and frames; an empty list where it is null, or an empty cell."""
    given = [key for key in IMAGE_KEYS if entry.get(key) not in (None, [], "")]
    if not given:
        return []
    if len(given) > 1:
        raise FormError(f": {' and '.join(given)} do not go together: give one of them")
    named = entry[given[0]]
    if isinstance(named, str) and named.startswith("["):  # tables hold a list as JSON text
        named = as_list(named)
    if isinstance(named, dict) and all(PLACES.fullmatch(place) for place in named):
        named = list(named.values())  # MiniCPM-V names the pictures by their places
    paths = _paths(named if isinstance(named, list) else [named], place)
    if given[0] != "frames":
        return [picture_of((path,)) for path in paths]
    if len(paths) != FRAMES:
        raise FormError(f" has {len(paths)} frames: a grid takes four", "frames that are not four: a grid takes four")
    return [picture_of(paths)]


def _paths(names: list[Any], place: Callable[[str], str]) -> tuple[str, ...]:
    return tuple([place(_path(name)) for name in names])


def _path(name: Any) -> str:
    """A path, or a data: address of a picture that the record itself holds."""
    if isinstance(name, dict):
        name = next((name[key] for key in ("bytes", "base64", "data", "url", "path") if name.get(key)), name)
    if not isinstance(name, str) or not name:
        takes = "image takes a path, images and frames a list of paths"
        raise FormError(f": {takes}, got {short(name)}", takes)
    if is_path(name):
        return name
    name = file_path(as_data(name))
    if "://" in name[:SCHEME_CHARS] and not name.startswith(DATA):
        raise FormError(f": {short(name)} is an address and no file", "a picture at an address", cure="convert")
    return name
