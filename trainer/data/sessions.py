"""Chooses the held-out records by whole sessions, so that no session is on both sides."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from trainer.data.answers import json_object
from trainer.data.columns import AUTO
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

# Keys, in a record or its metadata, that name the session from which it must not be separated.
SESSION_KEYS = ("session_id", "episode_id", "session", "episode")
# Last words of a column name that may be a session's; a number alone, such as `step`, is none.
LIKE_A_SESSION = re.compile(
    r"(?:.*[_-])?(?:sessions?|episodes?|trajector(?:y|ies)|traj|games?|dialog(?:ue)?s?|conversations?|annotations?|videos?"
    r"|clips?|scenes?|rollouts?|tasks?|users?|subjects?|patients?|groups?)(?:[_-]?(?:id|idx|index|name|key|uid))?",
    re.IGNORECASE,
)
MOST_VALUES = 100_000


class Sessions:
    """The session of each record, and the columns that look as if they named one."""

    def __init__(self, key: str = AUTO) -> None:
        self._key = key
        self._seen: dict[str, Counter[str]] = {}
        """By column that looks like a session's, how often each value occurs."""
        self._columns: set[str] = set()

    def of(self, entry: dict[str, Any]) -> str:
        said = entry.get("metadata")
        metadata = json_object(said) if isinstance(said, str) else said  # tables hold metadata as JSON text
        places = (metadata if isinstance(metadata, dict) else {}, entry)
        found = ""
        for where in places:
            for key in SESSION_KEYS if self._key == AUTO else (self._key,):
                if not found and isinstance(where.get(key), (str, int, float)):
                    found = str(where[key])
        if self._key != AUTO:
            self._columns.update(name for where in places for name in where)
        elif not found:
            for where in places:
                for name, value in where.items():
                    if isinstance(value, (str, int)) and _is_like_a_session(name):
                        seen = self._seen.setdefault(name, Counter())
                        if len(seen) < MOST_VALUES:
                            seen[str(value)] += 1
        return found

    def check(self) -> None:
        """Raises ConfigError for a key that no record has."""
        if self._key not in (AUTO, *self._columns):
            names = sorted(self._columns)
            raise ConfigError(
                f"session_key={shown(self._key)}: no record has it: the records have {', '.join(names[:8])}"
                f"{nearest(self._key, names)}"
            )

    def note(self) -> str | None:
        """A line about the column that looks most like a session's, when no record names its session; else None."""
        for name, values in self._seen.items():
            # A single value separates nothing, and a column with nearly as many values as records is no session.
            if 1 < len(values) <= values.total() / 2:
                return (
                    f"{name} has {len(values)} values in {values.total()} records, as sessions do: "
                    f"session_key: {name} never divides one of them between training and held-out records"
                )
        return None


@cache
def _is_like_a_session(name: str) -> bool:
    return bool(LIKE_A_SESSION.fullmatch(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)))


def choose_held_out(sessions: Sequence[str], *, eval_fraction: float, seed: int) -> tuple[set[int], str]:
    """(the places of the records to hold out, how they were chosen in words): whole sessions, until about
    `eval_fraction` of the records are held out. A record without a session ("") counts as a session."""
    keys = [session or f"record {index}" for index, session in enumerate(sessions)]
    counts = Counter(keys)
    # Ordered by a hash of the name, so that neither the order in the file nor the names decide.
    order = sorted(counts, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    wanted, taken, held_out = eval_fraction * len(keys), 0, set[str]()
    for key in order[:-1]:  # at least one session stays for training
        if taken + counts[key] / 2 <= wanted:
            held_out.add(key)
            taken += counts[key]
    if not held_out and wanted and len(order) > 1:
        # Few or uneven sessions: hold out the smallest, which costs the least training data for a score.
        held_out.add(min(order, key=lambda key: counts[key]))
    how = f"nothing can be held out {'of one session' if wanted else 'with eval_fraction 0'}: there will be no score"
    if held_out:
        how = (
            f"{len(held_out)} of {len(order)} sessions held out" if any(sessions) else "single records: no session ids"
        )
    return {place for place, key in enumerate(keys) if key in held_out}, how
