"""`make run`: a job on this machine, planned and supervised like any scheduler's, without one.

An interrupted run (exit code 75) goes on when the same command is given again with its RUN.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.cli import fresh_suffix, print_plan, screen
from local.scheduler import SCHEDULER
from planner.job import JobSpec, Plan
from planner.request.resolve import resolve
from planner.request.variables import OF_SWEEPS, VARIABLES, help_text, parse_given, read_given, refuse_untaken
from trainer.commands import training_command
from trainer.flags import answer_help, word
from trainer.outcome import FAILED, FINISHED, RUN_AGAIN, ConfigError
from trainer.text import GIB, shown

# What `validate data` changes in a request, and what find-batch-size does.
OF_LENGTHS = ("length_source", "max_length", "supervised_tokens", "images_per_sample")
OF_BATCH = ("measured_with", "measured_batch", "measured_peak_gib")
# What a single verb takes here.
ONLY = {"IMAGE": "docker-run", "BINDS": "docker-run", "FORMAT": "plan"}
PROJECT_DIR = Path(__file__).resolve().parent.parent
USAGE = """usage: python -m local run | submit | ready | plan | render [--gpus 2 | --gpus=2 ...], or make run GPUS=2 ...

Plans for this machine and trains on it, supervised as on a cluster; submit is the same. ready only checks that it
could, plan explains the choice, render prints the command. Settings that are not here: --config-file, documented by
python -m trainer config --help."""


def prepare(argv: Sequence[str], verb: str = "run") -> Plan:
    """The plan for this machine, with everything checked that can be before a file is written.

    Raises:
        ConfigError: the request cannot work here.
    """
    from launcher.planned import check_planned

    plan = _planned(argv, verb)
    check_folder(plan)
    check_planned(plan)
    return plan


def request_here(argv: Sequence[str], verb: str = "run") -> JobSpec:
    """What is asked of this machine. Raises ConfigError for what it cannot do."""
    given = given_here(argv, verb)
    if odd := [name for name in OF_SWEEPS if name in given]:
        raise ConfigError(f"{odd[0]}={given[odd[0]]}: only make sweep takes it, leave it out for run")
    spec = resolve(given, project_dir=PROJECT_DIR, environ=os.environ, run_suffix=fresh_suffix())
    check_machine(spec)
    return spec


def given_here(argv: Sequence[str], verb: str = "run") -> dict[str, str]:
    """What was asked for, with this machine's cores and memory where nothing was said of them, or MEM=none. Raises
    ConfigError for what says nothing to `verb` on this machine, and for more memory than there is."""
    given = read_given(argv, os.environ)
    refuse_untaken({name: text for name, text in given.items() if name not in OF_SWEEPS}, SCHEDULER.name)
    if odd := [name for name in given if ONLY.get(name, verb) != verb]:
        said = f"{odd[0]}={shown(given[odd[0]])}"
        raise ConfigError(f"{said}: on this machine only {ONLY[odd[0]]} takes it, leave it out for {verb}")
    given.setdefault("CPUS", str(os.cpu_count()))  # more threads than cores would only wait for each other
    memory = max(1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // GIB)
    asked = parse_given({"MEM": given["MEM"]})["MEM"] if "MEM" in given else None
    if asked is not None and int(str(asked)) > memory:
        raise ConfigError(f"MEM={given['MEM']}: this machine has {memory} GiB: leave it out")
    return {**given, "MEM": str(memory if asked is None else asked)}


def check_machine(spec: JobSpec) -> None:
    """Raises ConfigError when the request is for what this machine has not."""
    if spec.nodes > 1:
        raise ConfigError(f"NODES={spec.nodes}: run uses this machine only; make submit takes several")
    if spec.runtime != "none":
        raise ConfigError(f"RUNTIME={spec.runtime} is for clusters: run uses this checkout's environment, leave it out")
    if spec.device == "cuda" and not shutil.which("nvidia-smi"):
        raise ConfigError("DEVICE=cuda, and this machine has no NVIDIA driver: say DEVICE=cpu, or submit")


def as_begun(spec: JobSpec) -> JobSpec:
    """`spec` with the measured micro-batch that its run was begun with, and the lengths where they keep the same
    records: measured only now, or no longer, the run goes on as it was planned.

    Raises:
        ConfigError: the run's record cannot be read.
    """
    from launcher.recorded import read_spec
    from launcher.records import read_run
    from trainer.files import RECORD_NAME

    folder = PROJECT_DIR / spec.run_dir
    if not (folder / RECORD_NAME).is_file():
        return spec
    begun = read_spec(read_run(folder).record["spec"], project_dir=PROJECT_DIR, source=str(folder / RECORD_NAME))
    longest = {begun.length_source: begun.max_length, spec.length_source: spec.max_length}
    same = begun.max_length == spec.max_length or longest.get("measured", math.inf) <= longest.get("MAX_LENGTH", 0)
    return replace(spec, **{name: getattr(begun, name) for name in (*OF_BATCH, *(OF_LENGTHS if same else ()))})


def check_folder(plan: Plan) -> None:
    """Raises ConfigError unless the run is new, or the same request was interrupted before its end."""
    from launcher.records import finished, read_run, refuse_spoilt, run_record
    from trainer.files import RECORD_NAME

    folder = PROJECT_DIR / plan.spec.run_dir
    if not os.path.lexists(folder):
        return
    another = f"give another RUN, or none for a new one, or remove {folder}"
    refuse_spoilt(folder, "the same command")
    if finished(folder):
        raise ConfigError(f"RUN={plan.spec.run_id} is finished: {another}")
    if not (folder / RECORD_NAME).is_file():
        raise ConfigError(f"RUN={plan.spec.run_id}: {folder} exists and is no run: {another}")
    asked = json.loads(json.dumps(run_record(plan)["spec"]))
    recorded = read_run(folder).record["spec"]
    if changed := [key for key in asked if asked[key] != recorded.get(key)]:
        names = {variable.field: variable.name for variable in VARIABLES}
        told = [f"{names[key]}={word(recorded.get(key))}, not {word(asked[key])}" for key in changed if key in names]
        raise ConfigError(
            f"RUN={plan.spec.run_id} was begun with {'; '.join(told) or f'another {changed[0]}'}: ask for the same, or "
            f"{another}"
        )


def run(argv: Sequence[str]) -> int:
    """Plan for this machine and train on it; returns the supervisor's exit code."""
    answer_help(argv, help_text(USAGE))
    plan = prepare(argv)
    return carry_out(plan, lambda: train(plan))


