"""How the toy's jobs stand. A job holds a lock while it runs, and leaves its exit code in a file."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.folder import FolderOfRuns
from launcher.logs import follow
from launcher.progress import GONE, RUNNING, Job, RunStatus, run_status
from launcher.records import Run
from launcher.scheduler import Cancelled


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs(FolderOfRuns):
    """A launcher.scheduler.Place."""

    def jobs(self, runs: Sequence[Run]) -> Sequence[Sequence[Job]]:
        return [jobs_of(run) for run in runs]

    def statuses(self, runs: Sequence[Run]) -> Sequence[RunStatus]:
        return [run_status(run, jobs_of(run)) for run in runs]

    def cancel(self, runs: Sequence[Run]) -> Cancelled:
        live = [(run, job.job_id) for run in runs for job in jobs_of(run) if not job.ended]
        for run, job_id in live:
            os.killpg(int(job_file(run.folder, job_id, "lock").read_text()), signal.SIGTERM)
        return Cancelled(job_ids=[job_id for _, job_id in live])

    def follow(self, run: Run) -> None:
        logs = [job_file(run.folder, job_id, "log") for job_id in run.job_ids]
        follow(logs[-1], lambda: jobs_of(run)[-1], before=logs[:-1])


def job_file(run_dir: Path, job_id: str, kind: str) -> Path:
    return run_dir / "logs" / f"toy-{job_id}.{kind}"


def jobs_of(run: Run) -> list[Job]:
    return [_job(run.folder, job_id) for job_id in run.job_ids]


def _job(run_dir: Path, job_id: str) -> Job:
    ended = job_file(run_dir, job_id, "ended")
    if ended.exists() and (text := ended.read_text().strip()):
        state = "COMPLETED" if text == "0" else "FAILED"
        return Job(job_id=job_id, state=state, ended=True, exit_code=int(text))
    with job_file(run_dir, job_id, "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Job(job_id=job_id, state=RUNNING, ended=False)
    return Job(job_id=job_id, state=GONE, ended=True)
