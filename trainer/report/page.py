"""usage: python -m trainer report runs/RUN

Builds report.html of a finished run again, from its metrics.json and predictions.jsonl, and prints where it is.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader

from trainer.evaluation.metrics import json_object
from trainer.files import write_whole
from trainer.flags import answer_help, word
from trainer.outcome import FINISHED, ConfigError
from trainer.report.charts import Entry, line_charts, logged, matrix, percent, short
from trainer.report.samples import choose_samples, is_right, picture_uri
from trainer.text import gib

# Here is what the page says as plain data; report.html.j2 beside it says how. The same files give the same bytes. A
# piece that is missing is said to be missing; the page is made anyway.
FILTERS: dict[str, Callable[..., object]] = {
    "matrix": matrix,
    "percent": percent,
    "picture": picture_uri,
    "quoted": lambda text: json.dumps(text, ensure_ascii=False),
    "shell": shlex.quote,
    "word": word,
}
# What HTML cannot hold. Answers are a model's output and hold anything, half a surrogate pair included.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main(argv: Sequence[str]) -> int:
    """`python -m trainer report`. Raises ConfigError."""
    answer_help(argv, f"{__doc__}")
    if len(argv) != 1 or not Path(argv[0], "metrics.json").is_file():
        raise ConfigError("report takes the folder of a finished run (with metrics.json), for example runs/RUN")
    print(save_report(Path(argv[0])))
    return FINISHED


def report_line(run_dir: Path) -> str:
    """Where the report is, once it is built; what to do when there was no room for it."""
    try:
        return f"report:  {save_report(run_dir)}"
    except OSError as error:
        again = f"python -m trainer report {shlex.quote(str(run_dir))}"
        return f"report:  not written ({error}): make room, then {again}"


def save_report(run_dir: Path) -> Path:
    """Build report.html; returns where it is."""
    write_whole(run_dir / "report.html", build_report(run_dir))
    return run_dir / "report.html"


def build_report(run_dir: Path) -> str:
    """The report on the run in `run_dir`, one HTML page without scripts or outside references."""
    record = json_object(_text(run_dir / "metrics.json")) or {}
    lines = _text(run_dir / "predictions.jsonl").split("\n")
    # A line cut off by a full disk is left out.
    predictions = [entry for line in lines if (entry := json_object(line)) and "truth" in entry]
    model = str((record.get("config") or {}).get("model") or "the base model")
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= FILTERS
    page = templates.get_template("report.html.j2").render(
        record=record,
        run_dir=run_dir.absolute(),
        base=str(Path(model).absolute()) if Path(model).is_dir() else model,
        has_adapter=(run_dir / "adapter").is_dir(),
        tiles=_tiles(record),
        charts=line_charts(record),
        predictions=predictions,
        wrong=sum(not is_right(entry) for entry in predictions),
        samples=choose_samples(predictions),
    )
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", page.encode("utf-8", "replace").decode("utf-8"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tiles(record: Entry) -> list[tuple[str, list[str]]]:
    """(label, the value alone, or the values before and after training) of each number that is known."""
    before, after = record.get("before") or {}, record.get("after") or {}
    first, last = record.get("generated_before") or before, record.get("generated_after") or after
    config, train, memory = (record.get(name) or {} for name in ("config", "train", "peak_memory"))
    losses = [value for _, value in logged(record, "loss")]
    peak = "Peak GPU memory" if config.get("device") == "cuda" else "Peak memory (RSS)"
    steps = "{:,} of " + f"{config.get('max_steps', 0):,}"
    numbers: tuple[tuple[str, Callable[[float], str], list[float | None]], ...] = (
        ("Macro F1", "{:.2f}".format, [before.get("macro_f1"), after.get("macro_f1")]),
        ("Readable answers", percent, [first.get("valid_json"), last.get("valid_json")]),
        ("Loss", short, [*losses[:1], *losses[-1:]]),
        ("Training time", _duration, [train.get("train_runtime")]),
        ("Adapter of step", steps.format, [record.get("step")]),
        # Medians of the logged windows: the first one, which warms up, and a slow one say little.
        ("Records a second", short, _median(record, "samples_per_second")),
        ("Tokens a second", short, _median(record, "tokens_per_second")),
        ("MFU", percent, _median(record, "mfu")),
        (peak, _gib, [memory.get("bytes")]),
    )
    tiles = [(label, [form(value) for value in values if value is not None]) for label, form, values in numbers]
    return [(label, values) for label, values in tiles if values]


def _median(record: Entry, key: str) -> list[float | None]:
    values = [value for _, value in logged(record, key)]
    return [median(values)] if values else []


def _gib(size_bytes: float) -> str:
    return f"{gib(int(size_bytes))} GiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
