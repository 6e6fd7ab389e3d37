"""The verbs after submit: status, logs, cancel, resume, list. They read run.json and ask Slurm; cancel and resume act.

A run is found by RUN in OUTPUT. `make status` without RUN takes the newest and says so; cancel and
resume want RUN as soon as there is more than one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.cli import command_words, refuse_others, say
from launcher.progress import UNKNOWN, Job, Seen, list_text, look_at, status_text
from launcher.records import Run, find_run, read_run, run_folders
from planner.request.variables import DEFAULT_OUTPUT, job_fields, parse_given
from planner.values import expand_home
from slurm.queue import ASKED, SlurmError, ask_jobs, find_jobs, jobs_of, settled, slurm, with_exit_code, words
from slurm.site import find_site
from trainer.outcome import FINISHED, ConfigError

TAKES = ("RUN", "OUTPUT", "SITE")
# What a resumed run may be given anew: where and how long it runs, never what it computes.
CHANGES = (
    *("TIME", "PARTITION", "ACCOUNT", "QOS", "CONSTRAINT", "EXCLUDE", "RESERVATION"),
    *("MAIL_USER", "MAIL_TYPE", "CPUS", "MEM", "GPU_FLAG", "EXTRA_FLAGS", "MODULES"),
    *("RUNTIME", "IMAGE", "BINDS", "ENVIRONMENT"),
)
LISTED = 30
READ_EVERY_S = 0.3
# squeue is asked seldom and ever more seldom: a controller serves many who wait.
ASK_FIRST_S, ASK_LAST_S = 1.0, 15.0


def status(given: Mapping[str, str], environ: Mapping[str, str], project_dir: Path) -> int:
    run = _find(given, environ, project_dir)
    try:
        run = settled(run, environ)
    except SlurmError as error:
        say(str(error))
    jobs = jobs_of(run, ask_jobs(run.job_ids, environ))
    jobs[-1:] = [with_exit_code(job, environ) for job in jobs[-1:]]
    print(status_text(look_at(run, [*jobs, *_untold(run)]), command_words(given, run.run_id)))
    return FINISHED


def list_runs(given: Mapping[str, str], environ: Mapping[str, str], project_dir: Path) -> int:
    if "RUN" in given:
        raise ConfigError(f"RUN={given['RUN']}: list shows all; make status RUN=... shows one")
    output = output_folder(given, environ, project_dir)
    folders = run_folders(output)
    if not folders:
        print(f"no run in {output}")
        return FINISHED
    runs: dict[Path, Run | None] = {folder: _readable(folder) for folder in folders[:LISTED]}
    jobs = ask_jobs([run.job_ids[-1] for run in runs.values() if run and run.job_ids], environ)
    say_unknown(jobs)
    print(list_text([_look(run, jobs) if run else folder.name for folder, run in runs.items()]))
    if len(folders) > LISTED:
        print(f"and {len(folders) - LISTED} older in {output}")
    return FINISHED


def say_unknown(jobs: Mapping[str, Job]) -> None:
    """Once, why Slurm says nothing of them."""
    for reason in dict.fromkeys(job.reason for job in jobs.values() if job.state == UNKNOWN):
        say(reason)


def cancel(given: Mapping[str, str], environ: Mapping[str, str], project_dir: Path) -> int:
    run = settled(_find(given, environ, project_dir, only=True), environ)
    jobs = jobs_of(run, find_jobs(run.job_ids, environ))
    live = [job.job_id for job in jobs if not job.ended]
    if not live:
        for job in jobs[-1:]:
            say(f"job {job.text}")
        print(f"run {run.run_id} has no job that is pending or running")
        return FINISHED
    scancel(live, environ)
    said = command_words(given, run.run_id)
    print(f"cancelled job {', '.join(live)} of run {run.run_id}; make resume {said} starts it again")
    return FINISHED


def scancel(job_ids: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raises SlurmError with its own words."""
    done = slurm("scancel", *job_ids, environ=environ)
    if done.returncode:
        raise SlurmError(f"scancel failed: {words(done)}")


def resume(given: Mapping[str, str], environ: Mapping[str, str], project_dir: Path) -> int:
    from slurm.resume import resume
    from slurm.submit import follow_up

    run = _find(given, environ, project_dir, only=True, takes=(*TAKES, *CHANGES))
    submitted, notes = resume(run, environ, project_dir, changes(given, environ))
    print("\n".join([*(f"note    {note}" for note in notes), follow_up(submitted)]))
    return FINISHED


