"""A sweep: runs that differ in a few variables, planned, started and shown together.

    make sweep GRID="LEARNING_RATE=1e-4,2e-4 LORA=low,medium"

A member is an ordinary run, called `<sweep id>-<index>`: its own folder, plan, checkpoints and W&B run. The folder
with the sweep's own name holds sweep.json, which lists the values of its members.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.progress import how_to_open_report
from launcher.records import Run, read_run
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.other_names import variable_meant
from planner.request.variables import BY_NAME, VARIABLES, parse_given
from trainer.files import METRICS_FILE, read_json, write_whole
from trainer.flags import word
from trainer.outcome import ConfigError, UnreadableError
from trainer.sweep.trial import read_trial
from trainer.text import format_table, gib, nearest, shown

SWEEP_RECORD = "sweep.json"
MAX_MEMBERS = 256
MOST_STEPS = 2**53
PARALLEL = 4
ID_LIMIT = 63 - len(f"-{MAX_MEMBERS}")
GRID_NAMES = tuple(variable.name for variable in VARIABLES if variable.grid)
EXAMPLE = 'GRID="LEARNING_RATE=1e-4,2e-4 LORA=low,medium"'
Values = Mapping[str, str]
SpecOf = Callable[[Values], JobSpec]
PlanOf = Callable[[JobSpec], Plan]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The planned members of a sweep, before they begin."""

    sweep_id: str
    values: tuple[Values, ...]
    """The values in which each member differs, as text by variable name."""
    plans: tuple[Plan, ...]
    parallel: int
    """The most members that run at once."""
    config: Mapping[str, Any] | None = None
    """Configuration of the W&B sweep whose trials the members take."""
    chooses: str = ""
    """The parameters that W&B chooses from, as text for a terminal."""

    @property
    def folder(self) -> Path:
        spec = self.plans[0].spec
        return Path(spec.project_dir, spec.output, self.sweep_id)


