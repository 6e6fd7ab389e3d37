"""How far a run has come, for a terminal: pure text from what lies in its folder and what its scheduler says.

Every backend's `status` and `list` print these; a backend brings only its jobs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.records import SPOILT, Run, finished, spoilt
from trainer.commands import training_command
from trainer.outcome import BAD_CONFIG
from trainer.text import format_table, printable

# From the end of a log: room for hundreds of step lines, and a log of gigabytes is not read whole.
TAIL_BYTES = 64 * 1024
STEP_LINE = re.compile(r"^step +([0-9]+/[0-9]+)\b.*$", re.MULTILINE)
COMPLAINT = re.compile(r"^trainyard: .*$", re.MULTILINE)
OUTCOMES = ("adapter", "report.html")
GONE, UNKNOWN = "GONE", "UNKNOWN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job of a run, in its scheduler's words."""

    job_id: str
    state: str
    """RUNNING, FAILED, ...; GONE when the scheduler no longer knows it, UNKNOWN when it does not answer."""
    ended: bool
    reason: str = ""
    nodes: str = ""
    elapsed: str = ""
    limit: str = ""
    exit_code: int = 0
    """0 also where the scheduler does not say it."""
    name: str = ""
    script: str = ""
    """What it was made of, where the scheduler says so."""
    release: str = ""
    """The command without which it never starts, where the scheduler holds it."""

    @property
    def text(self) -> str:
        where = f" on {self.nodes}" if self.nodes else ""
        reasons = [self.reason, f"exit code {self.exit_code}" if self.exit_code else ""]
        why = f" ({', '.join(filter(None, reasons))})" if any(reasons) else ""
        time = f", {self.elapsed}{f' of {self.limit}' if self.limit else ''}" if self.elapsed else ""
        return f"{self.job_id} {self.state}{why}{where}{time}"


def tail(log: Path) -> str:
    """The end of a log, or nothing where there is none yet, or what is none."""
    try:
        if not log.is_file():
            return ""  # a pipe would be waited for
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _last(pattern: re.Pattern[str], text: str) -> str:
    lines = [found[0] for found in pattern.finditer(text)]
    return lines[-1].strip() if lines else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A run as its backend can see it now."""

    run_id: str
    jobs: Sequence[Job]
    """Oldest first."""
    said: str
    """The end of the newest job's log."""
    place: str
    """Where its files lie, for a person."""
    made: Sequence[str]
    """Which of OUTCOMES are there; words for a person where that cannot be seen."""
    finished: bool
    look: str
    """What to type to look at the report."""
    spoilt: bool = False
    """Its metrics.json is not what training wrote: nobody knows whether it is finished."""


def look_at(run: Run, jobs: Sequence[Job], log: Path) -> Seen:
    """A run whose folder lies on this machine."""
    return Seen(
        run_id=run.run_id,
        jobs=jobs,
        said=tail(log),
        place=str(run.folder),
        made=[name for name in OUTCOMES if (run.folder / name).exists()],
        finished=finished(run.folder),
        look=how_to_look(run.folder),
        spoilt=spoilt(run.folder),
    )


def how_to_look(folder: Path) -> str:
    """What to type to look at a finished run's report."""
    if (folder / "report.html").exists():
        return f"look at {folder / 'report.html'}"
    return f"{training_command('trainer', 'report', folder)} (it has no report yet)"


def status_text(seen: Seen, words: str) -> str:
    """The run as a small table. `words` are what its commands take: `RUN=x`, and OUTPUT where it needs saying."""
    no_step = "not known" if seen.finished else "none yet"  # the log of a finished run may be elsewhere
    rows = [
        ("run", seen.run_id),
        *(("job", job.text) for job in seen.jobs),
        ("step", _last(STEP_LINE, seen.said).removeprefix("step").strip() or no_step),
        ("said", _last(COMPLAINT, seen.said)),
        ("files", ", ".join([seen.place, *(seen.made or ["no adapter yet"])])),
        ("next", _next_command(seen, words)),
    ]
    return "\n".join(printable(f"{name:<6} {value}") for name, value in rows if value)


def _next_command(seen: Seen, words: str) -> str:
    unknown = any(job.state == UNKNOWN for job in seen.jobs)
    if release := next((job.release for job in seen.jobs if job.release), ""):
        return f"{release} (it is held and does not start by itself; make cancel {words} ends it)"
    if not unknown and any(not job.ended for job in seen.jobs):
        return f"make logs {words} (follows it; make cancel {words} ends it)"
    if seen.spoilt:
        return f"{SPOILT}, then {f'make resume {words}' if seen.jobs else f'the command that began it, with {words}'}"
    if seen.finished:
        return seen.look
    if unknown:
        return f"make status {words} again; if no job of it is there, make resume {words}"
    if seen.jobs and seen.jobs[-1].exit_code == BAD_CONFIG:
        return f"make logs {words} (the request is wrong: it says how), then make submit with another"
    if seen.jobs:
        return f"make logs {words} (what happened), then make resume {words}"
    return f"the command that began it, with {words}: it was started without a scheduler"


def list_text(runs: Sequence[Seen | str]) -> str:
    """Runs under a heading; the mere name of one stands for a run.json that cannot be read. Why a run is BROKEN, `make
    status` says."""
    return format_table([("run", "job", "state", "step", "adapter"), *map(_row, runs)])


def _row(run: Seen | str) -> tuple[str, ...]:
    if isinstance(run, str):
        return (run, "-", "BROKEN", "-", "-")
    job_id, state = (run.jobs[-1].job_id, run.jobs[-1].state) if run.jobs else ("-", "-")
    if run.spoilt and (state == UNKNOWN or all(job.ended for job in run.jobs)):
        state = "BROKEN"
    elif run.finished and state in (GONE, UNKNOWN):
        state = "FINISHED"  # its files say more than its scheduler
    steps = STEP_LINE.findall(run.said) or ["-"]
    return (run.run_id, job_id, state, steps[-1], "yes" if "adapter" in run.made else "no")
