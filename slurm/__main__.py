"""`python -m slurm VERB [options]`: plan explains, render prints the script, submit submits it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launcher import cli, command
from planner.job import Plan
from planner.request.resolve import resolve
from planner.request.variables import OF_SWEEPS
from slurm.scheduler import SCHEDULER
from slurm.site import find_site, with_gpu_type
from trainer.outcome import FINISHED, ConfigError

PROJECT_DIR = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    return command.main(BACKEND, argv, environ)


def _plan(given: dict[str, str], environ: Mapping[str, str], *, run_suffix: str | None = None) -> Plan:
    from planner.choose import choose
    from planner.request.elsewhere import told_by
    from slurm.runtime import check_runtime

    site = find_site(given, PROJECT_DIR, environ)
    spec = resolve(given, project_dir=PROJECT_DIR, environ=environ, run_suffix=run_suffix, site=site)
    check_runtime(spec, typed=given)
    decided = choose(with_gpu_type(spec, site))
    told_by(decided, PROJECT_DIR)  # a settings file that contradicts the plan is no plan
    return decided


def plan(given: dict[str, str], environ: Mapping[str, str]) -> int:
    if any(name in given for name in OF_SWEEPS):
        return _acts("sweep", "plan")(given, environ)
    return cli.print_plan(_plan(given, environ), given.get("FORMAT"))


def render(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.script import render

    if any(name in given for name in OF_SWEEPS):
        return _acts("sweep", "render")(given, environ)
    print(render(_plan(given, environ)), end="")
    return FINISHED


def _checked_plan(given: dict[str, str], environ: Mapping[str, str]) -> Plan:
    """The plan of a new run, after everything that can be refused before it is queued."""
    from launcher.planned import check_planned
    from slurm.fit import fit
    from slurm.submit import check

    decided = _plan(given, environ, run_suffix=cli.fresh_suffix())
    check(decided, environ)
    check_planned(decided)
    return fit([decided], environ)[0]


def ready(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.runtime import needed_environment

    print(needed_environment(_checked_plan(given, environ).spec))
    return FINISHED


def check(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from launcher.planned import check_planned
    from slurm.fit import refuse_lost_image
    from slurm.nodes import as_tracked, read_nodes, refuse_impossible
    from slurm.submit import check, check_environment, rehearse

    decided = _plan(given, environ, run_suffix=cli.fresh_suffix())
    check(decided, environ)
    check_planned(decided)
    refuse_lost_image(decided.spec, environ)
    groups = read_nodes(environ)
    spec, notes = as_tracked(decided.spec, groups)
    decided = replace(decided, spec=spec)
    refuse_impossible(spec, groups)
    for note in notes:
        print(f"note    {note}")
    print(f"sbatch  {rehearse(decided, environ)}")
    try:
        check_environment(decided.spec)
    except ConfigError as error:
        print(f"note    {error}, or let make submit do it")
    return FINISHED


def site(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.draft import ask

    if given:
        raise ConfigError(f"{next(iter(given))}: site takes no variables: make site > slurm/site.yaml")
    print(ask(environ), end="")
    return FINISHED


def submit(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.submit import follow_up, make_environment, submit

    decided = _checked_plan(given, environ)
    make_environment(decided.spec, environ)
    return cli.print_submitted(decided, follow_up(submit(decided, environ)))


def _acts(module: str, name: str) -> command.Verb:
    """A verb of another module, imported when it is used."""

    def verb(given: dict[str, str], environ: Mapping[str, str]) -> int:
        act = getattr(importlib.import_module(f"slurm.{module}"), name)
        return int(act(given, environ, PROJECT_DIR))

    return verb


VERBS: dict[str, command.Verb] = {
    "plan": plan,
    "render": render,
    "check": check,
    "submit": submit,
    "site": site,
    "ready": ready,
    "sweep": _acts("sweep", "sweep"),
    "sweep-ready": _acts("sweep", "ready"),
    "resume": _acts("resume", "resume"),
    **command.verbs_after(SCHEDULER, PROJECT_DIR),
}
BACKEND = command.Backend(name="slurm", verbs=VERBS)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
