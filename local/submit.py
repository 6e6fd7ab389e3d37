"""Plans -> runs on this machine, one after another, each a process with a record, a lock and a log. An interrupted
run or sweep (exit code 75) continues when the same command is given again with its RUN."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher.cli import batch_text, command_words
from launcher.grid import PlanOf, Sweep, check_files, read_result, read_sweep, results_table, said, write_sweep
from launcher.records import finished, read_run, refuse_spoilt, run_record, write_record
from launcher.scheduler import Batch, Words
from launcher.trials import begin, check_key
from local.machine import attempt
from local.render import environment
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.variables import DEFAULT_OUTPUT, VARIABLES
from trainer.files import RECORD_NAME
from trainer.flags import word
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, RUN_AGAIN, ConfigError

WORDS = {FINISHED: "finished", FAILED: "failed", RUN_AGAIN: "stopped", BAD_CONFIG: "refused"}
Act = Callable[[Plan], int]
"""One attempt at a run, in a process of its own; returns the exit code."""


def ready(batch: Batch, environ: Words, plan_of: PlanOf, *, again: bool) -> Batch:
    """A Target's `ready`. A run begun with the same request continues, so its folder may exist. Raises ConfigError."""
    if batch.sweep:
        batch = _sweep_as_begun(batch, batch.sweep, environ, plan_of)
        check_key(batch.sweep or Sweep(sweep_id="", values=(), plans=(), parallel=1), environ)
    for plan in batch.plans:
        if not (batch.sweep and finished(folder_of(plan))):
            check_folder(plan, again=again)
    check_files(batch.plans)
    return batch


def _sweep_as_begun(batch: Batch, sweep: Sweep, environ: Words, plan_of: PlanOf) -> Batch:
    """The batch with the W&B sweep that its folder records, if any. Raises ConfigError when the folder holds
    something else."""
    begun = read_sweep(sweep.folder)
    if begun and begun.wandb:
        sweep = begin(sweep, environ, plan_of, path=begun.wandb)
    if os.path.lexists(sweep.folder) and not (begun and begun.values == sweep.values):
        raise ConfigError(
            f"{sweep.folder} is not of this sweep", name="RUN", given=sweep.sweep_id, advice="give another RUN"
        )
    return Batch(plans=sweep.plans, sweep=sweep)


def folder_of(plan: Plan) -> Path:
    return Path(plan.spec.project_dir, plan.spec.run_dir)


def check_folder(plan: Plan, *, again: bool = False) -> None:
    """Raises ConfigError unless the run is new, or the same request was interrupted before its end. With `again` the
    run continues with its recorded request and the changes to it, so these are not compared."""
    folder = folder_of(plan)
    if not os.path.lexists(folder):
        return
    another = f"give another RUN, or none for a new one, or remove {folder}"
    refuse_spoilt(folder, "the same command")
    if finished(folder):
        raise ConfigError(f"is finished: {another}", name="RUN", given=plan.spec.run_id)
    if not (folder / RECORD_NAME).is_file():
        raise ConfigError(f"{folder} exists and is no run: {another}", name="RUN", given=plan.spec.run_id)
    if again:
        return
    asked = json.loads(json.dumps(run_record(plan)["spec"]))
    recorded = read_run(folder).record["spec"]
    if changed := [key for key in asked if asked[key] != recorded.get(key)]:
        names = {variable.field: variable.name for variable in VARIABLES}
        told = [f"{names[key]}={word(recorded.get(key))}, not {word(asked[key])}" for key in changed if key in names]
        raise ConfigError(
            f"was begun with {'; '.join(told) or f'another {changed[0]}'}",
            name="RUN",
            given=plan.spec.run_id,
            advice=f"ask for the same, or {another}",
        )


