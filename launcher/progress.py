"""The progress of a run as text for a terminal, from the files in its folder and its scheduler's answers.

Every backend's `status` and `list` print these texts; a backend adds only its jobs. The progress comes from
progress.json (trainer/progress_file.py): the text of a log is never parsed.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.records import SPOILT, Run, done, finished, spoilt
from launcher.states import next_step
from planner.request.variables import BY_NAME
from trainer.commands import training_command
from trainer.files import CHECKPOINT_NAME
from trainer.progress_file import PROGRESS_FILE, Progress, read_progress
from trainer.text import format_table, printable

OUTCOMES = ("adapter", "report.html")
GONE, UNKNOWN, RUNNING, COMPLETED = "GONE", "UNKNOWN", "RUNNING", "COMPLETED"
LONGEST_S = 10 * 365 * 86400
"""No training takes longer: a longer estimate is not printed."""
CLOCKS_DIFFER_S = 60
"""A step that is further in the future than two machines' clocks may differ is ignored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job of a run, in its scheduler's words."""

    job_id: str
    state: str
    """RUNNING, FAILED, ...; GONE when the scheduler no longer knows the job, UNKNOWN when it does not answer."""
    ended: bool
    reason: str = ""
    nodes: str = ""
    elapsed: str = ""
    limit: str = ""
    exit_code: int = 0
    """0 also when the scheduler does not report it."""
    name: str = ""
    script: str = ""
    """The script that the job was made of, if the scheduler reports it."""
    release: str = ""
    """The command without which a held job never starts."""
    advice: str = ""
    """The command to type, and why, if the usual next step of its state (launcher/states.py) would not help. {words}
    and {again} have the same meaning as in that file."""

    @property
    def text(self) -> str:
        where = f" on {self.nodes}" if self.nodes else ""
        reasons = [self.reason, f"exit code {self.exit_code}" if self.exit_code else ""]
        why = f" ({', '.join(filter(None, reasons))})" if any(reasons) else ""
        time = f", {self.elapsed}{f' of {self.limit}' if self.limit else ''}" if self.elapsed else ""
        return f"{self.job_id} {self.state}{why}{where}{time}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """A run as its backend sees it now."""

    run_id: str
    jobs: Sequence[Job]
    """Oldest first."""
    progress: Progress | None
    """The run's progress.json: from a folder by `read_progress`, from a pod's text by `parse_progress`."""
    place: str
    """The place of its files, for a person."""
    made: Sequence[str]
    """The existing ones of OUTCOMES; words for a person when that is unknown."""
    finished: bool
    report_advice: str
    """How to open the report."""
    spoilt: bool = False
    """Whether metrics.json is not what training wrote, so that nobody knows whether the run is finished."""
    saved_step: int = 0
    """The step of the newest checkpoint, the only sign of progress of a run by an earlier version; 0 when none is
    seen."""
    unknown_step: str = ""
    """Why the progress is unknown, if it is."""
    done: bool = False
    """Whether nothing is left to do: the run is finished, or its W&B sweep has stopped its trial."""
    elsewhere: str = ""
    """The TO= name of the scheduler that has its jobs, if that is another than the one asked."""


def run_status(run: Run, jobs: Sequence[Job], *, elsewhere: str = "") -> RunStatus:
    """The status of a run whose folder lies on this machine."""
    return RunStatus(
        run_id=run.run_id,
        jobs=jobs,
        progress=read_progress(run.folder),
        saved_step=_newest_checkpoint(run.folder),
        place=str(run.folder),
        made=[name for name in OUTCOMES if (run.folder / name).exists()],
        finished=finished(run.folder),
        report_advice=how_to_open_report(run.folder),
        spoilt=spoilt(run.folder),
        done=done(run.folder),
        elsewhere="" if jobs else elsewhere,
    )


def how_to_open_report(folder: Path) -> str:
    """The command that opens a finished run's report."""
    if (folder / "report.html").exists():
        return f"look at {folder / 'report.html'}"
    return f"{training_command('trainer', 'report', folder)} (it has no report yet)"


def _newest_checkpoint(folder: Path) -> int:
    names = (CHECKPOINT_NAME.fullmatch(path.name) for path in (folder / "checkpoints").glob("step-*"))
    return max((int(found[1]) for found in names if found), default=0)


def status_text(seen: RunStatus, words: str, now: float | None = None, *, again: str = "") -> str:
    """The run as a small table. `words` are the arguments of its commands: `RUN=x`, and OUTPUT when needed. `now` is
    the time in unix seconds (default: the clock's). `again` is the command that continues the run (default: make
    resume)."""
    now = time.time() if now is None else now
    running = any(job.state == RUNNING for job in seen.jobs)
    rows = [
        ("run", seen.run_id),
        *(("job", job.text) for job in seen.jobs),
        ("step", _step_text(seen, now, running=running)),
        ("phase", _phase_text(seen.progress) if seen.progress and running else ""),
        ("score", _score_text(seen.progress) if seen.progress and not running else ""),
        ("said", seen.progress.said if seen.progress and not running else ""),
        ("files", ", ".join([seen.place, *(seen.made or ["no adapter yet"])])),
        ("next", _next_command(seen, words, again or f"make resume {words}")),
    ]
    return "\n".join(printable(f"{name:<6} {value}") for name, value in rows if value)


