"""Checks to make before a job is sent off.

    python -m trainer validate data --model M --data D [--strict] [--json]

looks at the whole data set as the trainer will, on any machine, without loading the model: which records would be
left out and why, how long they are, what the answers are. It leaves the measured lengths beside the data, and the
memory plan is made for these instead of for MAX_LENGTH. Exit codes: 0, and 78 when nothing is left to train on or,
with --strict, when anything would be left out.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from trainer.data.lengths import Lengths, data_digest, percentiles, write_lengths
from trainer.evaluation.metrics import answer_field, read_action
from trainer.flags import Range, answer_help, parse
from trainer.outcome import FINISHED, ConfigError
from trainer.text import format_table

if TYPE_CHECKING:
    from trainer.data.inspection import Inspection
    from trainer.data.records import Record

USAGE = """usage: python -m trainer validate data --model M --data D [--strict] [--json]
       python -m trainer validate environment | model | pipeline | all [--name value ...] [--json]

  data         the whole data set as the trainer will see it; its options are below
  environment  libraries against their pins, settings against usual ones, tokens, folders, driver, CUDA and GPUs
  model        access, family, processor, what LoRA would train, space for checkpoints; loads no weights
  pipeline     two steps of the real trainer on the real records, in a temporary folder
  all          each in turn, one table

The others take the settings of a run (python -m trainer config --help) and read .env and CONFIG_FILE likewise. They end
with 78 when anything fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCheck:
    model: str
    """Folder or hub id whose processor and chat template are used; no weights are loaded."""
    data: str
    """A JSONL file, or a folder holding train.jsonl and, if there is one, eval.jsonl."""
    image_root: str | None = None
    """Folder to look in for images that are not where the records say."""
    max_length: Annotated[int, Range(16, 1 << 20)] = 1024
    """Tokens a sample, image tokens included; longer records are left out."""
    eval_fraction: Annotated[float, Range(0, 0.9)] = 0.1
    """Share of the records held out, by session, when the data brings no eval.jsonl."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Which sessions are held out."""
    answer_field: str = "auto"
    """Key of the JSON answer that is the action; auto: the first key of the answers."""
    strict: bool = False
    """End with 78 when any record would be left out."""
    json: bool = False
    """One JSON object instead of tables."""


def main(argv: Sequence[str]) -> int:
    """Raises ConfigError, which `python -m trainer` turns into one line and 78."""
    answer_help(argv, USAGE, DataCheck)
    target = argv[0] if argv else ""
    if target not in TARGETS:
        raise ConfigError(f"validate {target!r}: known are {', '.join(TARGETS)}")
    return TARGETS[target](argv[1:])


def validate_data(argv: Sequence[str]) -> int:
    check = parse(argv, DataCheck, USAGE)
    from trainer.data.inspection import inspect_dataset
    from trainer.data.records import load_dataset
    from trainer.model.base import load_processor

    dataset = load_dataset(check.data, eval_fraction=check.eval_fraction, seed=check.seed, image_root=check.image_root)
    processor = load_processor(check.model)
    inspection = inspect_dataset(dataset, processor, max_length=check.max_length)
    report = build_report(check, inspection)
    report["notes"] += unscored(processor, inspection, report["answer_field"])
    try:
        written = str(write_lengths(check.data, measured(check, inspection)))
    except OSError as error:
        written = None
        print(f"trainyard: the lengths were not kept ({error}): plans use MAX_LENGTH", file=sys.stderr)
    report["lengths_file"] = written
    print(json.dumps(report, indent=1) if check.json else render(report), flush=True)
    inspection.kept(strict=check.strict)
    return FINISHED


def unscored(processor: Any, inspection: Inspection, field: str | None) -> list[str]:
    """Why a run on what is kept would only write answers out; nothing when it would score their actions."""
    from trainer.data.inspection import without
    from trainer.evaluation.scoring import find_choices

    kept = without(inspection.dataset, inspection.unfit()).train
    choices = find_choices(processor, kept, field) if kept else None
    return [f"actions cannot be scored: {choices}"] if isinstance(choices, str) else []


def measured(check: DataCheck, inspection: Inspection) -> Lengths:
    """Sizes of the records that could be read, the too long ones included: another MAX_LENGTH may take them."""
    found = [c for side in inspection.checked.values() for c in side if c.tokens]
    if not found:
        raise ConfigError(f"no record can be read: {'; '.join(inspection.left_out())}")
    sides = (inspection.dataset.train, inspection.dataset.eval)
    return Lengths(
        model=check.model,
        data_sha256=data_digest(check.data),
        records=len(found),
        tokens=percentiles([c.tokens for c in found]),
        supervised=percentiles([c.supervised for c in found]),
        pictures=max(len(record.pictures) for side in sides for record in side),
    )


