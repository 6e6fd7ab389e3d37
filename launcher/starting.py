"""plan, render, submit and sweep, for every scheduler: from the given variables to a job. The order is a promise:
every possible refusal comes before the first file is written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from launcher import cli
from launcher.cli import words_of
from launcher.scheduler import Batch, Scheduler, Target, Words, WordsOf
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.resolve import resolve
from planner.request.variables import BY_NAME, DEFAULT_DATA, OF_SWEEPS
from planner.values import expand_home
from trainer.outcome import FINISHED, ConfigError, Problems, SchedulerError


def plan(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    target, batch = planned(scheduler, given, environ, project_dir)
    if not target.paths_elsewhere:
        for fault in _faults_of_data(given.get("DATA", ""), project_dir, environ):
            cli.say(f"{fault} (the plan does without records, a run does not)")
    if batch.sweep is None:
        return cli.print_plan(batch.plans[0], given.get("FORMAT"))
    if given.get("FORMAT") == "json":
        print(json.dumps([member.to_dict() for member in batch.plans], indent=2))
    else:
        from launcher.grid import plan_table

        print(plan_table(batch.sweep))
    return FINISHED


def render(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    target, batch = planned(scheduler, given, environ, project_dir)
    if batch.sweep and batch.sweep.config and not batch.spec.wandb_sweep:
        raise ConfigError("SWEEP= is a file, whose sweep is made at submit: render takes entity/project/id")
    print(target.render(batch), end="")
    return FINISHED


def submit(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    target, batch = _new(scheduler, given, environ, project_dir)
    return _submit(target, batch, environ, partial(words_of, scheduler, given))


def sweep(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    target, batch = _new(scheduler, given, environ, project_dir, sweeps=True)
    return _submit(target, batch, environ, partial(words_of, scheduler, given))


def planned(
    scheduler: Scheduler[Any, Any],
    given: Words,
    environ: Words,
    project_dir: Path,
    *,
    run_suffix: str | None = None,
    sweeps: bool = False,
) -> tuple[Target[Any], Batch]:
    """The target, and the planned batch. Without RUN and `run_suffix` ids are hashes of the request.

    Raises:
        ConfigError: the request is wrong, or the scheduler could not run it.
    """
    cli.say_open(project_dir)
    target: Target[Any] = scheduler.target(given, environ, project_dir)
    is_named = run_suffix is not None or "RUN" in given

    def spec_of(asked: Words) -> JobSpec:
        with _lost_data_first("" if target.paths_elsewhere else asked.get("DATA", ""), project_dir, environ):
            return request(target, asked, environ, project_dir, run_suffix=run_suffix, is_named=is_named)

    def plan_of(spec: JobSpec) -> Plan:
        # Only a verb that begins a run needs the data on this machine: `plan` also works without it.
        begins = run_suffix is not None
        data = spec.data if begins else given.get("DATA", "")
        left_out = begins and "DATA" not in given and data == DEFAULT_DATA and not target.paths_elsewhere
        with _lost_data_first("" if target.paths_elsewhere else data, project_dir, environ, left_out=left_out):
            made = target.plan(spec)
        if left_out:
            _faults_of_data(data, project_dir, environ, left_out=True).refuse()
        return made

    if not sweeps and not any(name in given for name in OF_SWEEPS):
        return target, Batch(plans=(plan_of(spec_of(target.given)),))
    from launcher.grid import EXAMPLE
    from launcher.trials import plan_sweep

    if "GRID" not in given and scheduler.name not in BY_NAME["SWEEP"].takes:
        raise ConfigError(f"what shall the members differ in? say {EXAMPLE}")
    members = plan_sweep(
        target.given, project_dir=project_dir, environ=environ, run_suffix=run_suffix,
        spec_of=spec_of, plan_of=plan_of, parallel=target.parallel,
    )  # fmt: skip
    return target, Batch(plans=members.plans, sweep=members)


@contextlib.contextmanager
def _lost_data_first(data: str, project_dir: Path, environ: Words, *, left_out: bool = False) -> Iterator[None]:
    """A refusal in the block begins with a fault of `data`'s path, if there is one: no other card and no other number
    helps a run without records."""
    try:
        yield
    except ConfigError as error:
        problems = Problems()
        problems.extend(_faults_of_data(data, project_dir, environ, left_out=left_out))
        problems.append(error)
        problems.refuse()


def _faults_of_data(data: str, project_dir: Path, environ: Words, *, left_out: bool = False) -> Problems:
    """The fault of `data`'s path, if there is one: what a run would be refused for. `left_out`: nobody gave it."""
    from trainer.data.sources import find_sources, from_folder

    problems = Problems()
    with problems.kept():
        if left_out and not os.path.lexists(project_dir / data):
            lost = f"DATA is left out, and {project_dir / data} does not exist"
            raise ConfigError(f"{lost}: for example DATA=records.jsonl", name="DATA")
        if path := _path_of(data, environ):
            find_sources(from_folder(project_dir, path))
    return problems


def _path_of(data: str, environ: Words) -> str:
    """The path that DATA says; empty for what is none, which the request's own check names."""
    try:
        return expand_home(str(BY_NAME["DATA"].parse("DATA", data)), environ, name="DATA") if data else ""
    except ConfigError:
        return ""


def request(
    target: Target[Any], asked: Words, environ: Words, project_dir: Path, *, run_suffix: str | None, is_named: bool
) -> JobSpec:
    """The JobSpec that is `asked` for, complete for `target`. Raises ConfigError."""
    spec = resolve(
        asked, project_dir=project_dir, environ=environ, run_suffix=run_suffix, site=target.site,
        paths_elsewhere=target.paths_elsewhere,
    )  # fmt: skip
    return target.complete(spec, is_new=True, is_named=is_named)


def _new(
    scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path, *, sweeps: bool = False
) -> tuple[Target[Any], Batch]:
    """The target and the planned batch, after every refusal that is possible before a file is written."""
    suffix = cli.fresh_suffix()
    target, batch = planned(scheduler, given, environ, project_dir, run_suffix=suffix, sweeps=sweeps)
    return target, target.ready(batch)


def _submit(target: Target[Any], batch: Batch, environ: Words, words: WordsOf) -> int:
    if batch.sweep is None:
        return target.submit(batch, words)
    from launcher.trials import begin

    begun = begin(batch.sweep, environ, target.plan)
    try:
        return target.submit(Batch(plans=begun.plans, sweep=begun), words)
    except SchedulerError as error:
        if path := begun.plans[0].spec.wandb_sweep:
            raise type(error)(f"{error}; SWEEP={path} is there at W&B, to be taken again") from error
        raise
