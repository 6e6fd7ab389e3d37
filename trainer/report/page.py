"""usage: python -m trainer report runs/RUN | runs

Builds report.html of a finished run again, from its metrics.json and predictions.jsonl, and prints where it is. For a
folder of runs: index.html, which compares them, and sweep.html of each sweep.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from trainer.commands import command, command_from_anywhere
from trainer.data.answers import json_object
from trainer.data.bounds import BOUNDS, OPTION, SETTING
from trainer.evaluation.metrics import FEW_ANSWERS
from trainer.files import (
    ADAPTER,
    EXAMPLE_FILE,
    METRICS_FILE,
    MIB,
    MOST_MIB,
    RECORD_NAME,
    USAGE_FILE,
    regular,
    write_whole,
)
from trainer.flags import answer_help
from trainer.outcome import FINISHED, ConfigError
from trainer.report.charts import Entry, line_charts
from trainer.report.circumstances import again, facts
from trainer.report.runs import write_pages
from trainer.report.samples import choose_samples, is_right
from trainer.report.templates import render

# The page is built as plain data; report.html.j2 lays it out. The same files give the same bytes. If a file is
# missing, the page says so and is made anyway.


MOST_BYTES = 16 * MOST_MIB * MIB
"""Most bytes of predictions, which are as many as records were held out."""


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer report`. Raises ConfigError."""
    answer_help(argv, f"{__doc__}")
    argv = argv[1:] if argv[:1] == ["--run"] else argv  # as infer and merge want it
    if len(argv) == 1 and any(Path(argv[0]).glob(f"*/{RECORD_NAME}")):
        print(*write_pages(Path(argv[0])), sep="\n")
        return FINISHED
    if len(argv) == 1 and Path(argv[0]).is_file():
        raise ConfigError(f"{Path(argv[0]).absolute()} is a file: report takes the folder of a run")
    if len(argv) == 1 and not Path(argv[0]).is_dir():
        raise ConfigError(f"{Path(argv[0]).absolute()} is no folder yet: make run DATA=... trains, and makes it")
    if len(argv) == 1 and Path(argv[0], RECORD_NAME).is_file() and not Path(argv[0], METRICS_FILE).exists():
        raise ConfigError(
            f"{argv[0]} has no {METRICS_FILE}: a run writes it at its end; make status says how it stands"
        )
    if len(argv) != 1 or not json_object(_text(Path(argv[0], METRICS_FILE))):
        raise ConfigError(
            "report takes the folder of a finished run, with a whole metrics.json: for example runs/RUN; or a folder "
            "of runs, for the page that compares them: runs"
        )
    print(save_report(Path(argv[0])))
    return FINISHED


def report_line(run_dir: Path) -> str:
    """A line with the path of the report, which is built first; if that fails, as on a full disk, the command to try
    again."""
    try:
        return f"report:  {save_report(run_dir)}"
    except (ConfigError, OSError) as error:
        return f"report:  not written ({error}); {command('trainer', 'report', run_dir)} tries again"


def save_report(run_dir: Path) -> Path:
    """Build report.html; returns its path. Raises ConfigError for files that a run did not write."""
    try:
        page = build_report(run_dir)
    except Exception as error:  # any error while the page is made
        raise ConfigError(
            f"{run_dir}: metrics.json or predictions.jsonl is not what a run wrote ({error!r})"
        ) from error
    write_whole(run_dir / "report.html", page)
    return run_dir / "report.html"


def build_report(run_dir: Path) -> str:
    """The report on the run in `run_dir`, one HTML page that loads nothing from outside."""
    record = json_object(_text(run_dir / METRICS_FILE)) or {}
    lines = _text(run_dir / "predictions.jsonl").split("\n")
    # A line that a full disk cut off is left out.
    predictions = [entry for line in lines if (entry := json_object(line)) and "truth" in entry]
    begun = json_object(_text(run_dir / RECORD_NAME)) or {}
    usage = json_object(_text(run_dir / ADAPTER / USAGE_FILE)) or {}
    config = record.get("config") or {}
    model = str(config.get("model") or "the base model")
    BOUNDS.take(config.get(SETTING, OPTION.default))  # as the run read its pictures
    prompts = {entry.get("prompt") for entry in predictions}
    scored = record.get("after") or record.get("before") or {}
    return render(
        "report.html.j2",
        record=record,
        run_dir=run_dir.absolute(),
        base=str(Path(model).absolute()) if Path(model).is_dir() else model,
        has_adapter=(run_dir / "adapter").is_dir(),
        has_record=bool(begun),
        facts=facts(record),
        infer=_infer(run_dir.absolute(), usage, predictions),
        again=again(run_dir, json_object(_text(run_dir / RECORD_NAME, mine=True)) or {}),
        charts=line_charts(record),
        order=list(scored.get("per_action") or {}),
        allowed=(usage.get("choices") or {}).get("actions"),
        predictions=predictions,
        shared_prompt=prompts.pop() if len(prompts) == 1 else None,
        wrong=sum(not is_right(entry) for entry in predictions),
        samples=choose_samples(predictions),
        few_answers=FEW_ANSWERS,
    )


def _infer(run_dir: Path, usage: Entry, predictions: Sequence[Entry]) -> str:
    """The command that asks the adapter about a held-out record; it runs from any folder."""
    words = ["trainer", "infer", "--run", run_dir]
    # A picture is the whole question when every record has the same text.
    alike = None not in (usage.get(name, "") for name in ("context", "question", "system"))
    named = predictions[0].get("images") if predictions else None
    # Others may have written the file: a name that begins with - would be an option of the command.
    images = [name for name in named if isinstance(name, str) and name[:1] != "-"] if isinstance(named, list) else None
    if (alike and images) or not (run_dir / EXAMPLE_FILE).is_file():
        shown = [f" \\\n    {shlex.quote(image)}" for image in images or ["picture.png"]]
        return command_from_anywhere(*words) + "".join(shown)
    return command_from_anywhere(*words, "--records", run_dir / EXAMPLE_FILE)


def _text(path: Path, *, mine: bool = False) -> str:
    """What stands in a file; "" when it cannot be read. With `mine` also "" for another user's file: a command from
    their run.json could name any program, and a command on a page is there to be typed."""
    try:
        with regular(path).open("rb") as file:
            if mine and os.fstat(file.fileno()).st_uid != os.getuid():
                return ""
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