def build_report(check: DataCheck, inspection: Inspection) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    sides: dict[str, Any] = {}
    every = [r.answer for r in (*inspection.dataset.train, *inspection.dataset.eval)]
    field = answer_field(every, check.answer_field)
    for side, checked in inspection.checked.items():
        records: tuple[Record, ...] = getattr(inspection.dataset, side)
        kept = [r for r, c in zip(records, checked, strict=True) if c.reason is None]
        readable = [c for c in checked if c.tokens]
        repeated, differing = inspection.duplicates(side)
        labels = Counter(str(read_action(r.answer, field)) for r in kept)
        sides[side] = {
            "records": len(records),
            "kept": len(kept),
            "sessions": len({r.session for r in records if r.session}),
            "pictures": sum(len(r.pictures) for r in records),
            "text_only": sum(not r.pictures for r in records),
            "duplicates": repeated,
            "duplicates_with_another_answer": differing,
            "tokens": percentiles([c.tokens for c in readable]) if readable else {},
            "supervised": percentiles([c.supervised for c in readable]) if readable else {},
            "picture_tokens": percentiles([c.picture_tokens for c in readable]) if readable else {},
            "labels": dict(labels.most_common()),
            "majority_share": round(max(labels.values()) / len(kept), 4) if kept else None,
        }
    return {
        **asdict(check),
        "split": inspection.dataset.split,
        "notes": list(inspection.dataset.notes),
        "answer_field": field,
        "left_out": inspection.left_out(),
        "picture_sizes": {f"{w}x{h}": n for (w, h), n in inspection.picture_sizes.most_common()},
        "sides": sides,
    }


def render(report: dict[str, Any]) -> str:
    """The report as text for people."""
    sides = {name: side for name, side in report["sides"].items() if side["records"]}
    rows = [["", *sides]]
    for key in (
        "records", "kept", "sessions", "pictures", "text_only", "duplicates", "duplicates_with_another_answer",
    ):  # fmt: skip
        rows.append([key.replace("_", " "), *(str(side[key]) for side in sides.values())])
    for key, name in (("tokens", "tokens"), ("supervised", "answer tokens"), ("picture_tokens", "image tokens")):
        for percentile in ("p50", "p95", "p100"):
            rows.append([f"{name}, {WORDS[percentile]}", *(str(s[key].get(percentile, "-")) for s in sides.values())])
    labels = dict.fromkeys(label for side in sides.values() for label in side["labels"])
    shown, hidden = list(labels)[:MOST_LABELS], list(labels)[MOST_LABELS:]
    distribution = [
        [report["answer_field"] or "answer", *sides],
        *([_cut(label), *(_share(side, [label]) for side in sides.values())] for label in shown),
        *([[f"{len(hidden)} others", *(_share(side, hidden) for side in sides.values())]] if hidden else []),
    ]
    sizes = [f"{size} ({count})" for size, count in report["picture_sizes"].items()]
    lines = [f"data    {report['data']} ({report['split']})"]
    if sizes:
        more = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
        lines.append(f"images  {', '.join(sizes[:5])}{more}")
    lines += [f"note    {note}" for note in report["notes"]]
    lines += [f"out     {line}" for line in report["left_out"]] or ["out     nothing is left out"]
    if report["lengths_file"]:
        lines.append(f"kept    {report['lengths_file']}: the memory plan reads these lengths")
    return "\n\n".join(("\n".join(lines), format_table(rows), format_table(distribution)))


WORDS = {"p50": "median", "p95": "95 %", "p100": "longest"}
MOST_LABELS = 20


def _share(side: dict[str, Any], labels: Sequence[str]) -> str:
    count = sum(side["labels"].get(label, 0) for label in labels)
    return f"{count} ({count / side['kept']:.1%})" if side["kept"] else "-"


def _cut(label: str) -> str:
    text = " ".join(label.split())
    return text if len(text) <= 40 else text[:37] + "..."


def checked(target: str) -> Callable[[Sequence[str]], int]:
    def run(argv: Sequence[str]) -> int:
        from trainer.tools.checks import main as check

        return check(target, argv)

    return run


TARGETS: dict[str, Callable[[Sequence[str]], int]] = {
    "data": validate_data,
    **{name: checked(name) for name in ("environment", "model", "pipeline", "all")},
}