def train(plan: Plan) -> int:
    """One attempt, in this process's place: its signals and environment become the supervisor's."""
    from trainer import supervise

    os.chdir(PROJECT_DIR)
    os.environ.update(plan.env)
    return supervise.main(["--", *plan.launch.words()])


def carry_out(plan: Plan, act: Callable[[], int], verb: str = "run") -> int:
    """Say what was planned, record it, and try; returns the exit code of `act`, having said what to do next. `verb`
    begins such runs.

    Raises:
        ConfigError: another process of this machine is at this run.
    """
    from launcher.records import run_record, write_record
    from local import attempt
    from planner.table import plan_summary

    folder = PROJECT_DIR / plan.spec.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    with attempt.lock(folder, plan.spec.run_id):
        print(f"{plan_summary(plan, screen())}\nrun    {plan.spec.run_id}\n", flush=True)
        write_record(folder, run_record(plan))
        code = attempt.carry_out(folder, verb, act)
    if code == RUN_AGAIN:
        run_id = plan.spec.sweep or plan.spec.run_id
        print(f"to go on: the same command with RUN={run_id} (or --run {run_id})", flush=True)
    elif code == FAILED:
        print(f"what went wrong stands above; what there is lies in {folder}", flush=True)
    return code


def resume(given: dict[str, str], environ: Mapping[str, str]) -> int:
    """Go on with the run that RUN names, from the request in its run.json."""
    from launcher import verbs
    from launcher.planned import check_planned
    from launcher.recorded import read_spec
    from planner.choose import choose
    from trainer.files import RECORD_NAME

    _, found = verbs.find(SCHEDULER, given, environ, PROJECT_DIR, only=True)
    run = found.runs[0]
    if found.again:
        raise ConfigError(f"{found.text} was not begun by make run: {found.again} goes on with it")
    spec = read_spec(run.record["spec"], project_dir=PROJECT_DIR, source=str(run.folder / RECORD_NAME))
    if (PROJECT_DIR / spec.run_dir).resolve() != run.folder.resolve():
        raise ConfigError(f"run {run.run_id} was begun in {spec.run_dir}, and lies in {run.folder}: move it back")
    check_machine(spec)
    plan = choose(spec, here=True)
    check_folder(plan)
    check_planned(plan)
    return carry_out(plan, lambda: train(plan))


def plan(argv: Sequence[str]) -> int:
    """Explain what `run` would do."""
    answer_help(argv, help_text(USAGE))
    return print_plan(_told(argv, "plan"), read_given(argv, os.environ).get("FORMAT"))


def render(argv: Sequence[str]) -> int:
    """Print the command that `run` would start, for a shell in the checkout."""
    answer_help(argv, help_text(USAGE))
    planned = _told(argv, "render")
    settings = [f"{name}={value}" for name, value in planned.env]
    print(shlex.join(["env", *settings]), training_command("trainer.supervise", "--", *planned.launch.words()))
    return FINISHED


def _planned(argv: Sequence[str], verb: str) -> Plan:
    from planner.choose import choose

    return choose(as_begun(request_here(argv, verb)), here=True)


def _told(argv: Sequence[str], verb: str) -> Plan:
    """A settings file that contradicts the plan is no plan. Raises ConfigError."""
    from planner.request.elsewhere import told_by

    plan = _planned(argv, verb)
    told_by(plan, PROJECT_DIR)
    return plan


def ready(argv: Sequence[str]) -> int:
    """Check what `run` would, for make: it builds an environment only for a request that can work."""
    answer_help(argv, help_text(USAGE))
    prepare(argv)
    return FINISHED
