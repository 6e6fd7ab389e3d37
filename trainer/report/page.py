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

from trainer.commands import command, command_from_anywhere
from trainer.data.answers import json_object
from trainer.files import ADAPTER, EXAMPLE_FILE, USAGE_FILE, write_whole
from trainer.flags import answer_help, word
from trainer.outcome import FINISHED, ConfigError
from trainer.report.charts import Entry, line_charts, logged, matrix, percent, short
from trainer.report.samples import choose_samples, is_right, picture_uri
from trainer.text import gib


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Here is what the page says as plain data; report.html.j2 beside it says how. The same files give the same bytes. A
# piece that is missing is said to be missing; the page is made anyway.
FILTERS: dict[str, Callable[..., object]] = {
    "duration": duration,
    "gib": lambda size: f"{gib(size)} GiB",
    "logged": logged,
    "matrix": matrix,
    "median": median,
    "percent": percent,
    "picture": picture_uri,
    "quoted": lambda text: json.dumps(text, ensure_ascii=False),
    "short": short,
    "two_digits": "{:.2f}".format,
    "word": word,
}
# What HTML cannot hold. Answers are a model's output and hold anything, half a surrogate pair included.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main(argv: Sequence[str]) -> int:
    """`python -m trainer report`. Raises ConfigError."""
    answer_help(argv, f"{__doc__}")
    if len(argv) != 1 or not json_object(_text(Path(argv[0], "metrics.json"))):
        raise ConfigError("report takes the folder of a finished run, with a whole metrics.json: for example runs/RUN")
    print(save_report(Path(argv[0])))
    return FINISHED


def report_line(run_dir: Path) -> str:
    """Where the report is, once it is built; what to do when it could not be, as where there is no room for it."""
    try:
        return f"report:  {save_report(run_dir)}"
    except (ConfigError, OSError) as error:
        return f"report:  not written ({error}); {command('trainer', 'report', run_dir)} tries again"


def save_report(run_dir: Path) -> Path:
    """Build report.html; returns where it is. Raises ConfigError for files that are not what a run writes."""
    try:
        page = build_report(run_dir)
    except Exception as error:  # whatever a page trips over
        raise ConfigError(
            f"{run_dir}: metrics.json or predictions.jsonl is not what a run wrote ({error!r})"
        ) from error
    write_whole(run_dir / "report.html", page)
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
        infer=_infer(run_dir.absolute(), predictions),
        charts=line_charts(record),
        predictions=predictions,
        wrong=sum(not is_right(entry) for entry in predictions),
        samples=choose_samples(predictions),
    )
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", page.encode("utf-8", "replace").decode("utf-8"))


def _infer(run_dir: Path, predictions: Sequence[Entry]) -> str:
    """The command that asks the adapter about a held-out record, as it runs from anywhere."""
    usage = json_object(_text(run_dir / ADAPTER / USAGE_FILE)) or {}
    words = ["trainer", "infer", "--run", run_dir]
    # A picture says all where the words around it are the same in every record.
    alike = None not in (usage.get(name, "") for name in ("context", "question", "system"))
    images = predictions[0].get("images") if predictions else None
    if (alike and images) or not (run_dir / EXAMPLE_FILE).is_file():
        shown = [f" \\\n    {shlex.quote(image)}" for image in images or ["picture.png"]]
        return command_from_anywhere(*words) + "".join(shown)
    return command_from_anywhere(*words, "--records", run_dir / EXAMPLE_FILE)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
