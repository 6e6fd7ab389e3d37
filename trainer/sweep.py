"""A sweep: runs that differ in a few variables, planned, started and looked at together.

    make sweep GRID="LEARNING_RATE=1e-4,2e-4 LORA=low,medium"

A member is a run like any other, called `<sweep id>-<index>`: its own folder, plan, checkpoints and W&B run. The
folder called as the sweep itself holds sweep.json, which says what its members differ in.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.job import Plan
from trainer.outcome import ConfigError
from trainer.request import BY_NAME, NO_SITE, parse_given, resolve
from trainer.runs import Run, read_run
from trainer.site import Site
from trainer.text import format_table, gib
from trainer.values import nearest, shown

SWEEP_RECORD = "sweep.json"
MAX_MEMBERS = 256
PARALLEL = 4
ID_LIMIT = 63 - len(f"-{MAX_MEMBERS}")
# What decides on the training alone. Members of an array share everything that a scheduler is asked for.
GRID_NAMES = (
    *("LEARNING_RATE", "LORA", "EFFECTIVE_BATCH", "MAX_STEPS", "MAX_LENGTH", "SEED", "QUANTIZATION"),
    *("CONFIG_FILE", "CONFIG", "MODEL", "DATA"),
)
EXAMPLE = 'GRID="LEARNING_RATE=1e-4,2e-4 LORA=low,medium"'
Values = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Members that are planned and not yet begun."""

    sweep_id: str
    values: tuple[Values, ...]
    """What each member has for itself, as text by variable name."""
    plans: tuple[Plan, ...]
    parallel: int
    """Members that run at once, at most."""

    @property
    def folder(self) -> Path:
        spec = self.plans[0].spec
        return Path(spec.project_dir, spec.output, self.sweep_id)


def read_grid(text: str, given: Mapping[str, str]) -> tuple[Values, ...]:
    """Every combination of the listed values; the last name changes fastest.

    Raises:
        ConfigError: not NAME=value,value ..., a name that is not for grids or `given` beside it, too many members.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"GRID={shown(text)}: {error}: write {EXAMPLE}") from None
    axes: dict[str, list[str]] = {}
    for word in words:
        name, equals, listed = word.partition("=")
        if name not in GRID_NAMES:
            why = "is the same for all members, say it beside GRID" if name in BY_NAME else "is unknown"
            near = "" if name in BY_NAME else nearest(name, GRID_NAMES)
            raise ConfigError(f"GRID: {shown(name)} {why}{near or ':'} a grid takes {', '.join(GRID_NAMES)}")
        found = listed.split(",")
        if not equals or "" in found:
            raise ConfigError(
                f"GRID: {shown(word)} has no value where one is due: write {name}=value,value,..."
            )
        if name in axes or name in given:
            where = "twice in GRID" if name in axes else "in GRID and beside it"
            raise ConfigError(f"{name} is given {where}: say it once")
        if twice := next((value for value in found if found.count(value) > 1), None):
            raise ConfigError(f"GRID: {name} lists {shown(twice)} twice, which would be the same run twice")
        for value in found:
            parse_given({name: value})
        axes[name] = found
    if not axes:
        raise ConfigError(f"GRID is empty: write {EXAMPLE}")
    if (count := math.prod(map(len, axes.values()))) > MAX_MEMBERS:
        raise ConfigError(f"GRID makes {count} members, at most {MAX_MEMBERS} are taken: list fewer values")
    return tuple(dict(zip(axes, combined, strict=True)) for combined in itertools.product(*axes.values()))


def plan_grid(
    given: Mapping[str, str],
    *,
    project_dir: Path,
    environ: Mapping[str, str],
    run_suffix: str | None = None,
    site: Site = NO_SITE,
) -> Sweep:
    """The members of GRID, each planned on its own. The sweep's id is RUN if given, else made as a run's is.

    Raises:
        ConfigError: the grid or a member, which is named, cannot be planned.
    """
    from accelerate_configs.choose import choose

    common = {name: text for name, text in given.items() if name not in ("GRID", "RUN")}
    sweep_id = str(parse_given({"RUN": given["RUN"]})["RUN"]) if "RUN" in given else ""
    if len(sweep_id) > ID_LIMIT:
        raise ConfigError(f"RUN={shown(sweep_id)}: takes at most {ID_LIMIT} characters for a sweep")
    values = read_grid(given["GRID"], common)
    specs = [
        resolve({**common, **own}, project_dir=project_dir, environ=environ, site=site) for own in values
    ]
    digest = hashlib.sha256(" ".join(spec.run_id for spec in specs).encode()).hexdigest()[:8]
    sweep_id = sweep_id or f"{specs[0].name}-{run_suffix or digest}"
    plans = []
    for index, (spec, own) in enumerate(zip(specs, values, strict=True)):
        try:
            plans.append(choose(replace(spec, run_id=f"{sweep_id}-{index}", sweep=sweep_id)))
        except ConfigError as error:
            raise ConfigError(f"member {index} ({said(own)}): {error}") from None
    parallel = parse_given({"PARALLEL": given.get("PARALLEL", str(PARALLEL))})["PARALLEL"]
    return Sweep(sweep_id=sweep_id, values=values, plans=tuple(plans), parallel=int(str(parallel)))


def check_members(sweep: Sweep) -> None:
    """Everything that can be found wrong with new members before a file is written. Raises ConfigError."""
    for folder in (sweep.folder, *(sweep.folder.with_name(plan.spec.run_id) for plan in sweep.plans)):
        if os.path.lexists(folder):
            raise ConfigError(
                f"RUN={sweep.sweep_id}: {folder} exists: give another RUN, or none for a new one"
            )
    check_files(sweep.plans)


def check_files(plans: Sequence[Plan]) -> None:
    """`check_planned` of one of those that read the same files and are told the same: reading records takes a while.

    Raises:
        ConfigError: a model without weights, settings that contradict a plan, unusable data.
    """
    from trainer.planned import check_planned

    unlike: dict[object, Plan] = {}
    for plan in plans:
        spec, chosen = plan.spec, plan.chosen
        shares = (chosen.label, chosen.micro_batch_size, chosen.gradient_accumulation_steps)
        unlike.setdefault((spec.model, spec.data, spec.config_file, *shares), plan)
    for plan in unlike.values():
        check_planned(plan)


def plan_table(sweep: Sweep) -> str:
    """The members, what each has for itself and how it will run."""
    names = list(dict.fromkeys(name for own in sweep.values for name in own))
    rows = [("member", *names, "configuration", "micro-batch", "accumulation", "peak", "of GiB")]
    for index, (own, plan) in enumerate(zip(sweep.values, sweep.plans, strict=True)):
        chosen = plan.chosen
        sizes = (str(chosen.micro_batch_size), str(chosen.gradient_accumulation_steps))
        memory = (gib(chosen.estimate.peak_bytes), gib(chosen.usable_bytes))
        rows.append((str(index), *(own.get(name, "-") for name in names), chosen.label, *sizes, *memory))
    count = len(sweep.plans)
    heading = f"sweep  {sweep.sweep_id}: {count} members, at most {min(count, sweep.parallel)} at once"
    notes = dict.fromkeys(note for plan in sweep.plans for note in plan.notes)
    return "\n".join([heading, "", format_table(rows), "", *(f"note   {note}" for note in notes)]).rstrip()


def said(values: Values) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A sweep that lies on disk."""

    folder: Path
    parallel: int
    values: tuple[Values, ...]
    """By member."""

    @property
    def sweep_id(self) -> str:
        return self.folder.name

    def member_folder(self, index: int) -> Path:
        return self.folder.with_name(f"{self.sweep_id}-{index}")

    def members(self) -> list[Run]:
        """Raises ConfigError when a run.json is not what was written."""
        return [read_run(self.member_folder(index)) for index in range(len(self.values))]


