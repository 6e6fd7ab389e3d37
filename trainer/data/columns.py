"""The names that other trainers give the columns of a record, and the `columns` setting for all other names. A record
in another trainer's flat form is turned into Trainyard's form: context, question and output, or messages when the
record holds turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from trainer.data.answers import answer_text
from trainer.data.foreign import unwrapped
from trainer.data.turns import FormError, role_of
from trainer.files import parse_json
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

AUTO = "auto"
QUESTION, ANSWER, CONTEXT, HISTORY, TEXTS = "question", "output", "context", "history", "texts"
PAIRS = ("chosen", "rejected")
PAIR_CURE = "columns: {}=chosen learns chosen, and not which of the two is better"
BESIDE = " (beside columns)"
"""Ends the name of a key whose place another key has, as `columns` says."""
CONVERSATIONS = ("messages", "conversations")
IMAGE_KEYS = ("image", "images", "frames")
TURN_KEYS, BOTH = ("role", "content"), ("user", "assistant")
# The keys of a turn: the speaker, and the text. Both kinds of lists of turns occur with either pair.
TURN_PAIRS = (TURN_KEYS, ("from", "value"))
# Alpaca and LLaMA-Factory, ms-swift, TRL, PaliGemma, visual question answering.
QUESTIONS = ("question", "query", "instruction", "prompt", "prefix")
ANSWERS = ("output", "response", "completion", "suffix", "answer")
CONTEXTS = ("context", "input")
# The column names that a `columns` setting may use, and the key that each is read as.
TARGETS = {
    **{name: name for name in ("context", "question", "output", "system", "image", "images", "frames", "split")},
    "answer": ANSWER, "messages": "messages", "role": "role", "content": "content",
}  # fmt: skip


@cache
def parse_columns(text: str) -> Mapping[str, str]:
    """Parses `image=photo,answer=label` into Trainyard's key by the records' own key. Raises ConfigError."""
    found: dict[str, str] = {}
    if text == AUTO:
        return found
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        target, equals, name = (part.strip() for part in pair.partition("="))
        if not equals or not name or target not in TARGETS:
            raise ConfigError(
                f"columns: {shown(pair)}: write COLUMN=KEY OF YOUR RECORDS, with commas between: the columns are "
                f"{', '.join(TARGETS)}{nearest(target, tuple(TARGETS))}"
            )
        if name in found or TARGETS[target] in found.values():
            raise ConfigError(f"columns: {shown(pair)}: each column and each key stands in it once")
        found[name] = TARGETS[target]
    return found


def rename(entry: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The record with the keys of `columns` under the names that Trainyard reads. A key that already had such a name
    is kept under another one, as unread. Raises FormError for a record with none of the keys."""
    if not columns:
        return entry
    inside = {name: key for name, key in columns.items() if key in TURN_KEYS}
    outer = {name: key for name, key in columns.items() if key not in TURN_KEYS}
    if outer and not any(name in entry for name in outer):
        raise FormError(f" lacks {', '.join(outer)}, which columns names")
    # Who names the better answer of a pair has chosen it.
    beside = {*outer.values(), *PAIRS[1:]} if PAIRS[0] in outer else {*outer.values()}
    renamed = {f"{name}{BESIDE}" if name in beside and name not in outer else outer.get(name, name): value
               for name, value in entry.items()}  # fmt: skip
    for key in CONVERSATIONS if inside else ():
        if isinstance(said := renamed.get(key), list):
            renamed[key] = [{inside.get(k, k): v for k, v in turn.items()} if isinstance(turn, dict) else turn
                            for turn in said]  # fmt: skip
    return renamed


def as_known(entry: dict[str, Any]) -> dict[str, Any]:
    """The record with context, question and output, or with messages. Raises FormError where names are ambiguous."""
    entry = unwrapped(entry)
    for key in CONVERSATIONS:
        if isinstance(entry.get(key), str):  # tables hold turns as JSON text
            entry = {**entry, key: _parsed(entry[key])}
        if entry.get(key) or (key in entry and not any(entry.get(name) for name in QUESTIONS)):
            return _with_answer(entry, key)
    if _is_exchanges(entry.get(TEXTS)):
        return _as_messages(entry)
    if not entry.keys().isdisjoint(CONVERSATIONS):
        entry = {key: value for key, value in entry.items() if key not in CONVERSATIONS}
    if QUESTION in entry and ANSWER in entry:
        known = entry
    else:
        names = {CONTEXT: _one(entry, CONTEXTS), QUESTION: _one(entry, QUESTIONS), ANSWER: _one(entry, ANSWERS)}
        if names[CONTEXT] == "input" and names[QUESTION] in (None, "instruction"):
            # Alpaca: instruction is the task, input is its subject.
            names[CONTEXT], names[QUESTION] = names[QUESTION], "input"
        known = {name: value for name, value in entry.items() if name not in names.values()}
        known |= {ours: entry[name] for ours, name in names.items() if name}
    question, answer, history = known.get(QUESTION), known.get(ANSWER), known.get(HISTORY)
    if not history and isinstance(question, str) and isinstance(answer, str):
        return known
    read: tuple[str, ...] = (CONTEXT, QUESTION, ANSWER)
    if question and _is_turns(question) and (_is_turns(answer) or isinstance(answer, str | dict)):
        # TRL writes the question as turns, and the answer as turns or as a text.
        last = answer if isinstance(answer, list) else _answering(answer) or [_turn("assistant", answer)]
        turns, read = [*question, *last], (QUESTION, ANSWER)
    elif isinstance(history, list) and history and all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        turns = [_turn(*turn) for pair in (*history, [_asked(known), answer]) for turn in zip(BOTH, pair, strict=True)]
        read = (*read, HISTORY)
    elif isinstance(question, str) and (last := _answering(answer)):
        turns = [_turn("user", _asked(known)), *last]
    else:
        return known
    return {**{name: value for name, value in known.items() if name not in read}, "messages": turns}


