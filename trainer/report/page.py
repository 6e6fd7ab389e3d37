"""The page a run ends with: one HTML file with everything in it, from metrics.json and predictions.jsonl.

    python -c "from pathlib import Path; from trainer.results.export import save_report; save_report(Path('runs/x'))"

The same files give the same bytes. A piece that is missing is said to be missing; the page is made anyway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from trainer.report.charts import Curve, Entry, bars, esc, line_chart, matrix, missing, percent, quoted, rate, short
from trainer.report.configuration import configuration
from trainer.report.samples import samples, usage
from trainer.text import GIB

CSS = Path(__file__).with_name("style.css").read_text(encoding="utf-8")

TABLE_ACTIONS = 40


def build_report(run_dir: Path) -> str:
    """The report on the run in `run_dir`, one HTML page without scripts or outside references."""
    record = _read_json(run_dir / "metrics.json")
    predictions = _read_lines(run_dir / "predictions.jsonl")
    config: Entry = record.get("config") or {}
    title = str(config.get("run_id") or run_dir.absolute().name)
    sections = (
        ("Result", _result(record)),
        ("Training", _training(record)),
        ("Which actions", _actions(record.get("before"), record.get("after"))),
        *_written_out(record.get("generated_before"), record.get("generated_after")),
        ("Held-out records", samples(predictions)),
        ("Use the adapter", usage(run_dir, config, predictions)),
        ("Configuration", configuration(record)),
    )
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # Answers are a model's output: should escaping ever fail, the browser still runs and loads nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{esc(title)} · Trainyard</title><link rel="icon" href="data:,"><style>{CSS}</style></head>\n'
        f'<body><main><header><p class="eyebrow">Trainyard run</p><h1>{esc(title)}</h1>'
        f"<p>{_what_was_done(config)}</p></header>\n{body}</main></body></html>\n"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The readable predictions; a line cut off by a full disk is skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "truth" in entry:
            entries.append(entry)
    return entries


def _what_was_done(config: Entry) -> str:
    if not config:
        return "What was trained is not known: <code>metrics.json</code> is missing or cannot be read."
    four_bit = config["quantization"] == "nf4"
    method = "QLoRA on 4-bit (NF4) weights" if four_bit else "LoRA on unquantized weights"
    processes, batch = config["world_size"], _batch(config)
    where = f"{processes} {'GPU' if config['device'] == 'cuda' else 'CPU process'}"
    plural = "" if processes == 1 else "es" if where.endswith("s") else "s"
    return (
        f"<b>{esc(_model_name(config['model']))}</b>, fine-tuned with {method}, rank {config['lora_r']}: "
        f"{config['max_steps']:,} steps of {batch:,} records on {where}{plural}."
    )


def _model_name(model: str) -> str:
    """A hub id as it is, the last part of a folder's path."""
    return model if model.count("/") == 1 and not Path(model).is_absolute() else Path(model).name


def _batch(config: Entry) -> int:
    return int(config["micro_batch_size"] * config["gradient_accumulation_steps"] * config["world_size"])


def _result(record: Entry) -> str:
    before, after = record.get("before"), record.get("after")
    scored = after or before
    if not scored:
        return missing("Not scored: no held-out records were answered.") + _tiles(record)
    rows = [("base model, zero-shot", "before", before["accuracy"])] if before else []
    rows += [(f"always {quoted(scored['majority'])}", "majority", scored["majority_accuracy"])]
    rows += [("after training", "after", after["accuracy"])] if after else []
    for when, kind in (("zero-shot", "before"), ("after training", "after")):
        if written := record.get(f"generated_{kind}"):
            rows.append((f"{when}, written out", kind, written["accuracy"]))
    first = f'<span class="from">{percent(before["accuracy"])}</span><span class="arrow">→</span>' if before else ""
    last = percent(after["accuracy"]) if after else "not scored"
    verdict = _verdict(scored, "After" if after else "Before") + _how_measured(record)
    return (
        '<div class="hero"><div><p class="label">Action accuracy</p>'
        f'<p class="number">{first}<span>{last}</span></p><p>{verdict}</p></div>'
        f"{bars(rows, mark=scored['majority_accuracy'])}</div>{_tiles(record)}"
    )


def _verdict(scored: Entry, when: str) -> str:
    right = round(scored["accuracy"] * scored["samples"])
    gap = (scored["accuracy"] - scored["majority_accuracy"]) * 100
    versus = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if abs(gap) >= 0.05 else "no better than"
    majority, reached = esc(quoted(scored["majority"])), percent(scored["majority_accuracy"])
    return (
        f"{when} training {right:,} of {scored['samples']:,} held-out records are right, "
        f"{versus} always answering <bdi>{majority}</bdi> ({reached})."
    )


def _how_measured(record: Entry) -> str:
    written = record.get("generated_after") or record.get("generated_before")
    if not written:
        return ""
    return (
        " An answer's action is the likeliest of the allowed ones. "
        f"Of {written['samples']:,} answers written out, {percent(written['accuracy'])} have the right one."
    )


