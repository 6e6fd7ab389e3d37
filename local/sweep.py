"""`make sweep` on a machine without Slurm: the members one after another, each planned and supervised as `make run`.

The same command with the sweep's RUN goes on where it was interrupted; members that are finished stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from launcher.cli import fresh_suffix
from launcher.grid import Sweep, check_files, plan_table, read_result, read_sweep, results_table, said, write_sweep
from launcher.records import finished
from launcher.trials import begin, check_key, plan_sweep
from local.run import PROJECT_DIR, as_begun, carry_out, check_folder, check_machine, given_here, train
from planner.choose import choose
from planner.job import Plan
from planner.request.variables import help_text
from trainer.flags import answer_help
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, RUN_AGAIN, ConfigError

USAGE = """usage: python -m local sweep | sweep-ready --grid "LEARNING_RATE=1e-4,2e-4 LORA=low,medium" [--gpus 1 ...]

Trains every combination on this machine, one after another, and shows the best first; --run goes on with a sweep that
was interrupted. Without --grid W&B chooses the values of --trials runs from --sweep."""
WORDS = {FINISHED: "finished", FAILED: "failed", RUN_AGAIN: "stopped", BAD_CONFIG: "refused"}


def prepare(argv: Sequence[str]) -> Sweep:
    """The members, with everything checked that can be before a file is written.

    Raises:
        ConfigError: the request cannot work here.
    """
    given = given_here(argv, "sweep")
    if "PARALLEL" in given:
        raise ConfigError(f"PARALLEL={given['PARALLEL']}: on this machine members run one after another, leave it out")
    given["PARALLEL"] = "1"
    sweep = plan_sweep(given, project_dir=PROJECT_DIR, environ=os.environ, run_suffix=fresh_suffix())
    begun = read_sweep(sweep.folder)
    if begun and begun.wandb:
        sweep = begin(sweep, os.environ, path=begun.wandb)
    if os.path.lexists(sweep.folder) and not (begun and begun.values == sweep.values):
        raise ConfigError(f"RUN={sweep.sweep_id}: {sweep.folder} is not of this sweep: give another RUN")
    if begun:
        sweep = replace(sweep, plans=tuple(_as_begun(sweep, plan) for plan in sweep.plans))
    for plan in sweep.plans:
        if not _finished(sweep, plan):
            check_machine(plan.spec)
            check_folder(plan)
    check_key(sweep, os.environ)
    check_files(sweep.plans)
    return sweep


def run(argv: Sequence[str]) -> int:
    """Run what is not finished yet; returns 0 when all are, 75 when it was interrupted, else the worst code."""
    answer_help(argv, help_text(USAGE))
    sweep = begin(prepare(argv), os.environ)
    print(plan_table(sweep), flush=True)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_sweep(sweep)
    codes: dict[int, int] = {}
    for index, plan in enumerate(sweep.plans):
        if _finished(sweep, plan):
            codes[index] = FINISHED
            continue
        print(f"\nmember {index} of {len(sweep.plans)} {said(sweep.values[index])}\n", flush=True)
        codes[index] = carry_out(plan, partial(train, plan))
        if codes[index] in (RUN_AGAIN, BAD_CONFIG):
            break
    states = []
    for index, plan in enumerate(sweep.plans):
        result = read_result(sweep.folder.with_name(plan.spec.run_id))
        step = f"{result[1]}/{plan.spec.max_steps}" if result else "-"
        states.append((WORDS.get(codes.get(index, -1), "-"), step))
    recorded = read_sweep(sweep.folder)
    assert recorded
    todo = f"the same command with RUN={sweep.sweep_id}, or --run {sweep.sweep_id} (those that are unfinished)"
    if all(codes.get(index) == FINISHED for index in range(len(sweep.plans))):
        todo = ""
    print(f"\n{results_table(recorded, states, todo)}", flush=True)
    return RUN_AGAIN if RUN_AGAIN in codes.values() else max(codes.values())


def ready(argv: Sequence[str]) -> int:
    """Check what `run` would, for make."""
    answer_help(argv, help_text(USAGE))
    prepare(argv)
    return FINISHED


def _as_begun(sweep: Sweep, plan: Plan) -> Plan:
    """An unfinished member goes on as it was planned, whatever was measured since. Raises ConfigError."""
    spec = plan.spec if _finished(sweep, plan) else as_begun(plan.spec)
    return plan if spec == plan.spec else choose(spec)


def _finished(sweep: Sweep, plan: Plan) -> bool:
    return finished(sweep.folder.with_name(plan.spec.run_id))