def _asked(known: dict[str, Any]) -> str:
    return "\n\n".join(str(text) for text in (known.get(CONTEXT), known.get(QUESTION)) if text)


def _with_answer(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """The record with the answer that stands beside a conversation without one as its last turn."""
    turns = entry[key]
    if not _is_turns(turns) or not turns or not _is_of_user(turns[-1]):
        return entry
    names = [name for name in ANSWERS if entry.get(name) not in (None, "")]
    if len(names) != 1:
        return entry
    answer = entry[names[0]]
    last = answer if is_conversation(answer) else [answer]
    if not is_conversation(last):
        if not isinstance(answer, str) and answer_text(answer) is None:  # several answers, say
            return entry
        last = [_turn("assistant", answer)]
    return {**{name: value for name, value in entry.items() if name not in names}, key: [*turns, *last]}


def _turn(speaker: str, said: Any) -> dict[str, Any]:
    return dict(zip(TURN_KEYS, (speaker, said), strict=True))


def _is_of_user(turn: dict[str, Any]) -> bool:
    return any(role_of(turn.get(speaker)) == "user" for speaker, _ in TURN_PAIRS)


def _answering(answer: Any) -> list[dict[str, Any]]:
    """An answer that is a turn of the assistant, or several, as a list; an empty list for any other answer."""
    turns = answer if isinstance(answer, list) else [answer]
    if not is_conversation(turns):
        return []
    speakers = {role_of(turn.get(speaker)) for turn in turns for speaker, _ in TURN_PAIRS if speaker in turn}
    return turns if speakers == {"assistant"} else []


def holds_question(value: Any) -> bool:
    """Whether `value` is a conversation in which the user speaks."""
    return is_conversation(value) and any(map(_is_of_user, value))


def pair_cure(given: dict[str, Any]) -> str:
    chosen = given[PAIRS[0]]
    chosen = as_list(chosen) if isinstance(chosen, str) else chosen  # tables hold turns as JSON text
    return PAIR_CURE.format("messages" if holds_question(chosen) else "answer")


def _is_exchanges(value: Any) -> bool:
    """Whether `value` is what the Cauldron and FineVision hold under `texts`: questions with their answers."""
    return _is_turns(value) and bool(value) and all({*BOTH} <= exchange.keys() for exchange in value)


def _as_messages(entry: dict[str, Any]) -> dict[str, Any]:
    """The record with its exchanges as turns; whatever else an exchange holds stays, as unread."""
    turns: list[dict[str, Any]] = []
    for exchange in entry[TEXTS]:
        rest = {name: value for name, value in exchange.items() if name not in BOTH}
        turns.append({"role": "user", "content": exchange["user"], **rest})
        turns.append({"role": "assistant", "content": exchange["assistant"]})
    return {**{name: value for name, value in entry.items() if name != TEXTS}, "messages": turns}


def suggest(entry: dict[str, Any], lacking: Sequence[str], is_text: Callable[[str, Any], bool]) -> str:
    """A `columns` setting that would read a record which lacks `lacking`: its only other keys of texts, as `is_text`
    tells, in their order, or its only list of turns; "" where several keys would do."""
    talks = [name for name, value in entry.items() if is_conversation(value) and not re.search(r"[,=]", name)]
    if len(talks) == 1 and QUESTION in lacking:
        return f"messages={talks[0]}"
    found = [name for name, value in entry.items() if is_text(name, value) and not re.search(r"[,=]|^\s|\s$", name)]
    if len(found) != len(lacking):
        return ""
    targets = {QUESTION: QUESTION, ANSWER: "answer"}
    like = {name.strip().lower(): name for name in found}
    known = {QUESTION: QUESTIONS, ANSWER: ANSWERS}
    ends = {name: re.split(r"[^a-z0-9]+", lower)[-1] for lower, name in like.items()}  # gt_answer: answer
    chosen = {
        key: next((like[word] for word in known[key] if word in like), None)
        or next((name for name in found if ends.get(name) in known[key]), None)
        for key in lacking
    }
    left = iter(name for name in found if name not in chosen.values())
    return ",".join(f"{targets[key]}={chosen[key] or next(left)}" for key in lacking)


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(turn, dict) for turn in value)


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of turns that say who speaks, and what."""
    return (
        _is_turns(value) and bool(value) and all(any(turn.keys() >= {*pair} for pair in TURN_PAIRS) for turn in value)
    )


def as_list(text: str) -> Any:
    """The JSON list in `text`, else `text`."""
    found = _parsed(text)
    return found if isinstance(found, list) else text


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _one(entry: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The one name of `names` that the record has; None when it has none. Raises FormError where several have a
    value."""
    there = [name for name in names if name in entry]
    full = [name for name in there if entry[name] not in (None, "")]
    if len(full) > 1:
        column = next(key for key, known in (("question", QUESTIONS), ("answer", ANSWERS), ("context", CONTEXTS))
                      if names is known)  # fmt: skip
        said = f": {', '.join(full[:-1])} and {full[-1]} may each be the {column}"
        raise FormError(f"{said}: columns: {column}={full[0]} says which one is")
    return next(iter((*full, *there)), None)