def _tiles(record: Entry) -> str:
    before, after = record.get("before") or {}, record.get("after") or {}
    first, last = record.get("generated_before") or before, record.get("generated_after") or after
    history, memory = record.get("history") or [], record.get("peak_memory") or {}
    train, losses = record.get("train") or {}, _points(history, "loss")
    config = record.get("config") or {}
    kept, steps = record.get("step"), config.get("max_steps")
    peak = "Peak GPU memory" if config.get("device") == "cuda" else "Peak memory (RSS)"
    tiles = [
        ("Macro F1", _change(before.get("macro_f1"), after.get("macro_f1"), lambda v: f"{v:.2f}")),
        ("Readable answers", _change(first.get("valid_json"), last.get("valid_json"), percent)),
        ("Loss", _change(losses[0][1], losses[-1][1], short) if losses else ""),
        ("Training time", _duration(train["train_runtime"]) if "train_runtime" in train else ""),
        ("Adapter of step", f"{kept:,} of {steps:,}" if kept is not None and steps else ""),
        ("Records a second", _median(history, "samples_per_second", short)),
        ("Tokens a second", _median(history, "tokens_per_second", short)),
        ("MFU", _median(history, "mfu", percent)),
        (peak, f"{memory['bytes'] / GIB:.2f} GiB" if "bytes" in memory else ""),
    ]
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in tiles if value)
    return f'<dl class="tiles">{cells}</dl>' if cells else ""


def _change(before: float | None, after: float | None, form: Any) -> str:
    first, last = (esc(form(v)) if v is not None else "" for v in (before, after))
    return f'<span class="from">{first} →</span> {last}' if first and last else first or last


def _median(history: Sequence[Entry], key: str, form: Any) -> str:
    """Of the logged windows: the first one, which warms up, and a slow one say little."""
    values = [value for _, value in _points(history, key)]
    return esc(form(median(values))) if values else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _points(history: Sequence[Entry], key: str) -> list[tuple[int, float]]:
    logged = [(entry["step"], entry[key]) for entry in history if key in entry and "step" in entry]
    return [(step, math.nan if value is None else float(value)) for step, value in logged]


def _training(record: Entry) -> str:
    history, before = record.get("history") or [], record.get("before")
    first = [(0, before["accuracy"])] if before else []
    held_out = Curve(
        title="Action accuracy",
        unit="held-out records, base model at step 0",
        points=[*first, *points] if (points := _points(history, "eval_action_accuracy")) else [],
        form=lambda value: f"{value:.0%}",
        top=1.0,
        noisy=False,
    )
    held_out_loss = Curve(
        title="Held-out loss", unit="mean cross-entropy, nats", points=_points(history, "eval_loss"), noisy=False
    )
    loss = Curve(title="Loss", unit="mean cross-entropy an answer token, nats", points=_points(history, "loss"))
    accuracy = Curve(
        title="Token accuracy",
        unit="answer tokens right",
        points=_points(history, "mean_token_accuracy"),
        form=lambda value: f"{value:.0%}",
        top=1.0,
    )
    learning_rate = Curve(
        title="Learning rate",
        unit="warm-up, then cosine",
        points=_points(history, "learning_rate"),
        form=rate,
        noisy=False,
    )
    if not any(curve.points for curve in (loss, accuracy, learning_rate)):
        return missing("No training steps were logged.")
    # One evaluation is no curve, and its numbers stand above.
    evaluated = (held_out, held_out_loss) if len(held_out_loss.points) > 1 else ()
    small = (*evaluated, accuracy, learning_rate)
    figures = "".join(_figure(curve, sizes=((360, 190),)) for curve in small if curve.points)
    # Scaled down to a phone the wide drawing's text would be too small to read, so there are two.
    return _figure(loss, sizes=((760, 280), (360, 240))) + f'<div class="pair">{figures}</div>'


def _figure(curve: Curve, *, sizes: Sequence[tuple[int, int]]) -> str:
    broken = [step for step, value in curve.points if not math.isfinite(value)]
    note = ""
    if broken:
        share = f"{len(broken)} of {len(curve.points)} logged values"
        note = missing(f"{share} are not finite numbers, first at step {broken[0]:,}.")
    charts = [line_chart(curve, width=w, height=h) for w, h in sizes]
    if len(charts) > 1:
        named = zip(("wide", "narrow"), charts, strict=True)
        charts = [f'<div class="{name}">{chart}</div>' for name, chart in named]
    faint = "; bold: smoothed" if curve.smoothed else ""
    caption = f"<figcaption><b>{curve.title}</b> {curve.unit}{faint}</figcaption>"
    return f"<figure>{caption}{''.join(charts)}{note}</figure>"


def _actions(before: Entry | None, after: Entry | None) -> str:
    if not (before or after):
        return missing("No confusion matrix: nothing was scored.")
    both = (("Before training", before), ("After training", after))
    scored = [(when, entry) for when, entry in both if entry]
    matrices = "".join(f"<div>{matrix(entry['confusion'], when)}</div>" for when, entry in scored)
    last, first = scored[-1][1]["per_action"], (before or {}).get("per_action", {})
    rows = "".join(
        f'<tr><th scope="row"><bdi class="name">{esc(action)}</bdi></th><td>{entry["count"]:,}</td>'
        + "".join(f"<td>{percent(entry[key])}</td>" for key in ("precision", "recall"))
        + f'<td>{_f1(first.get(action))}</td><td class="strong">{_f1(entry) if after else "-"}</td></tr>'
        for action, entry in list(last.items())[:TABLE_ACTIONS]
    )
    more = len(last) - TABLE_ACTIONS
    heads = ("Action", "Records", "Precision", "Recall", "F1 before", "F1 after")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="pair">{matrices}</div><div class="scroll"><table class="scores"><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
        + (missing(f"{more} rarer actions are not shown.") if more > 0 else "")
    )


def _written_out(before: Entry | None, after: Entry | None) -> list[tuple[str, str]]:
    return [("Which actions, written out", _actions(before, after))] if before or after else []


def _f1(entry: Entry | None) -> str:
    return f"{entry['f1']:.2f}" if entry else "-"
