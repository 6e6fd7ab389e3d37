"""A W&B sweep on the launch side: reads and checks its YAML, and makes one plan that suits every trial. W&B chooses a
trial's values when a member of the array asks for them, so memory is planned for the largest rank, and the
micro-batch is fixed: a trial's batch is the micro-batch times its accumulation times the GPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.grid import PlanOf, SpecOf, Sweep, plan_grid, plan_members
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.variables import BY_NAME, OF_SWEEPS, parse_given
from trainer.config import TrainConfig
from trainer.env_file import read_env_file
from trainer.flags import convert
from trainer.outcome import ConfigError
from trainer.placeholder import NOT_FILLED_IN, is_placeholder
from trainer.sweep.trial import ACCUMULATION, PARAMETERS, RANK
from trainer.sweep.wandb_service import KEY, create_sweep, find_sweep
from trainer.text import format_table, nearest, shown
from trainer.translate import setting_of
from trainer.yaml_file import Malformed, read_yaml

DEFAULT_SWEEP = "wandb_sweep.yaml"
TRIALS = 12
USUAL_METRIC = {"name": "loss"}
METHODS, GOALS = ("bayes", "grid", "random"), ("minimize", "maximize")
TAKES = f"what W&B takes for a sweep, as in {DEFAULT_SWEEP}"


def plan_sweep(
    given: Mapping[str, str],
    *,
    project_dir: Path,
    environ: Mapping[str, str],
    run_suffix: str | None = None,
    spec_of: SpecOf,
    plan_of: PlanOf,
    parallel: int | None = None,
) -> Sweep:
    """The members of GRID; without GRID, TRIALS members for the sweep of SWEEP, a file or the id of a sweep at W&B.
    `spec_of` turns the given variables into a request, `plan_of` a request into a plan.

    Raises:
        ConfigError: the sweep asks for something that cannot be planned, or no plan fits a member.
    """
    if "GRID" in given:
        return plan_grid(given, spec_of, plan_of, run_suffix, parallel)
    asked = parse_given({name: given[name] for name in ("SWEEP", "TRIALS") if name in given})
    source = asked.sweep or DEFAULT_SWEEP
    path, config = None, {}
    file, is_id = project_dir / source, re.fullmatch(r"([\w.-]+/){0,2}[\w-]+", source)
    if file.is_file() or (file.exists() and not is_id):
        config = _read_config(file, source)
    elif is_id:
        path, config = find_sweep(source, service_environ(project_dir, environ))
    else:
        raise ConfigError("no such file, and no id of a sweep as entity/project/id", name="SWEEP", given=source)
    parameters = check_config(config, source)
    for name in given:
        if (setting := BY_NAME[name].setting) in parameters:
            raise ConfigError(f"{name} is given, and {source} chooses {setting}: say it once")
    common = {name: text for name, text in given.items() if name not in (*OF_SWEEPS, "RUN")}
    spec = spec_of({**common, **_for_all(spec_of(common), parameters)})
    plan = plan_of(spec.but(wandb_sweep=path))
    _check_micro_batch(plan, parameters)
    count = asked.trials or TRIALS
    return plan_members(
        given, [plan.spec] * count, [{}] * count, plan_of, run_suffix, f"{spec.run_id} {config}",
        parallel=parallel, config=config, chooses=_parameters_table(config, source),
    )  # fmt: skip


def begin(sweep: Sweep, environ: Mapping[str, str], plan_of: PlanOf, *, path: str | None = None) -> Sweep:
    """The sweep in the form that its jobs need: with the W&B sweep at `path`, else with one that is now made from the
    file. `plan_of` plans a member.

    Raises:
        ConfigError: there is no API key, or it is not accepted.
        ServiceError: W&B could not be asked.
    """
    specs = [plan.spec for plan in sweep.plans]
    if sweep.config is None or specs[0].wandb_sweep:
        return sweep
    path = path or create_sweep(sweep.config, service_environ(Path(specs[0].project_dir), environ))
    return replace(sweep, plans=tuple(plan_of(spec.but(wandb_sweep=path)) for spec in specs))


def check_key(sweep: Sweep, environ: Mapping[str, str]) -> None:
    """Raises ConfigError when the members will ask W&B, but .env and `environ` hold no key."""
    if not sweep.config:
        return
    key = service_environ(Path(sweep.plans[0].spec.project_dir), environ).get(KEY, "")
    if not key or is_placeholder(key):
        seen = f" ({KEY} {NOT_FILLED_IN})" if key else ""
        raise ConfigError(f"a W&B sweep needs {KEY}= in .env, where its jobs read it; GRID=... needs none{seen}")


def service_environ(project_dir: Path, environ: Mapping[str, str]) -> dict[str, str]:
    return {**read_env_file(project_dir / ".env"), **environ}


def _read_config(path: Path, source: str) -> dict[str, Any]:
    """The sweep in a file. Raises ConfigError; for one whose YAML is wrong with what else is wrong in it."""
    keys: list[str] = []
    try:
        return read_yaml(path, source, takes=TAKES, check_key=keys.append, typed=True, within=("parameters",))
    except Malformed as error:
        unread = [key for key in keys if key not in error.content]
        raise ConfigError.of([error.but(source=""), *_problems(error.content, unread)], source=source) from None


def check_config(config: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The sweep's parameters, each a mapping. Raises ConfigError with everything that a trial could not be planned or
    run with, or that W&B would refuse."""
    if problems := _problems(config):
        raise ConfigError.of(problems, source=source)
    parameters: dict[str, dict[str, Any]] = config["parameters"]
    return parameters


