"""How far a run has come, for a terminal: pure text from what lies in its folder and what its scheduler says.

Every backend's `status` and `list` print these; a backend brings only its jobs.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.runs import Run
from trainer.text import format_table

# From the end of a log: room for hundreds of step lines, and a log of gigabytes is not read whole.
TAIL_BYTES = 64 * 1024
STEP_LINE = re.compile(r"^step +([0-9]+/[0-9]+)\b.*$", re.MULTILINE)
COMPLAINT = re.compile(r"^trainyard: .*$", re.MULTILINE)
OUTCOMES = ("adapter", "report.html")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job of a run, in its scheduler's words."""

    job_id: str
    state: str
    """RUNNING, FAILED, ...; GONE when the scheduler no longer knows it."""
    ended: bool
    reason: str = ""
    nodes: str = ""
    elapsed: str = ""
    limit: str = ""

    @property
    def text(self) -> str:
        where = f" on {self.nodes}" if self.nodes else ""
        why = f" ({self.reason})" if self.reason else ""
        time = f", {self.elapsed}{f' of {self.limit}' if self.limit else ''}" if self.elapsed else ""
        return f"{self.job_id} {self.state}{why}{where}{time}"


def tail(log: Path) -> str:
    """The end of a log, or nothing where there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _last(pattern: re.Pattern[str], text: str) -> str:
    lines = [found[0] for found in pattern.finditer(text)]
    return "".join(c if c.isprintable() else "?" for c in lines[-1].strip()) if lines else ""


def status_text(run: Run, jobs: Sequence[Job], log: Path, words: str) -> str:
    """The run as a small table. `words` are what its commands take: `RUN=x`, and OUTPUT where it needs saying."""
    said = tail(log)
    there = [name for name in OUTCOMES if (run.folder / name).exists()]
    rows = [
        ("run", run.run_id),
        *(("job", job.text) for job in jobs),
        ("step", _last(STEP_LINE, said).removeprefix("step").strip() or "none yet"),
        *([("said", _last(COMPLAINT, said))] if _last(COMPLAINT, said) else []),
        ("files", ", ".join([str(run.folder), *(there or ["no adapter yet"])])),
        ("next", _next_command(run, jobs, words)),
    ]
    return "\n".join(f"{name:<6} {value}" for name, value in rows)


def _next_command(run: Run, jobs: Sequence[Job], words: str) -> str:
    if any(not job.ended for job in jobs):
        return f"make logs {words} (follows it; make cancel {words} ends it)"
    if all((run.folder / name).exists() for name in OUTCOMES):
        return f"open {shlex.quote(str(run.folder / 'report.html'))}"
    return f"make logs {words} (what happened), then make resume {words}" if jobs else "nothing: no job's run"


def list_text(rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    """Rows of `list_row` and `broken_row` under a heading."""
    return format_table([("run", "job", "state", "step", "adapter"), *rows])


def list_row(run: Run, jobs: Mapping[str, Job], log: Path) -> tuple[str, str, str, str, str]:
    job = jobs.get(run.job_ids[-1]) if run.job_ids else None
    found = STEP_LINE.findall(tail(log))
    return (
        run.run_id,
        job.job_id if job else "-",
        job.state if job else "-",
        found[-1] if found else "-",
        "yes" if (run.folder / "adapter").exists() else "no",
    )


def broken_row(folder: Path) -> tuple[str, str, str, str, str]:
    """A run whose run.json cannot be read; `make status` says why."""
    return (folder.name, "-", "BROKEN", "-", "-")
