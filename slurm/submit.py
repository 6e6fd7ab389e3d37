"""Plans -> a job in the queue, or an array of jobs. The only part of Slurm's side that changes anything.

The order is a promise: every possible refusal comes before the first file is written, and when sbatch itself refuses,
the written files are removed again. When sbatch gives no answer, everything stays: run.json records the request, and
the next verb that reads it searches for the job (queue.adopt_submitted_job).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher import cli, starting
from launcher.folder import folders_of, new_folders, refuse_taken
from launcher.grid import check_files, write_sweep
from launcher.records import Run, run_record, write_record
from launcher.scheduler import Batch, Found, Scheduler, Words
from launcher.trials import check_key
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.variables import DEFAULT_OUTPUT
from slurm.cluster.fit import fit, refuse_beyond_limits, refuse_long_array, refuse_lost_image
from slurm.cluster.job_id import array_of, command, joined, member_of, split
from slurm.cluster.nodes import as_tracked, read_nodes
from slurm.cluster.queue import SCRIPT_NAME, SUBMITTING, SlurmError, slurm
from slurm.cluster.sbatch import SubmitError, UnansweredError, overrides, rehearse, sbatch
from slurm.render import job_name, log_path, render, render_array, render_batch, run_dir
from slurm.script.runtime import image_file, is_unpacked, job_python
from trainer.files import write_whole
from trainer.outcome import FINISHED, ConfigError
from trainer.text import printable

# The decisions that a resumed run must share with its beginning.
CHOSEN = ("label", "micro_batch_size", "gradient_accumulation_steps")


def ready(batch: Batch, environ: Words, *, again: bool) -> Batch:
    """A Target's `ready`: for a new batch it also makes the environment. Raises ConfigError, and SlurmError when
    Slurm does not answer while the environment has yet to be made."""
    _check_here(batch.spec, environ)
    if not again:
        refuse_taken(batch)
    check_files(batch.plans)
    if batch.sweep:
        check_key(batch.sweep, {})  # the job reads the key from .env
        refuse_long_array(len(batch.sweep.values), batch.spec, environ)
    if again:
        _check_environment(batch.spec)
    makes = not again and batch.spec.slurm.runtime == "none"
    # Where Slurm does not answer, gigabytes would be installed for nothing.
    batch = batch.planned(fit(batch.plans, environ, needs_answer=makes and not _has_environment(batch.spec)))
    if makes:
        cli.make_environment(batch.spec, environ)
    return batch


def _check_here(spec: JobSpec, environ: Words) -> None:
    """Raises ConfigError when this machine has no sbatch or no image."""
    if not shutil.which("sbatch", path=environ.get("PATH")):
        raise ConfigError(
            "no sbatch on PATH: submit where Slurm is installed; make run trains here, `make render` prints the script"
        )
    if (file := image_file(spec)) and not (file.is_dir() if is_unpacked(spec) else file.is_file()):
        lacking = "is no folder with an unpacked image" if file.exists() else "is not there"
        raise ConfigError(f"{file} {lacking}: the nodes could not run it", name="IMAGE", given=spec.container.image)


def _check_environment(spec: JobSpec) -> None:
    """Raises ConfigError when the environment that the job's script names has not been made."""
    if spec.slurm.runtime != "none":
        return  # the image contains its own environment
    python = Path(job_python(spec))
    # make-env.sh writes .made last: an environment without it was interrupted.
    if not os.access(python, os.X_OK) or not (python.parents[1] / ".made").exists():
        raise ConfigError(f"no finished environment for the job ({python}): make env DEVICE={spec.resources.device}")


def _has_environment(spec: JobSpec) -> bool:
    try:
        _check_environment(spec)
    except ConfigError:
        return False
    return True


