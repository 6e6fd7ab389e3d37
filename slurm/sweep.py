"""`make sweep` on Slurm: a grid as one job array, in which every member is a run of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launcher import cli
from launcher.grid import Sweep, check_members, plan_table, write_sweep
from launcher.records import run_record, write_record
from launcher.trials import begin, check_key, plan_sweep
from planner.request.elsewhere import told_by
from planner.request.variables import DEFAULT_OUTPUT
from slurm.fit import fit
from slurm.queue import ASKED, SCRIPT_NAME
from slurm.runtime import check_runtime, needed_environment
from slurm.script import log_dir, render_array
from slurm.site import find_site, with_gpu_type
from slurm.submit import SubmitError, check, check_environment, make_environment, new_folders, note_runtime, sbatch
from trainer.outcome import FINISHED, ConfigError

Words = Mapping[str, str]


def plan(given: Words, environ: Words, project_dir: Path) -> int:
    planned = _planned(given, environ, project_dir)
    if given.get("FORMAT") == "json":
        print(json.dumps([member.to_dict() for member in planned.plans], indent=2))
    else:
        print(plan_table(planned))
    return FINISHED


def render(given: Words, environ: Words, project_dir: Path) -> int:
    planned = _planned(given, environ, project_dir)
    if planned.config and not planned.plans[0].spec.wandb_sweep:
        raise ConfigError("SWEEP= is a file, whose sweep is made at submit: render takes entity/project/id")
    print(_script(planned), end="")
    return FINISHED


def ready(given: Words, environ: Words, project_dir: Path) -> int:
    print(needed_environment(_checked(given, environ, project_dir).plans[0].spec))
    return FINISHED


def sweep(given: Words, environ: Words, project_dir: Path) -> int:
    checked = _checked(given, environ, project_dir)
    make_environment(checked.plans[0].spec, environ)
    planned = begin(checked, environ)
    path = planned.plans[0].spec.wandb_sweep
    try:
        job_id = submit(planned, environ)
    except SubmitError as error:
        left = f"; SWEEP={path} is there at W&B, to be taken again" if path else ""
        raise SubmitError(f"{error}{left}") from error
    output = planned.plans[0].spec.output
    elsewhere = {} if output == DEFAULT_OUTPUT else {"OUTPUT": output}
    lines = [
        f"job id  {job_id} (an array: member 0 is {job_id}_0)",
        f"runs    {planned.folder}-0 and so on",
        *([f"W&B     {path}"] if path else []),
        "",
        *cli.follow_up(cli.command_words(elsewhere, planned.sweep_id), cancel=f"scancel {job_id}"),
        f"one     make status {cli.command_words(elsewhere, planned.plans[0].spec.run_id)}    (and so on)",
    ]
    print("\n".join([plan_table(planned), "", *lines]))
    return FINISHED


def submit(planned: Sweep, environ: Words) -> str:
    """Write every member's folder and hand the array to sbatch; returns the array's job id.

    Raises:
        ConfigError: the job's environment has not been made.
        SubmitError: a folder could not be written, or sbatch refused; nothing is left behind.
        UnansweredError: sbatch did not tell; the folders are left.
    """
    check_environment(planned.plans[0].spec)
    note_runtime(planned.plans[0].spec, environ)
    script = planned.folder / SCRIPT_NAME
    members = {planned.folder.with_name(plan.spec.run_id): run_record(plan) for plan in planned.plans}
    with new_folders(planned.sweep_id, planned.folder, *members):
        for plan, (folder, record) in zip(planned.plans, members.items(), strict=True):
            Path(log_dir(plan.spec)).mkdir()
            write_record(folder, {**record, ASKED: str(script)})
        write_sweep(planned)
        script.write_text(_script(planned), encoding="utf-8")
        job_id = sbatch(script, environ)
    for index, (folder, record) in enumerate(members.items()):
        write_record(folder, {**record, "job_ids": [f"{job_id}_{index}"]})
    return job_id


def _planned(given: Words, environ: Words, project_dir: Path, *, run_suffix: str | None = None) -> Sweep:
    site = find_site(given, project_dir, environ)
    planned = plan_sweep(given, project_dir=project_dir, environ=environ, run_suffix=run_suffix, site=site)
    for plan in planned.plans:
        check_runtime(plan.spec, typed=given)
        told_by(plan, project_dir)
    return replace(planned, plans=tuple(replace(plan, spec=with_gpu_type(plan.spec, site)) for plan in planned.plans))


def _checked(given: Words, environ: Words, project_dir: Path) -> Sweep:
    """The new sweep, after everything that can be refused before anything is written."""
    planned = _planned(given, environ, project_dir, run_suffix=cli.fresh_suffix())
    check(planned.plans[0], environ, again=True)
    check_members(planned)
    check_key(planned, {})  # the job reads it from .env
    return replace(planned, plans=tuple(fit(planned.plans, environ)))


def _script(planned: Sweep) -> str:
    return render_array(planned.sweep_id, dict(enumerate(planned.plans)), parallel=planned.parallel)