def write_sweep(sweep: Sweep) -> None:
    record = {"parallel": sweep.parallel, "values": sweep.values}
    (sweep.folder / SWEEP_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_sweep(folder: Path) -> Recorded | None:
    """The sweep of that folder; None when it holds none. Raises ConfigError when its record was spoilt."""
    path = folder / SWEEP_RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        values = tuple({str(name): str(value) for name, value in own.items()} for own in record["values"])
        parallel = record["parallel"]
        if not values or len(values) > MAX_MEMBERS or type(parallel) is not int or parallel < 1:
            raise ValueError("no members" if not values else "too many members, or none at once")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not what was written ({error}): remove {folder}") from None
    return Recorded(folder=folder, parallel=parallel, values=values)


def accuracy(folder: Path) -> float | None:
    """A finished run's action accuracy on the records held out; None before there is one."""
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["after"]["accuracy"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, float) else None


def results_table(sweep: Recorded, states: Sequence[tuple[str, str]]) -> str:
    """Members with their (state, last step), the best first and those without a score last."""
    names = list(dict.fromkeys(name for own in sweep.values for name in own))
    scored = [(accuracy(sweep.member_folder(index)), index) for index in range(len(sweep.values))]
    scored.sort(key=lambda found: (found[0] is None, -(found[0] or 0), found[1]))
    rows = [("member", *names, "state", "step", "action accuracy")]
    for score, index in scored:
        own = (sweep.values[index].get(name, "-") for name in names)
        shown_score = "-" if score is None else f"{score:.1%}"
        rows.append((sweep.member_folder(index).name, *own, *states[index], shown_score))
    best = sweep.member_folder(scored[0][1]) / "report.html"
    found = [] if scored[0][0] is None else [f"best   open {shlex.quote(str(best))}"]
    return "\n".join([f"sweep  {sweep.sweep_id}", "", format_table(rows), "", *found]).rstrip()
