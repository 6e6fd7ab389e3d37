"""From a request to a process: plan, render, submit and resume."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from launcher import cli, verbs
from launcher.planned import check_planned
from launcher.recorded import read_spec
from launcher.records import finished, run_record, write_record
from planner.choose import choose
from planner.job import Plan
from planner.request.resolve import resolve
from toy.runs import job_file, jobs_of
from toy.scheduler import SCHEDULER
from trainer.outcome import FINISHED, ConfigError

Words = Mapping[str, str]


def plan(given: Words, environ: Words) -> int:
    return cli.print_plan(_plan(given, environ), given.get("FORMAT"))


def render(given: Words, environ: Words) -> int:
    print(_script(_plan(given, environ)), end="")
    return FINISHED


def submit(given: Words, environ: Words) -> int:
    planned = _checked(given, environ)
    subprocess.run(["sh", "make-env.sh", planned.spec.device], stdout=subprocess.DEVNULL, check=True)
    _start(planned, ())
    words = verbs.words_of(SCHEDULER, given, planned.spec.run_id)
    return cli.print_submitted(planned, "\n".join(cli.follow_up(words, cancel="kill")))


def resume(given: Words, environ: Words) -> int:
    _, found = verbs.find(SCHEDULER, given, environ, Path.cwd(), only=True)
    run = found.runs[0]
    if finished(run.folder) or not all(job.ended for job in jobs_of(run)):
        raise ConfigError(f"run {run.run_id} is finished or has a job that runs")
    _start(choose(read_spec(run.record["spec"], project_dir=Path.cwd())), run.job_ids)
    print(f"status  make status {verbs.words_of(SCHEDULER, given, run.run_id)}")
    return FINISHED


def _plan(given: Words, environ: Words, run_suffix: str | None = None) -> Plan:
    return choose(resolve(given, project_dir=Path.cwd(), environ=environ, run_suffix=run_suffix))


def _checked(given: Words, environ: Words) -> Plan:
    """The plan of a new run, with everything refused that can be before a file is written."""
    planned = _plan(given, environ, cli.fresh_suffix())
    if os.path.lexists(planned.spec.run_dir):
        raise ConfigError(f"RUN={planned.spec.run_id} exists: give another RUN, or none for a new one")
    check_planned(planned)
    return planned


def _script(planned: Plan) -> str:
    """The supervisor is the job's first process, whatever the scheduler: it stops in order and says how it ended."""
    settings = [f"{name}={value}" for name, value in planned.env]
    python = f".venv/{planned.spec.device}/bin/python"
    words = ["env", *settings, python, "-m", "trainer.supervise", "--", *planned.launch.words()]
    # The shell outlives the signal to stop, to write down how the supervisor ended.
    return f'trap : TERM\n{shlex.join(words)}\necho $? >"$1"\n'


def _start(planned: Plan, before: tuple[str, ...]) -> None:
    folder, job_id = Path(planned.spec.run_dir), str(len(before) + 1)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "job.sh").write_text(_script(planned))
    command = ["sh", str(folder / "job.sh"), str(job_file(folder, job_id, "ended"))]
    with job_file(folder, job_id, "log").open("xb") as log, job_file(folder, job_id, "lock").open("x") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock.fileno()], start_new_session=True
        )
        lock.write(str(process.pid))
    write_record(folder, {**run_record(planned), "job_ids": [*before, job_id]})
