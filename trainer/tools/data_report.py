"""The report of `validate data`: left out records with reasons, their lengths, and the answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.config import TrainConfig
from trainer.data.answers import UNREADABLE, answer_field, read_action
from trainer.data.endings import describe_end
from trainer.data.inspection import Inspection, inspect_dataset
from trainer.data.lengths import Lengths, percentiles, processor_digest, sample_pictures, write_lengths
from trainer.data.records import SIDES, Dataset, each_answer, without
from trainer.outcome import FINISHED, ConfigError
from trainer.settings import say
from trainer.text import format_table, printable_lines

SETTINGS = (
    "model", "data", "image_root", "learn", "text_only", "columns", "session_key", "max_length",
    "eval_fraction", "seed", "strict",
)  # fmt: skip
COUNTS = (
    "records",
    "kept",
    "answers",
    "sessions",
    "pictures",
    "text_only",
    "duplicates",
    "duplicates_with_another_answer",
)
SIZES = {"tokens": "tokens", "supervised": "answer tokens", "picture_tokens": "image tokens"}
PERCENTILES = {"p50": "median", "p95": "95 %", "p100": "longest"}
MOST_LABELS = 20


def print_report(config: TrainConfig, dataset: Dataset, *, as_json: bool) -> int:
    """Check the records, keep their lengths for the plan, and print. Raises ConfigError when no run should use them."""
    from trainer.model.base import load_processor
    from trainer.report.data_page import save_data_page

    processor = load_processor(config.model)
    inspection = inspect_dataset(dataset, processor, max_length=config.max_length, answer_field=config.answer_field)
    report = build_report(config, inspection)
    report["notes"] += filter(None, [describe_end(processor)])
    report["notes"] += unscored(processor, inspection, report["answer_field"], config.actions)
    try:
        report["lengths_file"] = str(write_lengths(config.data, measured(config, inspection)))
    except OSError as error:
        say([f"the lengths were not kept ({error}): plans use MAX_LENGTH"])
    try:
        report["page"] = str(save_data_page(config.data, report, inspection, processor))
    except OSError as error:
        say([f"the page was not written ({error})"])
    print(json.dumps(report, indent=1) if as_json else printable_lines(render(report)), flush=True)
    inspection.kept(strict=config.strict)
    return FINISHED


def unscored(processor: Any, inspection: Inspection, field: str | None, asked: str) -> list[str]:
    """Why a run on the kept records would only write answers out, or would score some as always wrong; an empty list
    when neither holds. Raises ConfigError for invalid `asked` actions."""
    from trainer.evaluation.scoring import find_choices, unscorable_actions

    kept = without(inspection.dataset, inspection.unfit())
    if not kept.train:
        return []
    choices = find_choices(processor, each_answer(kept.train), field, asked)
    if isinstance(choices, str):
        return [f"actions cannot be scored: {choices}"]
    return unscorable_actions(choices, each_answer(kept.eval), field)


def measured(config: TrainConfig, inspection: Inspection) -> Lengths:
    """Sizes of the readable records, too long ones included, since another MAX_LENGTH may accept them."""
    found = [c for side in SIDES for c in inspection.checked[side] if c.tokens]
    if not found:
        raise ConfigError(f"no record can be read: {'; '.join(inspection.left_out())}")
    records = (*inspection.dataset.train, *inspection.dataset.eval)
    return Lengths(
        model=config.model,
        trainyard=__version__,
        processor_sha256=processor_digest(Path(config.model)),
        picture_bytes=sample_pictures(path for record in records for path in record.images),
        data_sha256=inspection.dataset.sha256,
        records=len(found),
        tokens=percentiles([c.tokens for c in found]),
        supervised=percentiles([c.supervised for c in found]),
        learn=config.learn,
        pictures=max(len(record.pictures) for record in records),
    )


def build_report(config: TrainConfig, inspection: Inspection) -> dict[str, Any]:
    """All findings as plain data."""
    dataset = inspection.dataset
    answers = [answer for r in (*dataset.train, *dataset.eval) for answer in r.answers]
    field = answer_field(answers, config.answer_field)
    return {
        **{name: getattr(config, name) for name in SETTINGS},
        "split": dataset.split,
        "notes": [*dataset.notes, *inspection.notes(config.answer_field)],
        "answer_field": field,
        "left_out": inspection.left_out(),
        "picture_sizes": {f"{w}x{h}": n for (w, h), n in inspection.picture_sizes.most_common()},
        "sides": {side: _side(inspection, side, field) for side in SIDES},
        "lengths_file": None,
        "page": None,
    }


def _side(inspection: Inspection, side: str, field: str | None) -> dict[str, Any]:
    records, checked = getattr(inspection.dataset, side), inspection.checked[side]
    kept = [r for r, c in zip(records, checked, strict=True) if c.reason is None]
    readable = [c for c in checked if c.tokens]
    answers = [answer for r in kept for answer in r.answers]
    labels = Counter(UNREADABLE if (said := read_action(answer, field)) is None else said for answer in answers)
    sessions = {r.session for r in records if r.session}
    pictures = [len(r.pictures) for r in records]
    counts = (
        len(records),
        len(kept),
        len(answers),
        len(sessions),
        sum(pictures),
        pictures.count(0),
        *inspection.duplicates(side),
    )
    return {
        **dict(zip(COUNTS, counts, strict=True)),
        **{size: percentiles([getattr(c, size) for c in readable]) if readable else {} for size in SIZES},
        "labels": dict(labels.most_common()),
        "majority_share": round(max(labels.values()) / len(answers), 4) if answers else None,
    }


def render(report: dict[str, Any]) -> str:
    """The report as text for people."""
    lines = [f"data    {report['data']} ({report['split']})"]
    if sizes := [f"{size} ({count})" for size, count in report["picture_sizes"].items()]:
        more = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
        lines.append(f"images  {', '.join(sizes[:5])}{more}")
    lines += [f"note    {note}" for note in report["notes"]]
    lines += [f"out     {line}" for line in report["left_out"] or ["nothing is left out"]]
    if report["lengths_file"]:
        lines.append(f"kept    {report['lengths_file']}: the memory plan reads these lengths")

    if report["page"]:
        lines.append(f"page    {report['page']}: the same, and records as the model sees them")
    names = [name for name, side in report["sides"].items() if side["records"]]
    sides = [report["sides"][name] for name in names]
    rows = [["", *names], *([key.replace("_", " "), *(str(side[key]) for side in sides)] for key in COUNTS)]
    for key, size in SIZES.items():
        for percentile, words in PERCENTILES.items():
            rows.append([f"{size}, {words}", *(str(side[key].get(percentile, "-")) for side in sides)])

    labels = list(dict.fromkeys(label for side in sides for label in side["labels"]))
    shown = [(_cut(label), [label]) for label in labels[:MOST_LABELS]]
    if others := labels[MOST_LABELS:]:
        shown.append((f"{len(others)} others", others))
    answers = [[report["answer_field"] or "answer", *names]]
    answers += [[name, *(_share(side, some) for side in sides)] for name, some in shown]
    return "\n\n".join(("\n".join(lines), format_table(rows), format_table(answers)))


def _share(side: dict[str, Any], labels: Sequence[str]) -> str:
    count = sum(side["labels"].get(label, 0) for label in labels)
    return f"{count} ({count / side['answers']:.1%})" if side["answers"] else "-"


def _cut(label: str) -> str:
    text = " ".join(label.split())
    return text if len(text) <= 40 else text[:37] + "..."
