"""Reads answers: JSON with the action under one key, or plain text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from trainer.files import parse_json
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

LEAST_ANSWERS = 8  # with fewer answers nothing repeats
WHOLE = "none"
"""For the `answer_field` setting: answers are whole texts."""
UNREADABLE = "(unreadable)"


def answer_field(answers: Sequence[str], asked: str = "auto") -> str | None:
    """The key that holds the action: `asked`, or what most JSON answers have first; None for plain text, and where
    WHOLE is asked.

    Raises:
        ConfigError: no answer has the key `asked`.
    """
    if asked == WHOLE:
        return None
    entries = [entry for answer in answers if (entry := json_object(answer))]
    if asked != "auto":
        keys = tuple(dict.fromkeys(key for entry in entries for key in entry))
        if asked not in keys:
            known = f"the answers have {', '.join(keys[:8])}{nearest(asked, keys)}"
            plain = "no answer is a JSON object with keys: leave it out"
            raise ConfigError(f"answer_field={shown(asked)}: {known if keys else plain}")
        return asked
    first = Counter(next(iter(entry)) for entry in entries).most_common(1)
    return first[0][0] if first else None


def likelier_field(answers: Sequence[str]) -> str | None:
    """A line that suggests another key for the action: one with few values that repeat, where the first key, which
    counts as the action, has nearly always another value. None when there is no such key."""
    entries = [entry for answer in answers if (entry := json_object(answer))]
    first = answer_field(answers)
    if first is None or len(entries) < LEAST_ANSWERS:
        return None
    values: dict[str, set[str]] = {}
    for entry in entries:
        for name, value in entry.items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    few = min(values, key=lambda name: len(values[name]))
    said = {name: f"{name} has {len(values[name])} values in {len(entries)} answers" for name in (first, few)}
    if 2 * len(values[first]) > len(entries) and 1 < len(values[few]) <= len(entries) / 4:
        return f"{said[first]}, and is scored as the first key; {said[few]}: answer_field: {few} scores it instead"
    return None


def answer_text(value: Any) -> str | None:
    """The JSON text of an answer that is an object, a number, true or false; None for any other value, and for a
    value that JSON cannot write."""
    if not isinstance(value, dict | int | float):
        return None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return None


def read_action(answer: str, field: str | None) -> str | None:
    """The action in an answer: a string as it is, anything else as JSON writes it, so that 1 and "1" are one action;
    the whole stripped text when the answers are no JSON; None when unreadable."""
    if field is None:
        return answer.strip()
    entry = json_object(answer)
    if not entry or field not in entry:
        return None
    value = entry[field]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`; None for anything else."""
    try:
        entry = parse_json(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
