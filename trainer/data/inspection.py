"""Checks the whole data set before anything is loaded on a GPU; the trainer and the validator drop the same records.

Every picture is opened, every record rendered and tokenized. A record that cannot be used for training is named with
its reason; `kept` is the data set without such records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from trainer.config import MOST_TOKENS
from trainer.data.answers import WHOLE, json_object, likelier_field
from trainer.data.endings import markers
from trainer.data.examples import Rewritten
from trainer.data.faults import SHOWN_PLACES
from trainer.data.fingerprints import open_file
from trainer.data.looks import MOST_SECONDS, Alike, count_alike
from trainer.data.record_check import NO_OBJECT, TOO_LONG, Checked, Shown, check_record
from trainer.data.records import SIDES, Dataset, each_answer, keep_fit, take_apart
from trainer.data.turns import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    dataset: Dataset
    """The data set with the records in `apart` split into one record for each answer."""
    max_length: int
    checked: dict[str, tuple[Checked, ...]]
    """By side, one result for each record of the data set, in order."""
    picture_sizes: Counter[tuple[int, int]]
    """Number of files by (width, height)."""
    grey_bits: Counter[int]
    """Number of files with 16-bit greys by the bits that they are taken to use."""
    looks: Mapping[str, bytes]
    """By a file's digest, its rough fingerprint (trainer/data/looks.py)."""
    apart: dict[str, set[int]]
    """By side, the places, in the data set as it was read, of records whose answers are learned one at a time because
    the chat template rewrites earlier answers in later turns."""
    animated: int = 0
    """Number of files with further pictures behind the first one."""

    def notes(self, answer_field: str = "auto") -> list[str]:
        """Further facts that a reader of the data should know, one line each. `answer_field` is the setting."""
        lines = []
        if count := sum(map(len, self.apart.values())):
            lines.append(
                f"{count} records are learned one answer at a time, each behind what was said before it: in later "
                "turns the chat template renders earlier answers otherwise, or without their end"
            )
        if self.animated:
            many = f"{self.animated} picture files hold several pictures or pages: the first of each is shown"
            one = "1 picture file holds several pictures or pages: the first is shown"
            lines.append(one if self.animated == 1 else many)
        if len(self.grey_bits) > 1:
            read = ", ".join(f"{count} as {bits} bits" for bits, count in sorted(self.grey_bits.items()))
            lines.append(
                f"files with 16-bit greys are read by the brightest pixel of each, {read}: the same level is "
                "brighter where fewer bits are used, so depth maps need one scale before they are stored"
            )
        asked = [content for checked in self.checked["eval"] if checked.reason is None for content in checked.contents]
        taught = {c for checked in self.checked["train"] if checked.reason is None for c in checked.contents}
        if shared := sum(content in taught for content in asked):
            lines.append(
                f"{shared} of {len(asked)} held-out answers follow the same pictures and words as training answers, as "
                "where conversations begin alike"
            )
        kept = {side: [c for c in self.checked[side] if c.reason is None] for side in SIDES}
        trained = {picture for checked in kept["train"] for picture in checked.pictures}
        held_out = [picture for checked in kept["eval"] for picture in checked.pictures]
        if seen := sum(picture in trained for picture in held_out):
            lines.append(
                f"{seen} of {len(held_out)} held-out pictures are shown in training too, pixel for pixel: scores say "
                "less about pictures that are new"
            )
        new = [picture for picture in held_out if picture not in trained]
        alike, compared = self._alike(new, trained)
        if alike:
            lines.append(
                f"{alike} of {len(held_out)} held-out pictures look like one that training shows, as where a picture "
                "was encoded again or made smaller: if they are the same, scores say less about new ones"
            )
        if compared < len(new):
            lines.append(
                f"{compared} of {len(new)} held-out pictures were compared with the looks of training's: "
                f"that ends after {MOST_SECONDS:.0f} s"
            )
        answers = (answer for record in self.dataset.train for answer in record.answers)
        if answer_field == "auto" and (likelier := likelier_field([*answers])):
            lines.append(likelier)
        return lines

    def _alike(self, asked: Sequence[Shown], known: Collection[Shown]) -> Alike:
        """How many pictures of `asked` look like a picture of `known` with the same number of files."""
        numbers = {len(picture) for picture in asked}
        found = [
            count_alike(
                [b"".join(self.looks[digest] for digest in picture) for picture in asked if len(picture) == files],
                [b"".join(self.looks[digest] for digest in picture) for picture in known if len(picture) == files],
                MOST_SECONDS / len(numbers),
            )
            for files in numbers
        ]
        return Alike(sum(one.found for one in found), sum(one.compared for one in found))

    def unfit(self) -> dict[str, set[int]]:
        """By side, the places of the records that have a reason."""
        return {side: {i for i, c in enumerate(self.checked[side]) if c.reason is not None} for side in SIDES}

    def kept(self, *, strict: bool = False) -> Dataset:
        """The data set without the unfit records. Raises ConfigError when too few are left, and with `strict` when
        any is left out."""
        return keep_fit(self.dataset, self.unfit(), self.left_out(), strict=strict)

    def left_out(self) -> list[str]:
        """One line for each reason and side."""
        lines = list(self.dataset.left_out)
        for side in SIDES:
            found: dict[tuple[str, str], list[Checked]] = {}
            for checked in self.checked[side]:
                if checked.reason is not None:
                    found.setdefault((checked.reason, checked.kind), []).append(checked)
            for (reason, _), some in found.items():
                example = some[0].detail
                if places := [checked.place for checked in some if checked.place]:
                    more = f" and {len(some) - SHOWN_PLACES} more" if len(some) > SHOWN_PLACES else ""
                    first = f"; the first: {example}" if example else ""
                    example = f"{', '.join(places[:SHOWN_PLACES])}{more}{first}"
                if reason == NO_OBJECT:
                    example += "; answer_field: none learns and scores answers as whole texts"
                if reason == TOO_LONG:
                    longest = max(checked.tokens for checked in some)
                    keeps = f"MAX_LENGTH={longest} keeps them"
                    if longest > MOST_TOKENS:
                        keeps = f"the longest has {longest}, and MAX_LENGTH goes to {MOST_TOKENS}"
                    example = "; ".join(filter(None, (f"{self.max_length} tokens; {keeps}", example)))
                said = f"{len(some)} of {len(self.checked[side])} {side} records left out: {reason}"
                lines.append(said + (f" ({example})" if example else ""))
        return lines

    def duplicates(self, side: str) -> tuple[int, int]:
        """(records that repeat an earlier record's pictures and prompt, how many of these have another answer)."""
        pairs = zip(self.checked[side], getattr(self.dataset, side), strict=True)
        answers = [(checked.contents[-1], record.answer) for checked, record in pairs if checked.contents]
        first = dict(reversed(answers))
        return len(answers) - len(first), sum(answer != first[content] for content, answer in answers)


