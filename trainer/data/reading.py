"""Reads the files of records one after another, checks each record, and counts the faults by kind."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import Learn
from trainer.data.columns import TURN_KEYS, rename
from trainer.data.containers import read_records
from trainer.data.faults import Faults
from trainer.data.file_names import SIDE_OF
from trainer.data.forms import read_form
from trainer.data.images import Pictures
from trainer.data.sessions import Sessions
from trainer.data.turns import Form, FormError, Record
from trainer.data.unread import Unread
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

LONGEST_SHARED = 200
"""Most characters of an answer that may be an action."""
IDLE = "weight 0, loss false or mask true leaves no answer to learn"


class Row(NamedTuple):
    record: Record
    side: str
    """The side that its `split` column names: train, eval or test; empty for any other value."""


class Reader:
    """Reads files of records; its fields then hold the findings about all files of a set."""

    def __init__(
        self,
        *,
        learn: Learn,
        columns: Mapping[str, str],
        session_key: str,
        image_root: str | None,
        text_only: bool,
        write: bool,
    ) -> None:
        self._learn = learn
        self._columns = columns
        self._image_root = image_root
        self._write = write
        self._absent = {name for name, key in columns.items() if key not in TURN_KEYS}
        """Keys that `columns` names and no record has had so far."""
        self._keys: dict[str, None] = {}
        """The keys of all records."""
        self.faults = Faults()
        self.sessions = Sessions(session_key)
        self.pictures: dict[Path, Pictures] = {}
        """Pictures by the folder of the files."""
        self.unread = Unread(text_only=text_only)
        self.unanswered = 0
        """Records that end with a user's turn."""
        self.as_json: Counter[str] = Counter()
        """Number of answers that are JSON values in the records; the first key is the text of the first one."""
        self.notes: list[str] = []
        """Facts about the form of the files."""
        self.splits: Counter[str] = Counter()
        """Number of records by their side, or by the value of their `split` that names none."""
        self.counts: Counter[Path] = Counter()
        """Number of records in each file, readable or not."""

    def read(self, path: Path) -> Iterator[Row]:
        """The rows of one file. Raises ConfigError for a file that is not JSON text, OSError."""
        place = self.pictures.setdefault(
            path.parent, Pictures(path.parent, self._image_root, write=self._write)
        )  # fmt: skip
        name = path.name
        for where, entry in read_records(path, self._columns, self.notes):
            self.counts[path] += 1
            try:
                if isinstance(entry, FormError):
                    raise entry
                if self._absent:
                    self._absent -= entry.keys()
                    self._keys.update(dict.fromkeys(entry))
                row = self._row(rename(entry, self._columns), place, f"{name} {where}")
            except FormError as error:
                self.faults.add(name, where, error)
            else:
                yield row

    def check_columns(self) -> None:
        """Raises ConfigError for a key that `columns` names and no record has."""
        if absent := sorted(self._absent) if self._keys else []:
            names = [name for name in self._keys if name not in self._columns]
            raise ConfigError(
                f"columns: no record has {shown(absent[0])}: the records have {', '.join(names[:8])}"
                f"{nearest(absent[0], names)}"
            )

    def _row(self, entry: dict[str, Any], place: Pictures, where: str) -> Row:
        form = read_form(entry, place)
        self.unread.add(form, where, place.is_picture)
        self.unanswered += form.turns[-1].role == "user"
        if form.as_json:
            self.as_json[next(turn.text for turn in form.turns if turn.role == "assistant")] += form.as_json
        record = _record(form, self.sessions.of(entry), self._learn, where)
        split = entry.get("split")
        side = SIDE_OF.get(split.strip().lower(), "") if isinstance(split, str) else ""
        if split not in (None, ""):
            self.splits[side or str(split)] += 1
        return Row(record, side)


def _record(form: Form, session: str, learn: Learn, where: str) -> Record:
    """Up to the last answer that is learned; what stands behind it changes nothing. Raises FormError where there is
    none."""
    last = len(form.turns) - 1 - (form.turns[-1].role == "user")
    while learn == "all" and last > 0 and not form.turns[last].learned:
        last -= 1
    if not form.turns[last].learned:
        raise FormError(f": {IDLE}")
    turns = form.turns[:last]
    if learn == "last":
        turns = tuple(replace(turn, learned=False) if turn.learned else turn for turn in turns)
    answer = form.turns[last].text
    # Records share the texts that they repeat: actions, and the names of sessions.
    if len(answer) <= LONGEST_SHARED:
        answer = sys.intern(answer)
    return Record(turns=turns, answer=answer, session=sys.intern(session), place=where)
