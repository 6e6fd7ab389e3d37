"""From run.json back to a JobSpec. Each value goes through its variable's own check, as if it were typed again:
people edit files, and what comes out of here is rendered into a script."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from planner.job import JobSpec
from planner.request.variables import VARIABLES
from trainer.architecture.shape import ModelShape
from trainer.outcome import ConfigError
from trainer.text import nearest, shown


def read_spec(recorded: Mapping[str, object], *, project_dir: Path) -> JobSpec:
    """The request, to be run from `project_dir`; fields that an older version did not know have their default.

    Raises:
        ConfigError: a field is unknown, missing, or not what its variable takes.
    """
    fields = {field.name: field for field in dataclasses.fields(JobSpec)}
    if odd := [name for name in recorded if name not in fields]:
        raise ConfigError(f"unknown {shown(odd[0])}{nearest(odd[0], tuple(fields))}")
    needed = [name for name, field in fields.items() if field.default is field.default_factory]
    if lacking := [name for name in needed if name not in recorded]:
        raise ConfigError(f"{lacking[0]} is missing")
    values = {name: _as_tuple(value) for name, value in recorded.items()}
    values["shape"] = _shape(recorded["shape"])
    values["project_dir"] = str(project_dir)
    by_field = {variable.field: variable for variable in VARIABLES}
    for name, value in values.items():
        default = fields[name].default
        if name in ("shape", "project_dir") or (value == default and type(value) is type(default)):
            continue
        if variable := by_field.get(name):
            # 0 GPUs is said by leaving GPUS out.
            if (name, value) != ("gpus", 0) and variable.parse(variable.name, _as_text(value)) != value:
                raise ConfigError(f"{name} is {shown(str(value))}, of another kind than {variable.name} takes")
        elif not isinstance(value, (str, int, float)) or (default is not None and type(value) is not type(default)):
            raise ConfigError(f"{name} is {shown(str(value))}, of another kind than {default!r}")
    return JobSpec(**values)  # type: ignore[arg-type]


def _shape(recorded: object) -> ModelShape:
    kinds = {field.name: field.type for field in dataclasses.fields(ModelShape)}
    if not isinstance(recorded, Mapping) or set(recorded) != set(kinds):
        raise ConfigError(f"shape takes {', '.join(kinds)}")
    for name, kind in kinds.items():
        value = recorded[name]
        if type(value).__name__ != kind or (isinstance(value, int) and value < 0):
            raise ConfigError(f"{name} of shape is {shown(str(value))}, no {kind}")
    return ModelShape(**recorded)


def _as_tuple(value: object) -> object:
    """JSON has no tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _as_text(value: object) -> str:
    """As one would type it: a,b for a list, A=1,B=2 for pairs."""
    if isinstance(value, tuple):
        return ",".join("=".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
    return str(value)
