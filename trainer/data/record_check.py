"""Checks one record: its pictures, its text as the chat template renders it, its tokens, and whether it is also among
the held-out records."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from trainer.data.answers import json_object
from trainer.data.examples import Rewritten, count_tokens, encode_text, join_prompts, render
from trainer.data.fingerprints import File, arrangement, contents, wording
from trainer.data.turns import Record
from trainer.outcome import ConfigError, RecordError
from trainer.text import printable

T = TypeVar("T")
Shown = tuple[str, ...]  # the digests of a picture's files
TOO_LONG = "longer than max_length"
NO_OBJECT = "the answer is no JSON object, as most are"
NOT_OPEN = "a picture does not open"
MOST_KNOWN_TEXTS = 256  # the rendered texts that are kept: records often differ in their pictures alone
MOST_CHARACTERS_A_TOKEN = 64  # of a whole text: five is usual, and a token of so many spaces is the longest there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The result for one record."""

    reason: str | None = None
    """Why the record is left out; None when it is kept."""
    detail: str = ""
    place: str = ""
    """Where the record stands in its file, as far as that is known."""
    contents: tuple[str, ...] = ()
    """For each answer that is learned, a hash of the pictures' pixels and of everything shown to the model
    before it."""
    pictures: tuple[Shown, ...] = ()
    """The digests of each picture's files."""
    tokens: int = 0
    supervised: int = 0
    """Tokens of the learned answers, with their ends of turn."""
    picture_tokens: int = 0
    """Positions that the pictures add."""

    @property
    def kind(self) -> str:
        """What a picture's error says beside its name and its numbers; nothing for any other reason."""
        if self.reason != NOT_OPEN:
            return ""
        said = " is no image" if " is no image (" in self.detail else self.detail.rpartition(": ")[2]
        return re.sub(r"\d+", "", said)


def check_record(
    record: Record,
    *,
    processor: Any,
    max_length: int,
    files: Mapping[str, File],
    added: dict[Hashable, int],
    texts: dict[Hashable, tuple[str, list[str]]],
    counts: dict[Hashable, list[int]],
    markers: re.Pattern[str],
    mostly_json: bool,
    asked: Set[str],
    held_out: Set[str],
) -> Checked:
    """The result for one record, with the first reason against it. `asked` holds the contents before all held-out
    answers, `held_out` those before the last answer of each held-out record.

    Pictures are encoded only to learn how many tokens they add: once for each arrangement, kept in `added`. What the
    last records of other words were rendered to is kept in `texts`, and their numbers of tokens in `counts`.
    """
    shown = [[files[path] for path in picture.paths] for picture in record.pictures]
    if broken := [file.error for picture in shown for file in picture if file.error]:
        return Checked(reason=NOT_OPEN, detail=broken[0])
    if marker := markers.search("\n".join((record.prompt, record.answer))):
        return Checked(reason="the text holds a marker of the model's own", detail=marker[0])
    if any(len({file.size for file in picture}) > 1 for picture in shown):
        return Checked(reason="frames of different sizes", detail=printable(str(record.images[0])))
    if (characters := len(record.prompt) + sum(map(len, record.answers))) > MOST_CHARACTERS_A_TOKEN * max_length:
        # Tokenizing megabytes takes minutes, to find what is known.
        return Checked(reason="more text than max_length tokens can hold", detail=f"{characters} characters")
    try:
        text, answers = _known(texts, wording(record), lambda: _texts(processor, record))
    except (ConfigError, Rewritten):
        raise
    except Exception as error:  # whatever the model's template raises
        return Checked(reason="the chat template refuses it", detail=str(error))
    key = arrangement(record, files)
    try:
        counted = _known(counts, (text, *answers), lambda: count_tokens(processor, record, [text, *answers]))
        joined, *lengths = counted
        if key not in added:
            added[key] = encode_text(processor, record, text)["input_ids"].shape[1] - joined
    except RecordError as error:
        return Checked(reason="the processor refuses it", detail=error.words)
    found = Checked(
        contents=contents(record, files), tokens=joined - len(answers) + 1 + sum(lengths) + added[key],
        supervised=sum(lengths), picture_tokens=added[key],
        pictures=tuple(tuple(file.digest for file in picture) for picture in shown),
    )  # fmt: skip
    if mostly_json and json_object(record.answer) is None:
        return replace(found, reason=NO_OBJECT, detail=record.answer[:60])
    if found.tokens > max_length:
        return replace(found, reason=TOO_LONG)
    # The beginnings that two conversations share are no leak; one that is all there in the other is.
    if found.contents[-1] in asked or not held_out.isdisjoint(found.contents):
        return replace(found, reason="also among the held-out records")
    return found


def _texts(processor: Any, record: Record) -> tuple[str, list[str]]:
    """(the rendered prompts as one text, the answers with their ends)."""
    prompts, answers = render(processor, record)
    return join_prompts(processor, prompts)[0], answers


def _known(kept: dict[Hashable, T], key: Hashable, make: Callable[[], T]) -> T:
    """What is `kept` for the key, or else the result of `make`."""
    if key not in kept:
        if len(kept) == MOST_KNOWN_TEXTS:
            kept.clear()
        kept[key] = make()
    return kept[key]
