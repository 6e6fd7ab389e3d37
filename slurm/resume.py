"""`resume`: an ended run goes back into the queue, under the same run id, in the same folder, as a new job. The
unfinished members of a sweep go back as one array.

The request is the one in run.json; the script is rendered anew, so that a repaired checkout counts. The trainer
goes on from the newest checkpoint in the folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher import verbs
from launcher.changes import changed, changes_of
from launcher.grid import Recorded, check_files
from launcher.planned import check_planned
from launcher.progress import Job
from launcher.recorded import read_spec
from launcher.records import Run, done, finished, read_run, refuse_spoilt, run_record, write_record
from launcher.scheduler import Words
from planner.choose import choose
from planner.job import Plan
from planner.request.variables import resumable
from slurm.fit import fit
from slurm.queue import ASKED, SCRIPT_NAME, find_jobs, jobs_of, surely_settled
from slurm.runs import job_ids, jobs_by_id
from slurm.runtime import check_runtime
from slurm.scheduler import SCHEDULER
from slurm.script import render, render_array, run_dir
from slurm.submit import SubmitError, Submitted, UnansweredError, check, check_environment, follow_up, overrides, sbatch
from trainer.files import RECORD_NAME, write_whole
from trainer.outcome import FINISHED, ConfigError

LOCK_NAME = ".resuming"
# What a run that goes on must share with its beginning.
CHOSEN = ("label", "micro_batch_size", "gradient_accumulation_steps")


def resume(given: Words, environ: Words, project_dir: Path) -> int:
    _, found = verbs.find(SCHEDULER, given, environ, project_dir, only=True, takes=resumable(SCHEDULER.name))
    changes = changes_of(SCHEDULER.name, given, environ)
    if found.sweep:
        print("\n".join(resume_members(found.sweep, environ, project_dir, changes, given)))
    else:
        submitted, notes = resume_run(found.runs[0], environ, project_dir, changes)
        print("\n".join([*(f"note    {note}" for note in notes), follow_up(submitted)]))
    return FINISHED


def resume_run(
    run: Run, environ: Mapping[str, str], project_dir: Path, changes: Mapping[str, Any]
) -> tuple[Submitted, list[str]]:
    """(the new job, what a person should know about it). `changes` are JobSpec fields that it is given anew.

    Raises:
        ConfigError: a job of the run is still there, the run is finished, or run.json cannot be used.
        SubmitError: sbatch or the disk refused; the folder is as it was.
        UnansweredError: sbatch did not tell; run.json says what it was asked for.
    """
    if not run.job_ids and ASKED not in run.record:
        raise ConfigError(f"run {run.run_id} was started without Slurm: start it there again")
    refuse_spoilt(run.folder, f"make resume RUN={run.run_id}")
    if finished(run.folder):
        raise ConfigError(f"run {run.run_id} is finished ({run.folder / 'adapter'}): make submit starts another")
    with alone(run.folder):
        (run,) = surely_settled([read_run(run.folder)], environ)
        for job in jobs_of(run, find_jobs(run.job_ids, environ)):
            if not job.ended:
                said = f"job {job.job_id} of run {run.run_id} is {job.state}"
                raise ConfigError(f"{said}: make cancel RUN={run.run_id} ends it, then resume")
        plan = plan_again(run, project_dir, changes)
        check(plan, environ, again=True)
        check_planned(plan)
        check_environment(plan.spec)
        (plan,) = fit([plan], environ)
        job_id = _resubmit(run, plan, environ, changes)
    notes = [*plan.notes, *_changed(run.record["plan"], plan)]
    submitted = Submitted(plan=plan, job_id=job_id, ignored=tuple(sorted(overrides(environ))))
    return submitted, notes


def resume_members(
    sweep: Recorded, environ: Words, project_dir: Path, changes: Mapping[str, Any], given: Words
) -> list[str]:
    """All members that are neither finished nor in the queue, as one array again; each keeps its index. Returns what
    a person should know. Raises as `resume_run`."""
    words = verbs.words_of(SCHEDULER, given, sweep.sweep_id)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(sweep.folder))
        members = dict(enumerate(surely_settled(sweep.members(), environ)))
        jobs = jobs_by_id(list(members.values()), find_jobs(job_ids(list(members.values())), environ))
        for run in members.values():
            refuse_spoilt(run.folder, f"make resume {words}")
        left = {i: run for i, run in members.items() if not done(run.folder) and _ended(run, jobs)}
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
    return [
        *(f"note    {note}" for note in dict.fromkeys(note for plan in plans.values() for note in plan.notes)),
        f"job {job_id} takes up {', '.join(run.run_id for run in left.values())}",
        f"status  make status {words}",
    ]


def _ended(run: Run, jobs: Mapping[str, Job]) -> bool:
    return not run.job_ids or jobs[run.job_ids[-1]].ended


def plan_again(run: Run, project_dir: Path, changes: Mapping[str, Any]) -> Plan:
    """The plan for the request in run.json, with `changes`, of which the environment adds to the run's own.

    Raises:
        ConfigError: it cannot be used.
    """
    spec = read_spec(run.record["spec"], project_dir=project_dir, source=str(run.folder / RECORD_NAME))
    if Path(run_dir(spec)).resolve() != run.folder.resolve():
        spec = replace(spec, output=str(run.folder.parent))  # the folder of runs was moved
    spec = changed(spec, changes)
    check_runtime(spec, typed=[name.upper() for name in changes])
    return choose(spec)


def _resubmit(run: Run, plan: Plan, environ: Mapping[str, str], changes: Mapping[str, Any]) -> str:
    (run.folder / "logs").mkdir(exist_ok=True)
    return submit_again(run.folder, render(plan), environ, {"": (run, plan)}, changes)


def submit_again(
    folder: Path,
    text: str,
    environ: Mapping[str, str],
    runs: Mapping[str, tuple[Run, Plan]],
    changes: Mapping[str, Any],
) -> str:
    """The id of the job that the new script in `folder` makes; when sbatch refuses it, the old one is put back.

    `runs` are those that go on in it, by what the job's id is followed by in theirs: `_3` for an array's member.
    Their run.json says the new job and how it was planned.
    """
    script = folder / SCRIPT_NAME
    try:
        before = script.read_bytes() if script.exists() else None
        write_whole(script, text)
    except OSError as error:
        raise SubmitError(f"cannot write {script}: {error.strerror}") from error
    known = {job_id.partition("_")[0] for run, _ in runs.values() for job_id in run.job_ids}

    def record(run: Run, plan: Plan, **job: Any) -> None:
        before = {key: value for key, value in run.record.items() if key != ASKED}
        anew = {name: getattr(plan.spec, name) for name in changes}
        kept = {"spec": {**run.record["spec"], **anew}, "job_ids": list(run.job_ids)}
        write_record(run.folder, {**before, **run_record(plan), **kept, **job})

    try:
        job_id = sbatch(script, environ, known)
    except UnansweredError:
        for run, plan in runs.values():
            record(run, plan, **{ASKED: str(script)})
        raise
    except BaseException:
        script.unlink() if before is None else write_whole(script, before)
        raise
    for member, (run, plan) in runs.items():
        record(run, plan, job_ids=[*run.job_ids, job_id + member])
    return job_id


def _changed(before: Mapping[str, Any], plan: Plan) -> list[str]:
    """A note when this code decides otherwise than the run began."""
    now = plan.to_dict()["chosen"]
    then = before.get("chosen")
    if not isinstance(then, dict) or all(then.get(key) == now[key] for key in CHOSEN):
        return []
    texts = [", ".join(f"{key} {chosen.get(key)}" for key in CHOSEN) for chosen in (then, now)]
    return [f"the plan is another one than the run began with: {texts[0]}; now {texts[1]}"]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of two that resume a run at once, one is refused: two jobs in one folder would spoil it."""
    lock = folder / LOCK_NAME
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError as error:
        raise ConfigError(f"{lock} is there, someone is resuming this run: if not, remove it") from error
    except OSError as error:
        raise SubmitError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
