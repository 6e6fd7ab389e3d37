"""The whole data set looked at before anything is loaded on a GPU; the trainer and the validator drop the same.

Every picture is opened, every record rendered and tokenized. What cannot be trained on is named with its reason;
`kept` is the data set without it.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.data.records import Dataset, Record
from trainer.evaluation.metrics import json_object
from trainer.outcome import ConfigError

SIDES = ("train", "eval")
# In the order they are looked for; a record counts under the first that it has.
UNREADABLE = "a picture does not open"
UNEVEN = "frames of different sizes"
TEMPLATE = "the chat template refuses it"
MARKER = "the text holds the model's own image marker"
NO_JSON = "the answer is no JSON object, as most are"
TOO_LONG = "longer than max_length"
LEAKED = "also among the held-out records"


LEAST_KEPT = 0.1  # of the training records; with fewer the settings are wrong, not the records


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One record."""

    reason: str | None = None
    """Why it is left out; None when it is kept."""
    detail: str = ""
    content: str = ""
    """Hash of the pictures' bytes and of everything the model is shown."""
    tokens: int = 0
    supervised: int = 0
    """Tokens of the answer with its end of turn."""
    picture_tokens: int = 0
    """Positions that the pictures add."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    dataset: Dataset
    max_length: int
    checked: dict[str, tuple[Checked, ...]]
    """By side, one for each record of the data set, in order."""
    picture_sizes: Counter[tuple[int, int]]
    """Files by (width, height)."""

    def unfit(self) -> dict[str, set[int]]:
        """By side, the places of the records that have a reason."""
        return {side: {i for i, c in enumerate(self.checked[side]) if c.reason is not None} for side in SIDES}

    def refusal(self, *, strict: bool = False) -> str:
        """Why there should be no run on what is left, in words; nothing when there may be."""
        lines = self.left_out()
        if strict and lines:
            return f"strict: {'; '.join(lines)}"
        for side, least in (("train", LEAST_KEPT), ("eval", 0.0)):
            before = len(self.checked[side])
            after = before - len(self.unfit()[side])
            if before and after <= least * before:
                # A run on the few records that fit would look like success.
                return f"{after} of {before} {side} records would be left: {'; '.join(lines)}"
        return ""

    def kept(self, *, strict: bool = False) -> Dataset:
        """The data set without the unfit records. Raises ConfigError when too few are left, with `strict` any less."""
        if refusal := self.refusal(strict=strict):
            raise ConfigError(refusal)
        return without(self.dataset, self.unfit())

    def left_out(self) -> list[str]:
        """One line for each reason and side."""
        lines = []
        for side in SIDES:
            found = [c for c in self.checked[side] if c.reason]
            for reason, count in Counter(c.reason for c in found).items():
                said = f"{count} of {len(self.checked[side])} {side} records left out: {reason}"
                example = next(c.detail for c in found if c.reason == reason)
                if reason == TOO_LONG:
                    longest = max(c.tokens for c in found if c.reason == reason)
                    example = f"{self.max_length} tokens; MAX_LENGTH={longest} keeps them"
                lines.append(said + (f" ({example})" if example else ""))
        return lines

    def duplicates(self, side: str) -> tuple[int, int]:
        """(records that repeat an earlier one's pictures and prompt, how many of these have another answer)."""
        first: dict[str, str] = {}
        repeated = differing = 0
        for record, checked in zip(getattr(self.dataset, side), self.checked[side], strict=True):
            if not checked.content:
                continue
            answer = first.setdefault(checked.content, record.answer)
            repeated += 1
            differing += answer != record.answer
        return repeated - len(first), differing


def without(dataset: Dataset, places: Mapping[str, Collection[int]]) -> Dataset:
    """The data set without the records at `places`, by side."""
    sides = {side: tuple(r for i, r in enumerate(getattr(dataset, side)) if i not in places[side]) for side in SIDES}
    return replace(dataset, **sides)


def inspect_dataset(dataset: Dataset, processor: Any, *, max_length: int) -> Inspection:
    """Look at every record of both sides."""
    files = sorted({path for side in SIDES for r in getattr(dataset, side) for path in r.images})
    with ThreadPoolExecutor(max_workers=8) as pool:
        opened = dict(zip(files, _bar(pool.map(_open, files), "pictures", len(files)), strict=True))
    checked = {side: _check(getattr(dataset, side), opened, processor) for side in SIDES}
    answers = [r.answer for side in SIDES for r in getattr(dataset, side)]
    mostly_json = 2 * sum(json_object(answer) is not None for answer in answers) > len(answers)
    held_out = {c.content for c in checked["eval"] if c.reason is None}
    judged = {
        side: tuple(
            _judge(c, record, mostly_json, max_length, held_out if side == "train" else set())
            for c, record in zip(checked[side], getattr(dataset, side), strict=True)
        )
        for side in SIDES
    }
    sizes = Counter(size for _, size, _ in opened.values() if size is not None)
    return Inspection(dataset=dataset, max_length=max_length, checked=judged, picture_sizes=sizes)


def _open(path: Path) -> tuple[str, tuple[int, int] | None, str]:
    """(hash of the file, (width, height), what is wrong with it); every pixel is decoded."""
    from PIL import Image, UnidentifiedImageError

    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return digest, image.size, ""
    except UnidentifiedImageError:
        return digest, None, f"{path} is no image, {len(data)} bytes"
    except Exception as error:  # Pillow's decoders raise nearly anything
        return digest, None, f"{path}: {error or type(error).__name__}"


def _check(
    records: Sequence[Record], opened: dict[Path, tuple[str, tuple[int, int] | None, str]], processor: Any
) -> list[Checked]:
    """Everything that can be said of each record by itself, without judging its length or answer."""
    from trainer.data.examples import prompt_and_answer, token_counts

    checked: list[Checked] = []
    marker = getattr(processor, "image_token", None)
    for record in _bar(records, "records", len(records)):
        broken = next((error for path in record.images if (error := opened[path][2])), "")
        sizes = [[opened[Path(path)][1] for path in picture.paths] for picture in record.pictures]
        if broken:
            checked.append(Checked(reason=UNREADABLE, detail=broken))
        elif any(len(set(of_one)) > 1 for of_one in sizes):
            checked.append(Checked(reason=UNEVEN, detail=str(record.images[0])))
        else:
            try:
                text = "".join(prompt_and_answer(processor, record))
            except Exception as error:  # whatever the model's template raises
                checked.append(Checked(reason=TEMPLATE, detail=str(error)))
                continue
            if marker and text.count(marker) != len(record.pictures):
                checked.append(Checked(reason=MARKER, detail=marker))
            else:
                checked.append(Checked(content=_content(record, {p: opened[p][0] for p in record.images})))
    whole = [index for index, c in enumerate(checked) if c.reason is None]
    counts = token_counts(processor, [records[index] for index in whole])
    for index, (tokens, supervised, pictures) in zip(whole, counts, strict=True):
        checked[index] = replace(checked[index], tokens=tokens, supervised=supervised, picture_tokens=pictures)
    return checked


def _judge(checked: Checked, record: Record, mostly_json: bool, max_length: int, held_out: set[str]) -> Checked:
    if checked.reason is not None:
        return checked
    faults = (
        (NO_JSON, mostly_json and json_object(record.answer) is None, record.answer[:60]),
        (TOO_LONG, checked.tokens > max_length, ""),
        (LEAKED, checked.content in held_out, ""),
    )
    found = next(((reason, detail) for reason, holds, detail in faults if holds), None)
    return checked if found is None else replace(checked, reason=found[0], detail=found[1])


def _content(record: Record, digests: dict[Path, str]) -> str:
    """Pictures by their bytes and text as it is: the same for two records that show the model the same."""
    parts = [
        (turn.role, part if isinstance(part, str) else [digests[Path(path)] for path in part.paths])
        for turn in record.turns
        for part in turn.parts
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _bar(items: Iterable[Any], what: str, count: int) -> Iterator[Any]:
    from tqdm.auto import tqdm

    yield from tqdm(items, desc=f"checking {what}", total=count, leave=False, disable=not sys.stderr.isatty())
