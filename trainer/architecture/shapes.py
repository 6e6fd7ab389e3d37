"""What a model measures: its config.json found and read, without transformers and without network.

Looked for in this order: a local folder, the Hugging Face cache, the built-in table (known_models).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from trainer.architecture.families import PARSERS, Config
from trainer.architecture.hub import cached_config, is_hub_id
from trainer.architecture.known_models import KNOWN_MODELS
from trainer.architecture.quantized import check_unquantized
from trainer.architecture.shape import ModelShape
from trainer.files import once, read_json
from trainer.outcome import ConfigError
from trainer.text import nearest


def resolve_shape(model: str, *, job: Mapping[str, str] | None = None, elsewhere: bool = False) -> ModelShape:
    """The shape of `model`, a folder holding config.json or a hub id.

    `job` is the environment that the job is told: its cache is looked into first, then this process's, which sizes
    the same model. `elsewhere`: paths are not of this machine, and one that ends in a known model's name is taken
    for it.

    Raises ConfigError when the folder has no readable config.json, when its family is not known, when it is neither a
    folder nor a hub id, or a hub id that is neither in a cache nor in the built-in table.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _from_file(model, folder / "config.json")
    on_hub = is_hub_id(model)
    if not on_hub and not elsewhere:
        raise ConfigError(
            f"MODEL={model}: no folder here and no hub id: give a folder, or owner/name as in "
            f"{next(iter(KNOWN_MODELS))}",
            name="MODEL",
        )
    for environ in (job or {}, os.environ) if on_hub else ():
        if cached := cached_config(model, environ):
            return _from_file(model, cached)
    by_name = {name.rpartition("/")[2].lower(): config for name, config in KNOWN_MODELS.items()}
    organisation, _, name = model.rstrip("/").rpartition("/")
    config = by_name.get(name.lower()) if organisation else None  # a mirror keeps the name: unsloth/gemma-3-4b-it
    if config is None:
        raise ConfigError(
            f"MODEL={model}: not a folder, not in the Hugging Face cache, not built in"
            f"{nearest(model, tuple(KNOWN_MODELS)) or ':'} built in are {_names()}; for any other model "
            "download its config.json and pass the folder",
            name="MODEL",
        )
    return shape_from_config(config, model=model)


def shape_from_config(config: Config, *, model: str) -> ModelShape:
    """The shape that a config.json, already read, describes; `model` names it in errors (ConfigError)."""
    check_unquantized(model, config)
    family = config.get("model_type")
    parse = PARSERS.get(family) if isinstance(family, str) else None
    if parse is None:
        raise ConfigError(
            f"MODEL={model}: config.json has model_type {family!r}; known families: {', '.join(PARSERS)}", name="MODEL"
        )
    try:
        shape = parse(config)
        sizes = {field.name: getattr(shape, field.name) for field in fields(shape) if field.type == "int"}
        if wrong := [name for name, size in sizes.items() if type(size) is not int or size <= 0]:
            raise ValueError(f"{wrong[0]} comes to {sizes[wrong[0]]!r}, no whole number above 0")
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"MODEL={model}: config.json is not a {family} configuration ({detail})", name="MODEL"
        ) from error
    return shape


def _names() -> str:
    return ", ".join(KNOWN_MODELS)


def _from_file(model: str, path: Path) -> ModelShape:
    try:
        config = once(read_json, path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"MODEL={model}: the folder has no config.json: pass a model's folder", name="MODEL"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"MODEL={model}: {path} cannot be read as JSON ({error}): download it again", name="MODEL"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"MODEL={model}: {path} holds {type(config).__name__}, not a JSON object", name="MODEL")
    return shape_from_config(config, model=model)
