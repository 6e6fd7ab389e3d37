"""The page of all runs in a folder, runs/index.html, and a page for each sweep among them: a row a run, the best
first.

A run is a folder with a run.json. Anyone may have changed such a folder: files that a run did not write only make the
run's own row say BROKEN. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainer.commands import command
from trainer.config import SETTINGS
from trainer.evaluation.metrics import FEW_ANSWERS
from trainer.files import METRICS_FILE, RECORD_NAME, read_json, regular, write_whole
from trainer.flags import word
from trainer.outcome import ConfigError
from trainer.progress_file import Progress, read_progress
from trainer.report.charts import Entry, draw, logged, whole_percent
from trainer.report.templates import render

INDEX, SWEEP_PAGE = "index.html", "sweep.html"
MARK = '<meta name="generator" content="Trainyard">'
"""Part of the head of every page that Trainyard writes: a page without it is not overwritten."""
MARK_WITHIN = 2000
MOST_RUNS = 300
"""The number of newest runs on a page; each needs a few small files to be read."""
BROKEN = "BROKEN"
SWEEP_ID = re.compile(r"[A-Za-z0-9][\w-]{0,62}")
"""The form of a sweep's id, which becomes a folder's name."""
# Settings that say where or under which name a run trains, not how.
NOT_COMPARED = {"output_dir", "run_id", "planned", "config"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A run as the page shows it; None for unknown values."""

    run_id: str
    state: str
    note: str = ""
    """Why the run is in that state."""
    sweep: str | None = None
    step: int = 0
    of: int = 0
    accuracy: float | None = None
    """The accuracy at the end; for a run that has not ended, the accuracy of its last evaluation."""
    before: float | None = None
    answers: int = 0
    """The number of answers behind the accuracy; 0 when only the accuracy is known."""
    loss: float | None = None
    """The held-out loss at the step that was kept."""
    seconds: float | None = None
    ended: str = ""
    settings: Mapping[str, str]
    data: str = ""
    """Digest of the records."""
    curves: Mapping[str, Entry]
    link: str = ""
    """The address of the report, relative to the folder of runs."""


def write_pages(output: Path) -> list[Path]:
    """Write the page of the runs in `output` and a page in the folder of each sweep; returns their paths.

    Raises:
        ConfigError: a page that Trainyard did not write is in the way.
        OSError: a page cannot be written.
    """
    rows, count = read_rows(output)
    pages = [_write(output / INDEX, rows, title=output.absolute().name or str(output), more=count - len(rows))]
    for sweep in dict.fromkeys(row.sweep for row in rows if row.sweep):
        members = [row for row in rows if row.sweep == sweep]
        pages.append(_write(output / sweep / SWEEP_PAGE, members, title=sweep, above="../"))
    return pages


def pages_line(run_dir: Path) -> str:
    """A line with the path of the page of all runs, which is written first; "" for a run without a plan, whose
    neighbours are unknown."""
    if not (run_dir / RECORD_NAME).is_file():
        return ""
    try:
        return f"all runs: {write_pages(run_dir.parent)[0]}"
    except (ConfigError, OSError, ValueError) as error:
        again = command("trainer", "report", run_dir.parent)
        return f"all runs: no page was written ({error}); {again} tries again"


def read_rows(output: Path) -> tuple[list[Row], int]:
    """(the newest runs in `output`, the best first and those without a score last; the number of all runs)."""
    records = list(output.glob(f"*/{RECORD_NAME}"))  # of any kind: the row reports what is wrong
    records.sort(key=lambda path: (-_changed(path), path.parent.name))
    rows = [read_row(path.parent) for path in records[:MOST_RUNS]]
    rows.sort(key=lambda row: (row.accuracy is None, -(row.accuracy or 0.0), row.loss is None, row.loss or 0.0))
    return rows, len(records)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_row(folder: Path) -> Row:
    """The run in `folder`, as far as its files describe it."""
    try:
        begun = read_json(folder / RECORD_NAME)
        sweep, planned = begun["spec"].get("sweep"), _planned(begun["plan"].get("launch_argv") or [])
        if begun["spec"].get("run_id") != folder.name:
            raise ValueError(f"{RECORD_NAME} is of another run")
        if sweep is not None and not (SWEEP_ID.fullmatch(sweep) and folder.name.startswith(f"{sweep}-")):
            raise ValueError(f"sweep in {RECORD_NAME} is not this run's")
        progress = read_progress(folder)
        if (folder / METRICS_FILE).exists():
            return _finished(folder, sweep, progress)
        return _unfinished(folder, sweep, planned, progress)
    except Exception as error:  # anyone can write these files, so any error is possible
        return Row(run_id=folder.name, state=BROKEN, note=f"{type(error).__name__}: {error}", settings={}, curves={})


