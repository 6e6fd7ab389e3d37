"""usage: python -m trainer merge --run runs/x [--out DIR] [--max_drop 0.01]

Merges the run's adapter into 16-bit weights (fp32 for a run on the CPU), which plain transformers loads, with processor
and model card. The held-out records are scored before, adapter on its base, and after, as read back from the disk. A
larger drop than allowed ends with 1, and nothing is left behind.

An adapter was trained on 4-bit weights, rounding errors included, so it is merged into these same weights, written
out in 16 bits, and not into the base as it was published: the sum is then the very model that was measured. On the
demo's run (315 held-out records) no probability of an action moves by more than 1e-6 in fp32 and 0.022 in bf16, and no
answer changes; merged into the published weights they move by up to 0.083 and 0.094, and one answer changes.
"""

from __future__ import annotations

import json
import math
import operator
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from trainer.commands import command, command_as_typed
from trainer.config import Device, TrainConfig
from trainer.data.endings import answer_end
from trainer.files import ADAPTER, METRICS_FILE, read_json, write_whole
from trainer.flags import Range, build, parse
from trainer.model.refusal import UNFIT, refusing
from trainer.outcome import FAILED, FINISHED, ConfigError
from trainer.results.card import model_card
from trainer.results.trained import Trained, Usage, load_trained, put_adapter, write_usage
from trainer.settings import say
from trainer.text import format_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    run: str
    """Folder of a finished run, whose data must still be in its place."""
    out: str | None = None
    """Folder to make (merged/ in the run's folder)."""
    max_drop: Annotated[float, Range(0, 1)] = 0.01
    """Action accuracy that may be lost: 0.01 is one answer in a hundred."""
    base: str | None = None
    """Folder or hub id of the base model (the one that the adapter names)."""
    device: Device | None = None
    """The device (that of the training)."""
    json: bool = False
    """One JSON object instead of a table."""


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer merge`. Raises ConfigError."""
    asked = parse(argv, Request, __doc__)
    run_dir = Path(asked.run)
    out = Path(asked.out) if asked.out else run_dir / "merged"
    if out.exists():
        other = command_as_typed("", "merge", "--run", asked.run, "--out", f"{out}-2")
        way = f"{other} makes another" if other else f"{shlex.join(['rm', '-r', str(out)])} removes it"
        raise ConfigError(f"{out} is there already: {way}")
    record = read_metrics(run_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        made = Path(beside, out.name)
        report, usage = merge(run_dir / ADAPTER, made, record, asked)
        drop = report["drop"]
        if drop <= asked.max_drop:
            write_whole(made / "README.md", model_card(record, out, usage, merged=report))
            made.rename(out)
    report |= {"out": str(out) if out.exists() else None, "max_drop": asked.max_drop}
    print(json.dumps(report, indent=1) if asked.json else render(report))
    if report["out"]:
        return FINISHED
    lost = f"merged, {drop:.2%} of the answers are lost, {asked.max_drop:.2%} are allowed"
    more = ("merge", "--run", asked.run, "--max_drop", f"{math.ceil(100 * drop) / 100:g}")
    say([f"{lost}: nothing is kept; {command_as_typed(command('trainer', *more), *more)} allows it"])
    return FAILED


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """The contents of metrics.json. Raises ConfigError unless they are those of a finished run."""
    try:
        record = read_json(run_dir / METRICS_FILE)
        return {**record, "config": dict(record["config"]), "data": dict(record["data"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{run_dir} is no finished run ({METRICS_FILE} cannot be read): give one, for example runs/RUN"
        ) from None


def merge(adapter: Path, out: Path, record: dict[str, Any], asked: Request) -> tuple[dict[str, Any], Usage]:
    """Write the merged model into `out`, and measure it; returns (the measurements, how the merged model is asked).
    Raises ConfigError for a missing base or missing data."""
    trained = load_trained(adapter, device=asked.device, base=asked.base)
    measured = held_out(trained.processor, record)
    if measured.choices and trained.usage.choices:  # as training has found out
        choices = replace(measured.choices, apart=trained.usage.choices.apart)
        measured = replace(measured, choices=choices)
    answers, before = score(trained, measured, "the adapter on its base")
    say(["merging ..."])
    usage = replace(trained.usage, quantization="none", end=trained.usage.end or answer_end(trained.processor))
    with refusing(trained.base, "merged", UNFIT):
        trained.processor.save_pretrained(out)
        base, onto = trained.model.unload(), "its weights as they were published"
        if trained.usage.quantization == "nf4":
            base, onto = base.dequantize(), "the 4-bit weights that it was trained on, written out"
        whole = put_adapter(base, adapter).merge_and_unload()
        if usage.end and usage.end.stop:  # the base may use another end than the adapter learned
            whole.generation_config.eos_token_id = list(usage.end.stop)
        whole.generation_config.max_new_tokens = usage.answer_tokens
        whole.save_pretrained(out)
    write_usage(out, usage)
    del trained, base, whole
    same, after = score(load_trained(out, device=asked.device), measured, "the merged weights, as written")
    found = {
        "before": asdict(before), "after": asdict(after), "records": len(answers),
        "same": sum(map(operator.eq, answers, same)), "drop": before.accuracy - after.accuracy, "onto": onto,
    }  # fmt: skip
    return found, usage


def held_out(processor: Any, record: dict[str, Any]) -> Any:
    """The records that the run was measured on; if the data has changed, that is printed. Raises ConfigError when
    there are none."""
    from trainer.data.inspection import inspect_dataset
    from trainer.data.records import dataset_of
    from trainer.evaluation.heldout import build_heldout

    known = {field.name for field in fields(TrainConfig)}
    config = build(TrainConfig, {name: value for name, value in record["config"].items() if name in known})
    dataset = dataset_of(config)
    if dataset.sha256 != record["data"].get("sha256"):
        say([f"{config.data} has changed since the run: the scores are those of other records than it was measured on"])
    kept = inspect_dataset(dataset, processor, max_length=config.max_length).kept()
    measured = build_heldout(processor, kept, config, partial(print, file=sys.stderr))
    if not measured.records:
        raise ConfigError("the run held no records out: there is nothing to measure a merged model on")
    return measured


def score(trained: Trained, measured: Any, what: str) -> tuple[list[str], Any]:
    """(the prediction for each record: the likeliest action or, if actions cannot be scored, the answer; the
    ActionMetrics)."""
    say([f"scoring {len(measured.records)} held-out answers: {what} ..."])
    asked = (trained.model, trained.accelerator, bool)
    with refusing(trained.base, "asked", UNFIT):
        found = measured.score(*asked) or measured.answer(*asked)
    return [entry.get("answer", entry["prediction"]) for entry in found.values()], measured.metrics(found)


def render(report: dict[str, Any]) -> str:
    sides = (report["before"], report["after"])
    majority = f"always {sides[0]['majority']!r}"
    rows = [
        ["", "adapter", "merged"],
        ["action accuracy", *(f"{side['accuracy']:.2%}" for side in sides)],
        [majority, *(f"{side['majority_accuracy']:.2%}" for side in sides)],
        ["macro F1", *(f"{side['macro_f1']:.3f}" for side in sides)],
        ["answers", *(str(side["samples"]) for side in sides)],
        ["answered alike", "", str(report["same"])],
    ]
    where = [f"merged onto {report['onto']}", *([f"weights: {report['out']}"] if report["out"] else [])]
    return "\n".join([format_table(rows, rules_before=(1,)), "", *where])