def inspect_dataset(dataset: Dataset, processor: Any, *, max_length: int, answer_field: str = "auto") -> Inspection:
    """Check every record of both sides. `answer_field` is the setting."""
    records = (*dataset.train, *dataset.eval)
    paths = sorted({path for record in records for picture in record.pictures for path in picture.paths})
    with ThreadPoolExecutor(max_workers=8) as pool:
        opened = tqdm(pool.map(open_file, paths), "checking pictures", len(paths), leave=False, disable=None)
        files = dict(zip(paths, opened, strict=True))
    checked: dict[str, tuple[Checked, ...]] = dict.fromkeys(SIDES, ())
    check = partial(
        check_record, processor=processor, max_length=max_length, files=files, added={}, texts={}, counts={},
        markers=markers(processor),
        mostly_json=answer_field != WHOLE
        and 2 * sum(json_object(record.answer) is not None for record in records) > len(records),
    )  # fmt: skip
    asked, held_out = set[str](), set[str]()
    apart: dict[str, set[int]] = {side: set() for side in SIDES}
    for side in reversed(SIDES):  # the held-out records first: what they show must not be trained on
        bar = tqdm(getattr(dataset, side), f"checking {side} records", leave=False, disable=None)
        checked[side] = tuple(_check_side(bar, partial(check, asked=asked, held_out=held_out), apart[side]))
        fit = [found.contents for found in checked[side] if found.reason is None]
        asked, held_out = {content for contents in fit for content in contents}, {contents[-1] for contents in fit}
    sizes = Counter(file.size for file in files.values() if file.size)
    looks = {file.digest: file.look for file in files.values()}
    return Inspection(
        dataset=take_apart(dataset, apart),
        max_length=max_length,
        checked=checked,
        picture_sizes=sizes,
        grey_bits=Counter(file.grey_bits for file in files.values() if file.grey_bits),
        looks=looks,
        apart=apart,
        animated=sum(file.animated for file in files.values()),
    )


def _check_side(records: Iterable[Record], check: Callable[[Record], Checked], apart: set[int]) -> Iterator[Checked]:
    """The result for each record, or for each of its answers where these cannot share one text; the places of such
    records are added to `apart`."""
    for place, record in enumerate(records):
        try:
            yield replace(check(record), place=record.place)
        except Rewritten:
            apart.add(place)
            yield from (replace(check(one), place=record.place) for one in each_answer([record]))