def read_grid(text: str, given: Mapping[str, str]) -> tuple[Values, ...]:
    """Every combination of the listed values; the last name changes fastest.

    Raises:
        ConfigError: not NAME=value,value ..., a name that is not for grids or is also in `given`, too many members.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{error}", name="GRID", given=text, advice=f"write {EXAMPLE}") from None
    axes: dict[str, list[str]] = {}
    for axis in words:
        name, equals, listed = axis.partition("=")
        if name not in GRID_NAMES:
            other = name if name in BY_NAME else variable_meant(name.replace("-", "_").upper(), VARIABLES)
            why, near = "is unknown", f", did you mean {other}?" if other else nearest(name, GRID_NAMES)
            if other and other not in GRID_NAMES:
                is_other = f"is {other}, which " * (other != name)
                why, near = f"{is_other}is the same for all members, say it beside GRID", ""
            raise ConfigError(f"GRID: {shown(name)} {why}{near or ':'} a grid takes {', '.join(GRID_NAMES)}")
        found = listed.split(",")
        if not equals or "" in found:
            raise ConfigError(f"GRID: {shown(axis)} has no value where one is due: write {name}=value,value,...")
        if name in axes or name in given:
            where = "twice in GRID" if name in axes else "in GRID and beside it"
            raise ConfigError(f"{name} is given {where}: say it once")
        meant = [parse_given({name: value}) for value in found]
        if twice := next((value for value, one in zip(found, meant, strict=True) if meant.count(one) > 1), None):
            raise ConfigError(f"GRID: {name} lists {shown(twice)} twice, which would be the same run twice")
        axes[name] = found
    if not axes:
        raise ConfigError(f"GRID is empty: write {EXAMPLE}")
    if (count := math.prod(map(len, axes.values()))) > MAX_MEMBERS:
        raise ConfigError(f"GRID makes {count} members, at most {MAX_MEMBERS} are taken: list fewer values")
    return tuple(dict(zip(axes, combined, strict=True)) for combined in itertools.product(*axes.values()))


def plan_grid(
    given: Mapping[str, str], spec_of: SpecOf, plan_of: PlanOf, run_suffix: str | None, parallel: int | None
) -> Sweep:
    """The members of GRID, each planned separately.

    Raises:
        ConfigError: the grid or a member, which is named, cannot be planned.
    """
    common = {name: text for name, text in given.items() if name not in ("GRID", "RUN", "PARALLEL")}
    if odd := [name for name in ("SWEEP", "TRIALS") if name in common]:
        raise ConfigError(
            "is for W&B's choice, GRID for every combination", name=odd[0], given=common[odd[0]], advice="say one"
        )
    values = read_grid(given["GRID"], common)
    specs = [spec_of({**common, **own}) for own in values]
    asked = " ".join(spec.run_id for spec in specs)
    return plan_members(given, specs, values, plan_of, run_suffix, asked, parallel=parallel)


def plan_members(
    given: Mapping[str, str],
    specs: Sequence[JobSpec],
    values: Sequence[Values],
    plan_of: PlanOf,
    run_suffix: str | None,
    asked: str,
    *,
    parallel: int | None,
    **of_wandb: Any,
) -> Sweep:
    """A sweep of `specs`, which differ in `values`. Its id is RUN if given, else it is made like a run's: from the
    suffix of a new run, or from the text `asked`, so that the same words give the same id. `parallel` members run at
    once; None means as many as PARALLEL says.

    Raises:
        ConfigError: RUN is too long for a sweep, or a member, which is named, cannot be planned.
    """
    own = parse_given({name: given[name] for name in ("RUN", "PARALLEL") if name in given})
    made = f"{specs[0].name}-{run_suffix or hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    sweep_id = own.run or made
    if len(sweep_id) > ID_LIMIT:
        raise ConfigError(f"takes at most {ID_LIMIT} characters for a sweep", name="RUN", given=sweep_id)
    plans = []
    for index, (spec, differs) in enumerate(zip(specs, values, strict=True)):
        try:
            plans.append(plan_of(spec.but(run_id=f"{sweep_id}-{index}", sweep=sweep_id)))
        except ConfigError as error:
            raise ConfigError(f"member {index} ({said(differs)}): {error}") from None
    parallel = parallel or own.parallel or PARALLEL
    return Sweep(sweep_id=sweep_id, values=tuple(values), plans=tuple(plans), parallel=parallel, **of_wandb)


def check_files(plans: Sequence[Plan]) -> None:
    """`check_planned` for one plan of each group that reads the same files with the same settings, since reading
    records takes a while.

    Raises:
        ConfigError: a model without weights, settings that contradict a plan, unusable data.
    """
    from launcher.preconditions import check_planned

    unlike: dict[object, Plan] = {}
    for plan in plans:
        spec, chosen = plan.spec, plan.chosen
        shares = (chosen.label, chosen.micro_batch_size, chosen.gradient_accumulation_steps)
        unlike.setdefault((spec.model, spec.data, spec.training.config_file, *shares), plan)
    for plan in unlike.values():
        check_planned(plan)


def plan_table(sweep: Sweep) -> str:
    """A table of the members, with each one's own values and its plan."""
    names = list(dict.fromkeys(name for own in sweep.values for name in own))
    rows = [("member", *names, "configuration", "micro-batch", "accumulation", "peak", "of GiB")]
    for index, (own, plan) in enumerate(zip(sweep.values, sweep.plans, strict=True)):
        if sweep.chooses and index:
            break  # all members are alike until they have their trials
        chosen = plan.chosen
        sizes = (str(chosen.micro_batch_size), str(chosen.gradient_accumulation_steps))
        memory = (gib(chosen.estimate.peak_bytes), gib(chosen.usable_bytes))
        rows.append(
            (
                "each" if sweep.chooses else str(index),
                *(own.get(name, "-") for name in names),
                chosen.label,
                *sizes,
                *memory,
            )
        )
    count = len(sweep.plans)
    members = f"{count} member{'s' * (count > 1)}"
    heading = f"sweep  {sweep.sweep_id}: {members}, at most {min(count, sweep.parallel)} at once"
    notes = dict.fromkeys(note for plan in sweep.plans for note in plan.notes)
    chooses = [sweep.chooses, ""] if sweep.chooses else []
    lines = [heading, "", *chooses, format_table(rows), "", *(f"note   {note}" for note in notes)]
    return "\n".join(lines).rstrip()