def check(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `check`: prints the cluster's answer to the request; queues nothing."""
    _, batch = starting.planned(scheduler, given, environ, project_dir, run_suffix=cli.fresh_suffix())
    _check_here(batch.spec, environ)
    refuse_taken(batch)
    check_files(batch.plans)
    refuse_lost_image(batch.spec, environ)
    groups = read_nodes(environ, cluster=batch.spec.slurm.cluster or "")
    spec, notes = as_tracked(batch.spec, groups)
    notes += refuse_beyond_limits(spec, groups, environ)
    for note in notes:
        print(printable(f"note    {note}"))
    said = rehearse(render(replace(batch.plans[0], spec=spec)), environ)
    print(printable(f"sbatch  {said}"))
    try:
        _check_environment(spec)
    except ConfigError as error:
        print(printable(f"note    {error}, or let make submit do it"))
    return FINISHED


def submit(batch: Batch, environ: Words) -> str:
    """Write the folders of the runs and pass the script to sbatch; returns the job's id.

    Raises:
        ConfigError: a run exists already, or the job's environment has not been made.
        SchedulerError: a folder could not be written, or sbatch refused; no file is left.
        UnansweredError: sbatch gave no answer; the folders are left.
    """
    _check_environment(batch.spec)
    _note_runtime(batch.spec, environ)
    script = folders_of(batch)[0] / SCRIPT_NAME
    records = {Path(run_dir(plan.spec)): run_record(plan) for plan in batch.plans}
    with new_folders(batch, keep=UnansweredError):
        for folder, record in records.items():
            (folder / "logs").mkdir()
            write_record(folder, {**record, SUBMITTING: str(script)})
        if batch.sweep:
            write_sweep(batch.sweep)
        script.write_text(render_batch(batch), encoding="utf-8")
        job_id = sbatch(script, environ, cluster=batch.spec.slurm.cluster or "")
    for index, (folder, record) in enumerate(records.items()):
        write_record(folder, {**record, "job_ids": [member_of(job_id, f"_{index}" if batch.sweep else "")]})
    return job_id


def resubmit(
    found: Found[Run], runs: Sequence[Run], batch: Batch, changes: Mapping[str, Any], words: str, environ: Words
) -> int:
    """A Target's `resubmit`: a run becomes a new job, unfinished members of a sweep one array, each with its index."""
    notes = dict.fromkeys(note for plan in batch.plans for note in plan.notes)
    if found.sweep is None:
        (run,), (plan,) = runs, batch.plans
        (run.folder / "logs").mkdir(exist_ok=True)
        job_id = _submit_again(run.folder, render(plan), environ, {"": (run, plan)}, changes)
        notes.update(dict.fromkeys(_changed(run.record["plan"], plan)))
        lines = _follow_up(batch, job_id, environ)
    else:
        indices = [int(run.run_id.rpartition("-")[2]) for run in runs]
        plans = dict(zip(indices, batch.plans, strict=True))
        text = render_array(found.name, plans, parallel=found.sweep.parallel)
        again = {f"_{index}": (run, plans[index]) for index, run in zip(indices, runs, strict=True)}
        job_id = _submit_again(found.sweep.folder, text, environ, again, changes)
        lines = [f"job {job_id} takes up {', '.join(run.run_id for run in runs)}", f"status  make status {words}"]
    print("\n".join(map(printable, [*(f"note    {note}" for note in notes), *lines])))
    return FINISHED


def _submit_again(
    folder: Path, text: str, environ: Words, runs: Mapping[str, tuple[Run, Plan]], changes: Mapping[str, Any]
) -> str:
    """The id of the job that the new script in `folder` makes; when sbatch refuses it, the old script is restored.

    `runs` are the runs that continue in it, by the suffix of the job's id for each: `_3` for an array's member. Their
    run.json then holds the new job and its plan.
    """
    script = folder / SCRIPT_NAME
    try:
        before = script.read_bytes() if script.exists() else None
        write_whole(script, text)
    except OSError as error:
        raise SubmitError(f"cannot write {script}: {error.strerror}") from error
    (first, *_) = (plan.spec for _, plan in runs.values())
    known = {joined(array_of(i), split(i)[1]) for run, _ in runs.values() for i in run.job_ids}

    def record(run: Run, plan: Plan, **job: Any) -> None:
        before = {key: value for key, value in run.record.items() if key != SUBMITTING}
        anew = {name: plan.spec.value(name) for name in changes}
        kept = {"spec": {**run.record["spec"], **anew}, "job_ids": list(run.job_ids)}
        write_record(run.folder, {**before, **run_record(plan, before), **kept, **job})

    try:
        job_id = sbatch(script, environ, known, first.slurm.cluster or "")
    except UnansweredError:
        for run, plan in runs.values():
            record(run, plan, **{SUBMITTING: str(script)})
        raise
    except BaseException:
        script.unlink() if before is None else write_whole(script, before)
        raise
    for member, (run, plan) in runs.items():
        record(run, plan, job_ids=[*run.job_ids, member_of(job_id, member)])
    return job_id


def _changed(before: Mapping[str, Any], plan: Plan) -> list[str]:
    """A note if this code decides differently from the run's beginning; else an empty list."""
    now = plan.to_dict()["chosen"]
    then = before.get("chosen")
    if not isinstance(then, dict) or all(then.get(key) == now[key] for key in CHOSEN):
        return []
    texts = [", ".join(f"{key} {chosen.get(key)}" for key in CHOSEN) for chosen in (then, now)]
    return [f"the plan is another one than the run began with: {texts[0]}; now {texts[1]}"]


def print_submitted(batch: Batch, job_id: str, environ: Words) -> int:
    """Print the lines after a submit: the choice, the job, and how to follow it."""
    return cli.print_submitted(batch, _follow_up(batch, job_id, environ))


def _follow_up(batch: Batch, job_id: str, environ: Words) -> list[str]:
    spec = batch.spec
    elsewhere = {"OUTPUT": spec.output} if spec.output != DEFAULT_OUTPUT else {}
    words = cli.command_words(elsewhere, batch.name)
    last = []
    if batch.sweep:
        begins = [
            f"job id  {job_id} (an array: member 0 is {member_of(job_id, '_0')})",
            f"runs    {batch.sweep.folder}-0 and so on",
            *([f"W&B     {spec.wandb_sweep}"] if spec.wandb_sweep else []),
        ]
        last = [f"one     make status {cli.command_words(elsewhere, spec.run_id)}    (and so on)"]
    else:
        begins = [
            f"job id  {job_id} ({job_name(spec)})",
            f"run id  {spec.run_id}",
            f"log     {log_path(spec, job_id=split(job_id)[0])}",
            f"result  {os.path.join(run_dir(spec), 'adapter')} when it is done",
        ]
    ignored = overrides(environ)
    notes = [f"note    not passed to sbatch, say it in the request: {', '.join(ignored)}"] if ignored else []
    follow = cli.follow_up(words, cancel=command("scancel", job_id))
    return [*begins, "", *follow, *last, *([""] if notes else []), *notes]


def _note_runtime(spec: JobSpec, environ: Words) -> None:
    """Print a note when this machine's srun does not support containers. It is not a refusal: only the nodes' srun
    must."""
    if spec.slurm.runtime != "pyxis" or not shutil.which("srun", path=environ.get("PATH")):
        return
    with contextlib.suppress(SlurmError):
        helped = slurm("srun", "--help", environ=environ, timeout_s=5.0)
        if helped.returncode == 0 and "--container-image" not in helped.stdout:
            cli.say(
                "srun here knows no --container-image: where the nodes' does not either, RUNTIME=pyxis ends with 78"
            )
