"""Makes a JobSpec of run.json. Each value passes its variable's own check, as if it were typed again, because people
edit files, and the result is rendered into a script."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from planner import values as takes
from planner.job import FIELDS, JobSpec
from planner.request.variables import VARIABLES
from trainer.architecture.shape import ModelShape
from trainer.architecture.shape_file import of_another_version, read_shape
from trainer.architecture.shapes import resolve_shape
from trainer.config import LORA_PRESETS, SETTINGS
from trainer.files import RECORD_NAME
from trainer.flags import Range, option_of
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

MOST = 10**13
"""No model has as many weights, and no record as many tokens."""
BY_FIELD = {variable.field: variable for variable in VARIABLES}
# Fields without a variable that have their own rules; the others are settings, words for the plan, or true or false.
OTHERS: dict[str, takes.Parser] = {
    "sweep": takes.identifier(63),
    "wandb_sweep": takes.matching(r"[^/]+(/[^/]+){2}", "entity/project/id"),
    "supervised_tokens": takes.whole(0, MOST),
    "images_per_sample": takes.whole(0, MOST),
    "measured_batch": takes.whole(0, MOST),
    "measured_peak_gib": takes.taking(option_of(Annotated[float, Range(0, MOST)])),
}


def read_spec(recorded: Mapping[str, object], *, project_dir: Path, source: str = RECORD_NAME) -> JobSpec:
    """The request, for a run from `project_dir`; fields that an older version did not know have their default.

    Raises:
        ConfigError: a field is unknown, missing, or not what its variable takes. The message begins with `source`.
    """
    try:
        return _read(recorded, project_dir)
    except ConfigError as error:
        raise ConfigError(f"{source}: spec: {error}") from error


def _read(recorded: Mapping[str, object], project_dir: Path) -> JobSpec:
    fields = FIELDS
    if preset := LORA_PRESETS.get(str(recorded.get("lora"))):  # an older version knew only the three names
        rest = {name: value for name, value in recorded.items() if name != "lora"}
        recorded = {**rest, "lora_r": preset, "lora_alpha": 2 * preset}
    if odd := [name for name in recorded if name not in fields]:
        raise ConfigError(f"unknown {shown(odd[0])}{nearest(odd[0], tuple(fields))}")
    needed = [name for name, field in fields.items() if field.default is field.default_factory]
    if lacking := [name for name in needed if name not in recorded]:
        raise ConfigError(f"{lacking[0]} is missing")
    values = {name: _as_tuple(value) for name, value in recorded.items()}
    values["shape"] = _shape(recorded["shape"], recorded["model"])
    values["project_dir"] = str(project_dir)
    for name, value in values.items():
        default = fields[name].default
        is_default = value == default and type(value) is type(default)
        if name not in ("shape", "project_dir") and not is_default:
            _check(name, value, default)
    return JobSpec.of(**values)


def _shape(recorded: object, model: object) -> ModelShape:
    """The shape that the plan was made with or, if another version wrote it, the model's shape as known now.

    Raises:
        ConfigError: it is not what its fields take, or this machine does not know the model's shape.
    """
    try:
        return read_shape(recorded)
    except ConfigError:
        if not isinstance(model, str) or not of_another_version(recorded):
            raise
        _check("model", model, dataclasses.MISSING)  # it is looked for on this machine
        try:
            # Without measuring: status reads the records of many runs.
            return resolve_shape(model, elsewhere=True, measure=False)
        except ConfigError as unknown:
            raise ConfigError(f"another version measured its model, and here {unknown.words}") from None


def _check(name: str, value: object, default: object) -> None:
    """Raises ConfigError unless `value`, which is not the `default`, is what the field takes."""
    if variable := BY_FIELD.get(name):
        # 0 GPUs means that GPUS was left out.
        if name == "gpus" and type(value) is int and value == 0:
            return
        if variable.parse(variable.name, _as_text(value)) != value or value is None:
            raise ConfigError(f"{name} is {shown(str(value))}, of another kind than {variable.name} takes")
        return
    kind = str if default is None or default is dataclasses.MISSING else type(default)
    if type(value) is not kind:
        raise ConfigError(f"{name} is {shown(str(value))}, of another kind than {default!r}")
    if kind is not bool:
        takes.text(name, str(value))
        if parser := OTHERS.get(name) or (takes.setting(name) if name in SETTINGS else None):
            parser(name, str(value))


def words_of(spec: JobSpec) -> list[str]:
    """The words by which make asks for this request again: `NAME=value` for each value that is not the default,
    without RUN."""
    words = []
    for variable in VARIABLES:
        if variable.field is None or variable.name == "RUN":
            continue
        value = spec.value(variable.field)
        always = variable.name == "VRAM" and spec.resources.gpus
        if (always or value != FIELDS[variable.field].default) and value is not None:
            words.append(f"{variable.name}={_as_text(value)}")
    return [word for word in words if word != "GPUS=0"]


def _as_tuple(value: object) -> object:
    """`value` with lists as tuples, since JSON has no tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _as_text(value: object) -> str:
    """`value` as one would type it: a,b for a list, A=1,B=2 for pairs."""
    if isinstance(value, tuple):
        return ",".join("=".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
    return str(value)