def said(values: Values) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A sweep read from disk."""

    folder: Path
    parallel: int
    values: tuple[Values, ...]
    """The values of each member."""
    wandb: str | None
    """entity/project/id of the W&B sweep that gives the members their values."""

    @property
    def sweep_id(self) -> str:
        return self.folder.name

    def member_folder(self, index: int) -> Path:
        return self.folder.with_name(f"{self.sweep_id}-{index}")

    def own(self, index: int) -> Values:
        """The values of one member; for a W&B sweep once its trial is known. Raises ConfigError for a damaged file."""
        trial = read_trial(self.member_folder(index)) if self.wandb else None
        return {k: word(v) for k, v in trial.values.items()} if trial else self.values[index]

    def members(self) -> list[Run]:
        """The members' runs. Raises ConfigError for a damaged run.json."""
        return [read_run(self.member_folder(index)) for index in range(len(self.values))]


def write_sweep(sweep: Sweep) -> None:
    record = {"parallel": sweep.parallel, "values": sweep.values, "wandb": sweep.plans[0].spec.wandb_sweep}
    write_whole(sweep.folder / SWEEP_RECORD, json.dumps(record, indent=2) + "\n")


def read_sweep(folder: Path) -> Recorded | None:
    """The sweep of that folder; None when it holds none. Raises ConfigError when its record is damaged or cannot be
    read."""
    path = folder / SWEEP_RECORD
    try:
        if not path.is_file():
            return None
        record = read_json(path)
        values = tuple({str(name): str(value) for name, value in own.items()} for own in record["values"])
        parallel = record["parallel"]
        if not values or len(values) > MAX_MEMBERS or type(parallel) is not int or parallel < 1:
            raise ValueError("no members" if not values else "too many members, or none at once")
    except OSError as error:
        raise UnreadableError.made(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not what was written ({error}): remove {folder}") from None
    path = record.get("wandb")
    return Recorded(folder=folder, parallel=parallel, values=values, wandb=str(path) if path else None)


def read_result(folder: Path) -> tuple[float | None, int] | None:
    """(held-out action accuracy, last step) of a run that has ended; None before that, and for a file with impossible
    values."""
    try:
        found = read_json(folder / METRICS_FILE)
        accuracy = found["after"]["accuracy"] if found["after"] else None
        step = _number(found["history"][-1]["step"], most=MOST_STEPS)
        if step != int(step):
            raise ValueError("a part of a step")
        return (None if accuracy is None else float(_number(accuracy, most=1))), int(step)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _number(value: object, *, most: int) -> float:
    """A number from 0 to `most`. Raises ValueError for other JSON values: true, text, NaN, 1e400, hundreds of
    digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"no number from 0 to {most}")
    return value


def results_table(sweep: Recorded, states: Sequence[tuple[str, str]], todo: str) -> str:
    """A table of the members with their (state, last step), the best first and those without a score last; then what
    to type."""
    values = [sweep.own(index) for index in range(len(sweep.values))]
    names = list(dict.fromkeys(name for own in values for name in own))
    results = [read_result(sweep.member_folder(index)) for index in range(len(sweep.values))]
    scored = [(result[0] if result else None, index) for index, result in enumerate(results)]
    scored.sort(key=lambda found: (found[0] is None, -(found[0] or 0), found[1]))
    rows = [("member", *names, "state", "step", "action accuracy")]
    for score, index in scored:
        own = (values[index].get(name, "-") for name in names)
        shown_score = "-" if score is None else f"{score:.1%}"
        rows.append((sweep.member_folder(index).name, *own, *states[index], shown_score))
    best = sweep.member_folder(scored[0][1])
    found = [] if scored[0][0] is None else [f"best   {how_to_open_report(best)}"]
    found += [f"next   {todo}"] if todo else []
    return "\n".join([f"sweep  {sweep.sweep_id}", "", format_table(rows), "", *found]).rstrip()
