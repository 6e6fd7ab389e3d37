"""Shapes as plain data, in the small JSON files that keep them and in a run's record. Every value that is read is
checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.architecture.shape import Layer, Linear, ModelShape
from trainer.outcome import ConfigError
from trainer.text import shown

SHAPE_FILE = "trainyard-shape.json"
"""Name of the file beside a model's config.json."""
VERSION = 2
"""Raised when the measured fields change; a file of an older version is measured again."""
MOST = 10**13
"""More weights than any model has."""
MOST_SORTS = 1000
"""More sorts of layers, and of linears in a layer, than any model has."""
AT_LEAST_ONE = ("count", "hidden", "vocab")


def plain(shape: ModelShape) -> dict[str, Any]:
    """`shape` as a dictionary that JSON can hold."""
    return dataclasses.asdict(shape)


def read_shape(recorded: object) -> ModelShape:
    """The shape that `plain` wrote. Raises ConfigError for anything else."""
    values = _fields(recorded, ModelShape, "shape")
    layers = _list(values["layers"], "layers of shape", least=1)
    values["layers"] = tuple(_layer(layer) for layer in layers)
    return ModelShape(**values)


def _layer(recorded: object) -> Layer:
    values = _fields(recorded, Layer, "a layer of shape")
    linears = _list(values["linears"], "linears of a layer", least=0)
    values["linears"] = tuple(Linear(**_fields(linear, Linear, "a linear of shape")) for linear in linears)
    return Layer(**values)


def _list(value: object, about: str, *, least: int) -> Sequence[object]:
    if not isinstance(value, (list, tuple)) or not least <= len(value) <= MOST_SORTS:
        raise ConfigError(f"{about} is no list of {about.partition(' ')[0]}")
    return value


def of_another_version(recorded: object) -> bool:
    """Whether `recorded` is a shape with layers that has other fields than those measured now, in itself or in its
    layers."""
    layers = recorded.get("layers") if isinstance(recorded, Mapping) else None
    if not isinstance(recorded, Mapping) or not layers or not isinstance(layers, (list, tuple)):
        return False
    parts = [(recorded, ModelShape), *((layer, Layer) for layer in layers)]
    return not all(
        isinstance(part, Mapping) and set(part) == {field.name for field in dataclasses.fields(kind)}
        for part, kind in parts
    )


def _fields(recorded: object, kind: type[ModelShape] | type[Layer] | type[Linear], about: str) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    if not isinstance(recorded, Mapping) or set(recorded) != set(kinds):
        raise ConfigError(f"{about} takes {', '.join(kinds)}")
    for name, value in recorded.items():
        wanted = kinds[name]
        if not wanted.startswith("tuple") and type(value).__name__ != wanted:
            raise ConfigError(f"{name} of {about.removeprefix('a ')} is {shown(str(value))}, no {wanted}")
        if wanted == "int" and not (name in AT_LEAST_ONE) <= value <= MOST:
            raise ConfigError(
                f"{name} of {about.removeprefix('a ')} is {shown(str(value))}: takes a whole number from "
                f"{int(name in AT_LEAST_ONE)} to {MOST}"
            )
        if wanted == "str" and not (value.isprintable() and len(value) <= 4096):
            raise ConfigError(f"{name} of {about} is {shown(value)}: takes at most 4096 printable characters")
    return dict(recorded)


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of how its file is laid out."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def text_of(shape: ModelShape, config: Mapping[str, Any], **more: Any) -> str:
    """The text of a file that keeps the `shape` of a configuration."""
    record = {"version": VERSION, "config_sha256": digest(config), **more, "shape": plain(shape)}
    return json.dumps(record, indent=1) + "\n"


def kept_shape(record: object, config: Mapping[str, Any] | None) -> ModelShape | None:
    """The shape in such a file. None for a file of another version or of another configuration than `config`; with
    `config` None, any configuration is accepted."""
    if not isinstance(record, Mapping) or record.get("version") != VERSION:
        return None
    if config is not None and record.get("config_sha256") != digest(config):
        return None
    try:
        return read_shape(record.get("shape"))
    except ConfigError:
        return None


def user_folder(environ: Mapping[str, str]) -> Path:
    """The folder for shapes that cannot be kept beside their model."""
    return Path(os.path.expanduser(environ.get("XDG_CACHE_HOME") or "~/.cache")) / "trainyard" / "shapes"


def file_name(model: str) -> str:
    """Name of the file that keeps a model's shape in the user's folder."""
    return model.strip("/").replace("/", "--") + ".json"