def _problems(config: Mapping[str, Any], unread: Sequence[str] = ()) -> list[ConfigError]:
    """The mistakes in a sweep; its keys `unread` are there, with other mistakes."""
    problems: list[ConfigError] = []
    found: dict[str, Any] = {}
    for key, kind in (("method", str), ("metric", dict), ("parameters", dict)):
        if isinstance(value := config.get(key), kind) and value:
            found[key] = value
        elif key not in unread:
            problems.append(ConfigError(f"{key} is missing, or not as in {DEFAULT_SWEEP}"))
    problems += _odd_words(**{key: found[key] for key in ("method", "metric") if key in found})
    for name, listed in found.get("parameters", {}).items():
        try:
            _check_parameter(str(name), listed, method=str(config.get("method")))
        except ConfigError as error:
            problems.append(error)
    return problems


def _odd_words(method: str = METHODS[0], metric: Mapping[str, Any] = USUAL_METRIC) -> list[ConfigError]:
    """The mistakes in the method and the metric."""
    asked = (
        (method in METHODS, f"method takes {' or '.join(METHODS)}, got {shown(method)}"),
        (isinstance(metric.get("name"), str), "metric takes a name, one of those that a run logs"),
        (metric.get("goal", GOALS[0]) in GOALS, f"goal of metric takes {' or '.join(GOALS)}"),
    )
    return [ConfigError(problem) for right, problem in asked if not right]


def _check_parameter(name: str, listed: object, *, method: str) -> None:
    if name not in PARAMETERS:
        setting = setting_of(name, "")
        near = f", did you mean {setting}?" if setting in PARAMETERS else nearest(name, PARAMETERS)
        said = f"{shown(name)} is not for sweeps{near}"
        raise ConfigError(said, allowed=f"they take {', '.join(PARAMETERS)}")
    found = _limits(listed)
    if not found:
        raise ConfigError(f"{name} takes `values: [...]`, or min and max")
    spread = isinstance(listed, dict) and "values" not in listed and "value" not in listed
    if name in (RANK, ACCUMULATION) and (spread or any(type(value) is not int for value in found)):
        raise ConfigError(f"{name} takes `values: [...]`, of whole numbers: the largest is planned for")
    taken = [convert(TrainConfig, name, value, shown_as=name) for value in found]
    if spread and taken[0] > taken[1]:
        raise ConfigError(f"{name}: min {taken[0]} is above max {taken[1]}")
    if spread and method == "grid" and not _is_countable(listed):
        advice = "list them under `values:`, or take `method: random`"
        raise ConfigError(f"{name}: a grid has no end between min {taken[0]} and max {taken[1]}", advice=advice)


def _is_countable(listed: object) -> bool:
    """Whether W&B finds a grid between min and max: for whole numbers, or a distribution in steps of `q`."""
    if not isinstance(listed, dict):
        return False
    kind = listed.get("distribution")
    whole = all(type(listed[end]) is int for end in ("min", "max"))
    return kind in ("int_uniform", "q_uniform") or (kind is None and whole)


def _limits(listed: object) -> list[Any]:
    """A parameter's values, or its min and max; empty when it has neither."""
    if not isinstance(listed, dict):
        return []
    if "values" in listed:
        return list(listed["values"]) if isinstance(listed["values"], list) else []
    if "value" in listed:
        return [listed["value"]]
    return [listed["min"], listed["max"]] if "min" in listed and "max" in listed else []


def _for_all(spec: JobSpec, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Variables for a plan that fits every trial's memory: the largest rank, and a batch without its accumulation."""
    found = {}
    if RANK in parameters:
        found["LORA"] = str(max(_limits(parameters[RANK])))
        if spec.training.lora_alpha != 2 * spec.training.lora_r:
            found["LORA_ALPHA"] = str(spec.training.lora_alpha)
    if ACCUMULATION in parameters:
        steps = max(_limits(parameters[ACCUMULATION]))
        batch = spec.training.effective_batch_size or steps * spec.num_processes
        if batch % (steps * spec.num_processes):
            near = max(1, batch // (steps * spec.num_processes)) * steps * spec.num_processes
            raise ConfigError(
                f"is of the largest accumulation, {steps} on {spec.num_processes} processes",
                name="EFFECTIVE_BATCH",
                given=batch,
                advice=f"try {near}",
            )
        found["EFFECTIVE_BATCH"] = str(batch // steps)
    return found


def _check_micro_batch(plan: Plan, parameters: Mapping[str, Any]) -> None:
    """Raises ConfigError when a trial's accumulation could not be exactly what the sweep says."""
    if ACCUMULATION in parameters and plan.chosen.gradient_accumulation_steps > 1:
        at_once = plan.effective_batch_size // plan.num_processes
        fits = plan.chosen.micro_batch_size * plan.num_processes * max(_limits(parameters[ACCUMULATION]))
        raise ConfigError(
            f"EFFECTIVE_BATCH= makes {at_once} samples at once for each GPU, of which "
            f"{plan.chosen.micro_batch_size} fit: try EFFECTIVE_BATCH={fits}"
        )


def _parameters_table(config: Mapping[str, Any], source: str) -> str:
    """A table of the parameters that W&B chooses from, and of the metric that it uses."""
    rows = [(source, "")]
    for name, listed in config["parameters"].items():
        spread = f"{listed.get('min')} to {listed.get('max')}{' (log)' * ('log' in str(listed.get('distribution')))}"
        rows.append((name, ", ".join(map(str, _limits(listed))) if "values" in listed else spread))
    rows.append((str(config["metric"].get("goal", "minimize")), str(config["metric"].get("name"))))
    return format_table(rows)