def submit(batch: Batch, act: Act, verb: str = "run") -> int:
    """Run whatever is not finished yet; returns 0 when all runs are finished, 75 after an interruption, else the
    worst code."""
    if batch.sweep is None:
        return carry_out(batch.plans[0], act, verb)
    sweep = batch.sweep
    print(batch_text(batch), flush=True)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_sweep(sweep)
    codes: dict[int, int] = {}
    for index, plan in enumerate(batch.plans):
        if finished(folder_of(plan)):
            codes[index] = FINISHED
            continue
        print(f"\nmember {index} of {len(batch.plans)} {said(sweep.values[index])}\n", flush=True)
        codes[index] = carry_out(plan, act, verb)
        if codes[index] in (RUN_AGAIN, BAD_CONFIG):
            break
    print(f"\n{_results(sweep, codes)}", flush=True)
    return RUN_AGAIN if RUN_AGAIN in codes.values() else max(codes.values())


def _results(sweep: Sweep, codes: Mapping[int, int]) -> str:
    states = []
    for index, plan in enumerate(sweep.plans):
        result = read_result(folder_of(plan))
        step = f"{result[1]}/{plan.spec.training.max_steps}" if result else "-"
        states.append((WORDS.get(codes.get(index, -1), "-"), step))
    recorded = read_sweep(sweep.folder)
    assert recorded
    todo = f"the same command with RUN={sweep.sweep_id}, or --run {sweep.sweep_id} (those that are unfinished)"
    if all(codes.get(index) == FINISHED for index in range(len(sweep.plans))):
        todo = ""
    return results_table(recorded, states, todo)


def carry_out(plan: Plan, act: Act, verb: str = "run") -> int:
    """Print the plan, record it, and make an attempt; returns the exit code of `act`, after printing what to do next.
    `verb` is the verb that begins such runs.

    Raises:
        ConfigError: another process of this machine is working on this run.
    """
    folder = folder_of(plan)
    folder.mkdir(parents=True, exist_ok=True)
    with attempt.lock(folder, plan.spec.run_id):
        print(f"{batch_text(Batch(plans=(plan,)))}\nrun    {plan.spec.run_id}\n", flush=True)
        begun = read_run(folder).record if (folder / RECORD_NAME).is_file() else None
        write_record(folder, run_record(plan, begun))
        code = attempt.carry_out(folder, verb, lambda: act(plan))
    if code == RUN_AGAIN:
        print(f"to go on: {_goes_on(plan.spec, verb)}", flush=True)
    elif code == FAILED:
        print(f"what went wrong stands above; what there is lies in {folder}", flush=True)
    return code


def _goes_on(spec: JobSpec, verb: str) -> str:
    """The command that goes on with a stopped run. make resume takes only runs that make run began."""
    if verb != "run" or spec.sweep:
        name = spec.sweep or spec.run_id
        return f"the same command with RUN={name} (or --run {name})"
    own = {} if spec.output == DEFAULT_OUTPUT else {"OUTPUT": spec.output}
    return f"make resume TO=local {command_words(own, spec.run_id)}"


def supervised(batch: Batch, environ: Words, project_dir: Path) -> Act:
    """A function that makes an attempt by the supervisor, in the training environment, which is made if it is
    missing."""
    python = _training_python(batch, environ, project_dir)

    def act(plan: Plan) -> int:
        os.chdir(project_dir)
        words = [python, "-m", "trainer.supervise", "--", *plan.launch.words()]
        os.execve(python, words, {**environ, **environment(plan)})

    return act


def _training_python(batch: Batch, environ: Words, project_dir: Path) -> str:
    """This Python if it has torch, else that of the training environment. Raises ConfigError when it could not be
    made."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    told = {"TRAINYARD_DEVICE": batch.spec.resources.device, **environ}
    made = subprocess.run(["sh", "make-env.sh", "train"], cwd=project_dir, env=told, stdout=subprocess.PIPE, text=True)
    if made.returncode:
        raise ConfigError(
            f"the job's environment could not be made: make env DEVICE={batch.spec.resources.device} tries again"
        )
    return str(project_dir / made.stdout.strip())