def changes(given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    """JobSpec fields that a resumed run is given anew. Raises ConfigError for a value that is not allowed."""
    fields = job_fields(parse_given({name: text for name, text in given.items() if name in CHANGES}))
    if fields.get("image"):
        fields["image"] = expand_home(fields["image"], environ)
    return fields


def logs(given: Mapping[str, str], environ: Mapping[str, str], project_dir: Path) -> int:
    """Every job's log, the last one followed until that job has ended. Ctrl-C is how one leaves: no error."""
    try:
        run = settled(_find(given, environ, project_dir), environ)
        if ASKED in run.record and not run.job_ids:
            raise ConfigError(f"run {run.run_id} has no job that is known: make status RUN={run.run_id} looks for it")
        if not run.job_ids:
            raise ConfigError(f"run {run.run_id} was started without Slurm: its output went to the terminal")
        for job_id in run.job_ids[:-1]:
            _copy(log_path(run, job_id), 0)
        _follow(run, environ)
    except KeyboardInterrupt:
        pass
    return FINISHED


def _follow(run: Run, environ: Mapping[str, str]) -> None:
    """A requeued job appends to the same file, so one file is all attempts of a job."""
    job_id, at = run.job_ids[-1], 0
    pause, ask_at, last = ASK_FIRST_S, 0.0, ""
    while True:
        ended = False
        if time.monotonic() >= ask_at:
            state, text, ended = _stand(run, environ, first=not last)
            if state != last and state != "RUNNING":
                say(text)
            last = state
            ask_at = time.monotonic() + pause
            pause = min(pause * 1.5, ASK_LAST_S)
        # After the question: what a job wrote before it ended is in the file by now.
        at = _copy(log_path(run, job_id), at)
        if ended:
            return
        time.sleep(READ_EVERY_S)


def _stand(run: Run, environ: Mapping[str, str], *, first: bool) -> tuple[str, str, bool]:
    """(state, what to say of it, whether it has ended). A controller that restarts meanwhile ends nothing."""
    try:
        job = jobs_of(run, find_jobs(run.job_ids[-1:], environ))[-1]
    except SlurmError as error:
        if first:
            raise
        return "UNKNOWN", f"{error}; asking again", False
    return job.state, f"job {job.text}{f': {job.release} lets it start' if job.release else ''}", job.ended


def _copy(log: Path, start: int) -> int:
    """Everything in `log` from byte `start` on, to stdout; returns where the next copy begins."""
    try:
        # Opened anew each time, which makes NFS ask the server.
        with log.open("rb") as file:
            file.seek(start)
            while block := file.read(1 << 16):
                sys.stdout.buffer.write(block)
                start += len(block)
    except FileNotFoundError:
        pass
    sys.stdout.buffer.flush()
    return start


def _find(
    given: Mapping[str, str],
    environ: Mapping[str, str],
    project_dir: Path,
    *,
    only: bool = False,
    takes: Sequence[str] = TAKES,
) -> Run:
    run = find_run(given.get("RUN"), output_folder(given, environ, project_dir, takes), only=only)
    if "RUN" not in given:
        say(f"RUN is left out: {run.run_id}, the newest in {run.folder.parent}")
    return run


def output_folder(
    given: Mapping[str, str], environ: Mapping[str, str], project_dir: Path, takes: Sequence[str] = TAKES
) -> Path:
    """The folder of runs. Raises ConfigError for variables that say nothing to these verbs."""
    refuse_others(given, takes)
    by_site = {k: v for k, v in find_site(given, project_dir, environ).texts.items() if k == "OUTPUT"}
    output = parse_given({**by_site, **given}).get("OUTPUT", DEFAULT_OUTPUT)
    return project_dir / expand_home(str(output), environ)


def _look(run: Run, jobs: Mapping[str, Job]) -> Seen:
    return look_at(run, [*jobs_of(run, jobs)[-1:], *_untold(run)])


def _untold(run: Run) -> list[Job]:
    """The job that sbatch was asked for and has not told of."""
    said = "sbatch did not answer, squeue shows none"
    return [Job(job_id="-", state=UNKNOWN, ended=False, reason=said)] if ASKED in run.record else []


def _readable(folder: Path) -> Run | None:
    try:
        return read_run(folder)
    except ConfigError:
        return None


def log_path(run: Run, job_id: str = "") -> Path:
    last = run.job_ids[-1] if run.job_ids else "none"
    return run.folder / "logs" / f"slurm-{job_id or last}.log"