def _finished(folder: Path, sweep: str | None, progress: Progress | None) -> Row:
    record = read_json(folder / METRICS_FILE)
    after, before, step = record["after"] or {}, record["before"] or {}, _whole(record["step"])
    losses = dict(logged(record, "eval_loss"))
    return Row(
        run_id=folder.name,
        state="finished",
        sweep=sweep,
        step=progress.step if progress else step,
        of=_whole(record["config"]["max_steps"]),
        accuracy=_share(after.get("accuracy")),
        before=_share(before.get("accuracy")),
        answers=_whole(after.get("samples") or 0),
        loss=_finite(losses.get(step)),
        seconds=_finite((record.get("train") or {}).get("train_runtime")),
        ended=str((record.get("provenance") or {}).get("ended") or ""),
        settings={name: word(value) for name, value in record["config"].items() if name not in NOT_COMPARED},
        data=str((record.get("data") or {}).get("sha256") or ""),
        curves=_curves(record),
        link=_link(folder),
    )


def _unfinished(folder: Path, sweep: str | None, planned: Mapping[str, str], progress: Progress | None) -> Row:
    """The row of a queued, running, stopped or failed run, from progress.json."""
    if progress is None:
        return Row(run_id=folder.name, state="not begun", sweep=sweep, settings=planned, curves={})
    return Row(
        run_id=folder.name, state=progress.phase, note=progress.said, sweep=sweep, step=progress.step, of=progress.of,
        accuracy=progress.action_accuracy, settings=planned, curves={},
    )  # fmt: skip


def _planned(words: Sequence[Any]) -> dict[str, str]:
    """The settings in the words of the job's command."""
    pairs = pairwise(words)
    named = {str(name).removeprefix("--"): str(value) for name, value in pairs if str(name).startswith("--")}
    return {name: value for name, value in named.items() if name in SETTINGS and name not in NOT_COMPARED}


def _curves(record: Entry) -> dict[str, Entry]:
    """Small charts: the training loss with the held-out loss, and the accuracy."""
    curves = {}
    losses = [(name, logged(record, key), False) for name, key in (("training", "loss"), ("held out", "eval_loss"))]
    if losses := [curve for curve in losses if len(curve[1]) > 1]:
        curves["loss"] = draw(losses, log=True)
    accuracy = logged(record, "eval_action_accuracy")
    if accuracy and record["before"]:
        accuracy = [(0, record["before"]["accuracy"]), *accuracy]
    if len(accuracy) > 1:
        curves["accuracy"] = draw([("held out", accuracy, False)], form=whole_percent, top=1)
    return curves


def _link(folder: Path) -> str:
    return f"{quote(folder.name)}/report.html" if (folder / "report.html").is_file() else ""


def _write(page: Path, rows: Sequence[Row], *, title: str, above: str = "", more: int = 0) -> Path:
    if page.parent.is_symlink() and above:
        raise ConfigError(f"{page.parent} is a symbolic link: remove it")
    if page.exists() and not _is_ours(page):
        raise ConfigError(f"{page} is another page: move it away")
    text = render(
        "runs.html.j2", rows=rows, title=title, above=above, more=more, differing=differing(rows),
        data_sets=len({row.data for row in rows if row.data}), few_answers=FEW_ANSWERS,
        sweeps=() if above else list(dict.fromkeys(row.sweep for row in rows if row.sweep)), sweep_page=SWEEP_PAGE,
    )  # fmt: skip
    write_whole(page, text)
    return page


def _is_ours(page: Path) -> bool:
    try:
        with regular(page).open(encoding="utf-8", errors="replace") as file:
            return MARK in file.read(MARK_WITHIN)
    except OSError:
        return False


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings that differ among `rows`, in the order of the settings. A run that never ended does not know all
    settings; missing ones do not count as different."""
    known: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.settings.items():
            known.setdefault(name, set()).add(value)
    return [name for name in SETTINGS if len(known.get(name, ())) > 1]


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 10**12:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value


def _share(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{str(value)[:40]!r} is no share of 1")
    return float(value)  # type: ignore[arg-type]


def _finite(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= 1e11:  # type: ignore[arg-type]
        return None
    return float(value)  # type: ignore[arg-type]
