"""The page of `validate data`: left out records with reasons, lengths, answers, and records as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.examples import Rewritten, describe_example, encode_learned
from trainer.data.inspection import Inspection
from trainer.data.lengths import beside
from trainer.data.records import SIDES, each_answer, without
from trainer.data.turns import Record
from trainer.files import write_whole
from trainer.outcome import RecordError
from trainer.report.templates import render

SHOWN = 12
NAME = "data.html"


def save_data_page(data: str, report: Mapping[str, Any], inspection: Inspection, processor: Any) -> Path:
    """The path of the page, which is written beside the data. Raises OSError."""
    path = beside(data, NAME)
    write_whole(path, data_page(report, inspection, processor))
    return path


def data_page(report: Mapping[str, Any], inspection: Inspection, processor: Any) -> str:
    kept = without(inspection.dataset, inspection.unfit())
    samples = [
        {"side": side, "pictures": [picture.paths for picture in record.pictures], "text": _seen(processor, record)}
        for side, most in _shares(len(kept.train), len(kept.eval)).items()
        for record in _spread(getattr(kept, side), most)
    ]
    return render("data.html.j2", title="Data", report=report, samples=samples)


def _spread(records: Sequence[Record], most: int) -> Sequence[Record]:
    """At most `most` records, spread over the whole set."""
    count = min(most, len(records))
    return [records[number * len(records) // count] for number in range(count)]


def _shares(train: int, held_out: int) -> dict[str, int]:
    """How many records of each side are shown: a quarter are held-out ones, where there are enough of both."""
    asked = min(held_out, max(SHOWN // 4, SHOWN - train))
    return dict(zip(SIDES, (min(train, SHOWN - asked), asked), strict=True))


def _seen(processor: Any, record: Record) -> str:
    """A record's tokens as text, with those that are trained separated from those that are only shown."""
    try:
        return describe_example(processor, encode_learned(processor, record))
    except Rewritten:
        return "\n\n".join(describe_example(processor, encode_learned(processor, one)) for one in each_answer([record]))
    except RecordError as error:
        return error.words
