"""Plans -> processes, each with its script, its log and its lock in the run's folder."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launcher.folder import new_folders
from launcher.grid import write_sweep
from launcher.records import Run, run_record, write_record
from launcher.scheduler import Batch
from planner.plan import Plan
from toy.render import render
from toy.runs import job_file


def start(batch: Batch) -> None:
    with new_folders(batch):
        if batch.sweep:
            write_sweep(batch.sweep)
        for plan in batch.plans:
            _start(plan, ())


def restart(runs: Sequence[Run], batch: Batch) -> None:
    for run, plan in zip(runs, batch.plans, strict=True):
        _start(plan, run.job_ids)


def _start(plan: Plan, before: tuple[str, ...]) -> None:
    folder, job_id = Path(plan.spec.project_dir, plan.spec.run_dir), str(len(before) + 1)
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "job.sh").write_text(render(plan))
    command = ["sh", str(folder / "job.sh"), str(job_file(folder, job_id, "ended"))]
    with job_file(folder, job_id, "log").open("xb") as log, job_file(folder, job_id, "lock").open("x") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock.fileno()], start_new_session=True
        )
        lock.write(str(process.pid))
    write_record(folder, {**run_record(plan), "job_ids": [*before, job_id]})
