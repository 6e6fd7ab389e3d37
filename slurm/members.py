"""status, logs, cancel and resume for all members of a sweep at once: `make status RUN=<sweep id>`.

Each returns the exit code, and is taken by `python -m slurm` where RUN is a sweep's id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.cli import command_words, say
from launcher.grid import Recorded, check_files, read_sweep, results_table
from launcher.progress import Job, look_at, step_cell
from launcher.records import SPOILT, Run, finished, refuse_spoilt, spoilt
from slurm import verbs
from slurm.queue import SlurmError, ask_jobs, find_jobs, jobs_of, settled, surely_settled
from trainer.outcome import FINISHED, ConfigError
from trainer.sweep.trial import read_trial

Words = Mapping[str, str]


def find(given: Words, environ: Words, project_dir: Path, takes: Sequence[str] = verbs.TAKES) -> Recorded | None:
    """The sweep that RUN names, if it names one. Raises ConfigError as the verbs do."""
    output = verbs.output_folder(given, environ, project_dir, takes)
    return read_sweep(output / given["RUN"]) if "RUN" in given else None


def status(sweep: Recorded, given: Words, environ: Words, project_dir: Path) -> int:
    verbs.output_folder(given, environ, project_dir)
    members = sweep.members()
    with contextlib.suppress(SlurmError):
        members = _members(sweep, environ)
    jobs = _own(members, ask_jobs(_ids(members), environ))
    verbs.say_unknown(jobs)
    words = command_words(given, sweep.sweep_id)
    todo = f"make resume {words} (those that are unfinished)"
    if all(map(_finished, members)):
        todo = ""
    elif any(not job.ended for job in jobs.values()):
        todo = f"make logs {words} (follows one; make cancel {words} ends all)"
    elif bad := [run.folder for run in members if spoilt(run.folder)]:
        todo = f"{bad[0]}/{SPOILT}, then make resume {words}"
    print(results_table(sweep, [_state(run, jobs) for run in members], todo))
    return FINISHED


def logs(sweep: Recorded, given: Words, environ: Words, project_dir: Path) -> int:
    """The log of the first member that is running, else of the first unfinished, else of the first."""
    members = _members(sweep, environ)
    jobs = _jobs(members, environ)
    running = [run for run in members if _last(run, jobs).state == "RUNNING"]
    one = (running or [run for run in members if not _finished(run)] or members)[0]
    say(f"RUN={sweep.sweep_id} is a sweep: this is {one.run_id}, RUN= shows another")
    return verbs.logs({**given, "RUN": one.run_id}, environ, project_dir)


def cancel(sweep: Recorded, given: Words, environ: Words, project_dir: Path) -> int:
    verbs.output_folder(given, environ, project_dir)
    live = [job_id for job_id, job in _jobs(_members(sweep, environ), environ).items() if not job.ended]
    if not live:
        print(f"sweep {sweep.sweep_id} has no job that is pending or running")
        return FINISHED
    verbs.scancel(live, environ)
    words = command_words(given, sweep.sweep_id)
    ended = f"cancelled {len(live)} job{'s' * (len(live) > 1)} of sweep {sweep.sweep_id}"
    print(f"{ended}; make resume {words} starts them again")
    return FINISHED


def resume(sweep: Recorded, given: Words, environ: Words, project_dir: Path) -> int:
    """All members that are neither finished nor in the queue, as one array again; each keeps its index."""
    from slurm.fit import fit
    from slurm.resume import alone, plan_again, submit_again
    from slurm.script import render_array
    from slurm.submit import check, check_environment

    changes = verbs.changes(given, environ)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(sweep.folder))
        members = dict(enumerate(surely_settled(sweep.members(), environ)))
        jobs = _jobs(list(members.values()), environ)
        for run in members.values():
            refuse_spoilt(run.folder, f"make resume {command_words(given, sweep.sweep_id)}")
        left = {i: run for i, run in members.items() if not _finished(run) and _last(run, jobs).ended}
        if not left:
            raise ConfigError(f"sweep {sweep.sweep_id} has no member that is unfinished and out of the queue")
        for run in left.values():
            stack.enter_context(alone(run.folder))
        plans = {i: plan_again(run, project_dir, changes) for i, run in left.items()}
        first = next(iter(plans.values()))
        check(first, environ, again=True)
        check_files(list(plans.values()))
        check_environment(first.spec)
        plans = dict(zip(plans, fit(list(plans.values()), environ), strict=True))
        text = render_array(sweep.sweep_id, plans, parallel=sweep.parallel)
        again = {f"_{index}": (run, plans[index]) for index, run in left.items()}
        job_id = submit_again(sweep.folder, text, environ, again, changes)
    for note in dict.fromkeys(note for plan in plans.values() for note in plan.notes):
        print(f"note    {note}")
    print(f"job {job_id} takes up {', '.join(run.run_id for run in left.values())}")
    print(f"status  make status {command_words(given, sweep.sweep_id)}")
    return FINISHED


def _members(sweep: Recorded, environ: Words) -> list[Run]:
    return [settled(run, environ) for run in sweep.members()]


def _jobs(members: Sequence[Run], environ: Words) -> dict[str, Job]:
    return _own(members, find_jobs(_ids(members), environ))


def _ids(members: Sequence[Run]) -> list[str]:
    return [job_id for run in members for job_id in run.job_ids]


def _own(members: Sequence[Run], found: Mapping[str, Job]) -> dict[str, Job]:
    return {job.job_id: job for run in members for job in jobs_of(run, found)}


def _last(run: Run, jobs: Mapping[str, Job]) -> Job:
    return jobs[run.job_ids[-1]] if run.job_ids else Job(job_id="-", state="-", ended=True)


def _state(run: Run, jobs: Mapping[str, Job]) -> tuple[str, str]:
    last = _last(run, jobs)
    return last.state, step_cell(look_at(run, [last]))


def _finished(run: Run) -> bool:
    """Nothing is left to do: it came to its end, or W&B has seen enough of the trial."""
    trial = read_trial(run.folder)
    return finished(run.folder) or bool(trial and trial.stopped)
