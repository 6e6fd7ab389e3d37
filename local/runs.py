"""The runs in a folder, and the state of their processes on this machine."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from launcher.folder import FolderOfRuns, output_folder
from launcher.logs import follow
from launcher.progress import COMPLETED, GONE, RUNNING, UNKNOWN, Job, RunStatus, run_status
from launcher.records import ATTEMPT_NAME, Run, name_of, refuse_anothers
from launcher.restore_spec import read_spec
from launcher.scheduler import Cancelled, Found, Words, WordsOf
from local.machine.attempt import Attempt, is_locked, is_running, log_path, logged, read_attempt, stop
from planner.job import JobSpec
from trainer.files import RECORD_NAME
from trainer.outcome import FINISHED, RUN_AGAIN, ConfigError, SchedulerError

STATES = {FINISHED: COMPLETED, RUN_AGAIN: "STOPPED"}


class LocalError(SchedulerError):
    """An error of this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs(FolderOfRuns):
    """A launcher.scheduler.Place."""

    def named(self, run_id: str) -> Found[Run] | None:
        found = FolderOfRuns.named(self, run_id)
        return found and replace(found, again=_again(found))

    def statuses(self, runs: Sequence[Run]) -> Sequence[RunStatus]:
        return [run_status(run, jobs_of(run), elsewhere="slurm" if run.job_ids else "") for run in runs]

    def cancel(self, runs: Sequence[Run]) -> Cancelled:
        found = [(run, read_attempt(run.folder)) for run in runs]
        if all(attempt is None and run.job_ids for run, attempt in found):
            name, text = name_of(runs)
            raise ConfigError(f"{text} was begun by Slurm: make cancel RUN={name}")
        live = [(run, attempt) for run, attempt in found if attempt and not job_of(run, attempt).ended]
        away = next((attempt for _, attempt in live if attempt.host != socket.gethostname()), None)
        if away:
            raise LocalError(f"job {away.job_id} runs on {away.host}: make cancel TO=local there ends it")
        return Cancelled(job_ids=[attempt.job_id for run, attempt in live if stop(run.folder, attempt)])

    def follow(self, run: Run) -> None:
        attempt = read_attempt(run.folder)
        if attempt is None and run.job_ids:
            raise ConfigError(f"run {run.run_id} was begun by Slurm: make logs RUN={run.run_id}")
        if attempt is None:
            raise ConfigError(f"run {run.run_id} has no log of this machine: make run keeps one")
        done = 0
        while attempt:
            number = attempt.number
            before = [log_path(run.folder, one) for one in logged(run.folder) if done < one < number]
            follow(log_path(run.folder, number), partial(_job_numbered, run, number), before=before)
            done, attempt = number, read_attempt(run.folder)
            if attempt and attempt.number <= done:
                return

    @contextlib.contextmanager
    def held(self, found: Found[Run], words: WordsOf) -> Iterator[Sequence[Run]]:
        """The runs, which make run began; each attempt holds the run's lock."""
        if found.again:
            raise ConfigError(f"{found.text} was not begun by make run: {found.again} goes on with it")
        yield found.runs

    def spec_of(self, run: Run) -> JobSpec:
        refuse_anothers(run)
        spec = read_spec(run.record["spec"], project_dir=self.project_dir, source=str(run.folder / RECORD_NAME))
        if (self.project_dir / spec.run_dir).resolve() != run.folder.resolve():
            raise ConfigError(f"run {run.run_id} was begun in {spec.run_dir}, and lies in {run.folder}: move it back")
        return spec


def _again(found: Found[Run]) -> str:
    """The command that continues the run; empty when that is make resume, which takes only runs that make run
    began."""
    if found.is_sweep:
        return f"the command that began it (make sweep) with RUN={found.name}"
    run = found.runs[0]
    attempt = read_attempt(run.folder)
    if attempt and attempt.verb != "run":
        return f"the command that began it (make {attempt.verb}) with RUN={found.name}"
    if attempt is None:
        return f"make resume RUN={found.name}" if run.job_ids else f"the command that began it with RUN={found.name}"
    return ""


def place(given: Words, environ: Words, project_dir: Path) -> Runs:
    """The runs of the given folder. Raises ConfigError for a wrong OUTPUT."""
    return Runs(output=output_folder(given, environ, project_dir), project_dir=project_dir)


def jobs_of(run: Run) -> list[Job]:
    attempt = read_attempt(run.folder)
    return [job_of(run, attempt)] if attempt else []


def _job_numbered(run: Run, number: int) -> Job:
    """The attempt with that number, which attempt.json no longer describes once a later one has begun."""
    newest = read_attempt(run.folder)
    if newest and newest.number == number:
        return job_of(run, newest)
    job_id = f"local-{number}"
    if newest and newest.number > number:
        return Job(job_id=job_id, state=GONE, ended=True, reason=f"{newest.job_id} goes on with the run")
    reason = f"{ATTEMPT_NAME} was removed or changed"
    running = is_locked(run.folder)
    return Job(job_id=job_id, state=UNKNOWN if running else GONE, ended=not running, reason=reason)


def job_of(run: Run, attempt: Attempt) -> Job:
    job_id, nodes = attempt.job_id, attempt.host
    if attempt.code is not None:
        code = attempt.code if attempt.code not in STATES else 0
        state = STATES.get(attempt.code, "FAILED")
        return Job(job_id=job_id, state=state, ended=True, nodes=nodes, exit_code=code)
    if is_running(run.folder, attempt):
        hours, seconds = divmod(max(0, int(time.time() - attempt.began)), 3600)
        elapsed = f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
        return Job(job_id=job_id, state=RUNNING, ended=False, nodes=nodes, elapsed=elapsed)
    return Job(job_id=job_id, state=GONE, ended=True, nodes=nodes, reason="its process ended without an exit code")