def _step_text(seen: RunStatus, now: float, *, running: bool) -> str:
    """`120 of 1500, 8 s ago, about 1 h 20 min left`: as much of it as is known."""
    progress = seen.progress
    if progress is None:
        if seen.saved_step:
            return f"{seen.saved_step} (that of its newest checkpoint: it wrote no {PROGRESS_FILE})"
        return seen.unknown_step or ("not known" if seen.finished else "none yet")
    words = [f"{progress.step} of {progress.of}" if progress.of else str(progress.step)]
    if progress.step_at is not None and now >= progress.step_at - CLOCKS_DIFFER_S:
        ago_s = max(0.0, now - progress.step_at)
        words.append(f"{duration(ago_s)} ago")
        left_s = (progress.seconds_per_step or 0.0) * (progress.of - progress.step) - ago_s
        if running and progress.of and 0 < left_s <= LONGEST_S:  # no estimate for a run that should be over by now
            words.append(f"about {duration(left_s)} left")
    return ", ".join(words)


def _phase_text(progress: Progress) -> str:
    numbers = (
        ("loss", progress.loss, ".4f"),
        ("token accuracy", progress.token_accuracy, ".1%"),
        ("action accuracy", progress.action_accuracy, ".1%"),
        ("lr", progress.learning_rate, ".2e"),
        ("seconds a step", progress.seconds_per_step, ".3g"),
    )
    return ", ".join(
        [progress.phase, *(f"{name} {value:{form}}" for name, value, form in numbers if value is not None)]
    )


def _score_text(progress: Progress) -> str:
    """The score of a run that does not train now; for a finished run, the score of the kept adapter in
    metrics.json."""
    return "" if progress.action_accuracy is None else f"action accuracy {progress.action_accuracy:.1%}"


def duration(seconds: float) -> str:
    """The two largest units: 8 s, 2 min, 1 h 20 min, 3 d 4 h."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def step_cell(seen: RunStatus) -> str:
    """The progress as a cell of a table: 120/1500."""
    if seen.progress and seen.progress.of:
        return f"{seen.progress.step}/{seen.progress.of}"
    step = seen.progress.step if seen.progress else seen.saved_step
    return str(step) if step else "-"


def _accuracy_cell(seen: RunStatus) -> str:
    """The held-out action accuracy: of the last evaluation, or of the finished run."""
    accuracy = seen.progress.action_accuracy if seen.progress else None
    return "-" if accuracy is None else f"{accuracy:.1%}"


def _next_command(seen: RunStatus, words: str, again: str) -> str:
    unknown = any(job.state == UNKNOWN for job in seen.jobs)
    live = next((job for job in seen.jobs if not job.ended and job.state != UNKNOWN), None)
    if live and not unknown:
        return _advised(live, words, again) or next_step(live.state, 0, ended=False, words=words, again=again)
    if seen.spoilt:
        return f"{SPOILT}, then {again if seen.jobs else f'the command that began it, with {words}'}"
    if seen.finished:
        return seen.report_advice
    if unknown:
        return next_step(UNKNOWN, 0, ended=False, words=words, again=again)
    if seen.jobs:
        last = seen.jobs[-1]
        return _advised(last, words, again) or next_step(
            last.state, last.exit_code, ended=True, words=words, again=again
        )
    if seen.elsewhere:
        taken = [word for word in shlex.split(words) if _is_taken(word.partition("=")[0], seen.elsewhere)]
        return f"make status {shlex.join([f'TO={seen.elsewhere}', *taken])} (its job is there)"
    return f"the command that began it, with {words}: it was started without a scheduler"


def _is_taken(name: str, scheduler: str) -> bool:
    return name in BY_NAME and scheduler in BY_NAME[name].takes


def _advised(job: Job, words: str, again: str) -> str:
    return job.advice.replace("{words}", words).replace("{again}", again)


def list_text(runs: Sequence[RunStatus | str]) -> str:
    """A table of runs; a mere name stands for a run whose run.json cannot be read. `make status` says why a run is
    BROKEN."""
    return format_table([("run", "job", "state", "step", "accuracy", "adapter"), *map(_row, runs)])


def _row(run: RunStatus | str) -> tuple[str, ...]:
    if isinstance(run, str):
        return (run, "-", "BROKEN", "-", "-", "-")
    there = f"TO={run.elsewhere}" if run.elsewhere else "-"
    job_id = run.jobs[-1].job_id if run.jobs else there
    made = "yes" if "adapter" in run.made else "no"
    return (run.run_id, job_id, state_of(run), step_cell(run), _accuracy_cell(run), made)


def state_of(run: RunStatus) -> str:
    """The state as one word for a table."""
    state = run.jobs[-1].state if run.jobs else "-"
    if run.spoilt and (state == UNKNOWN or all(job.ended for job in run.jobs)):
        return "BROKEN"
    if run.finished and state in (GONE, UNKNOWN, "-"):
        return COMPLETED  # its files tell more than its scheduler
    return state
