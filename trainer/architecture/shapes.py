"""Finds the shape of a model that was measured before, without torch and without network.

The shape of a model folder lies beside its config.json or in the user's cache, and is used only for exactly that
configuration. For a hub id the user's cache is searched first, then the shapes that Trainyard ships for the most used
models. A model that nobody has measured yet is measured by the environment for training, if there is one (`trainer
shape`).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.architecture.folder import check_chat_template, check_is_model
from trainer.architecture.hub import cached_config, is_hub_id
from trainer.architecture.kind import check_writes
from trainer.architecture.quantized import check_unquantized
from trainer.architecture.shape import ModelShape
from trainer.architecture.shape_file import SHAPE_FILE, digest, file_name, kept_shape, user_folder
from trainer.commands import CHECKOUT, training_command
from trainer.files import once, read_json
from trainer.outcome import BAD_CONFIG, ConfigError
from trainer.text import nearest, printable

SHIPPED = Path(__file__).parent / "shipped"
SAID = "trainyard: "
"""How the program that measures begins a line for the person, among what libraries print."""


class Unmeasured(ConfigError):
    """No shape of the model is known on this machine; a machine with torch can measure it."""


def resolve_shape(
    model: str, *, job: Mapping[str, str] | None = None, elsewhere: bool = False, measure: bool = True
) -> ModelShape:
    """The shape of `model`, a folder holding config.json or a hub id.

    `job` is the environment variables that the job gets: the cache that they name is searched first, then the cache
    of this process, since both size the same model. `elsewhere`: paths belong to another machine, so a path that ends
    in a shipped model's name is taken for that model. `measure`: an unknown model is measured by the environment for
    training, if there is one.

    Raises:
        Unmeasured: nobody has measured the model, and this machine cannot measure it.
        ConfigError: the folder has no readable config.json or no chat template, its weights are quantized already, it
            writes no text, or it is neither a folder nor a hub id.
    """
    try:
        return _find(model, job or {}, elsewhere=elsewhere)
    except Unmeasured:
        # A hub id whose config.json is not on this machine may be a typing error: the message names the nearest known
        # model.
        if not measure or not _config_is_here(model, job or {}) or not _measured_there(model, job or {}):
            raise
        return _find(model, job or {}, elsewhere=elsewhere)


def shipped_models() -> dict[str, str]:
    """Hub id to the name of its shipped file, in the order in which they are shown."""
    found: dict[str, str] = once(read_json, SHIPPED / "index.json")["models"]
    return found


def _find(model: str, job: Mapping[str, str], *, elsewhere: bool) -> ModelShape:
    folder = Path(os.path.expanduser(model))
    if folder.is_dir():
        check_is_model(model, folder)
        config = _config(model, folder / "config.json")
        check_chat_template(model, folder)
        return _of_config(model, config, beside=folder)
    on_hub = is_hub_id(model)
    if not on_hub and not elsewhere:
        raise ConfigError(
            "no folder here and no hub id",
            name="MODEL",
            given=model,
            advice=f"give a folder, or owner/name as in {next(iter(shipped_models()))}",
        )
    for environ in (job, os.environ) if on_hub else ():
        if cached := cached_config(model, environ):
            return _of_config(model, _config(model, cached))
    if on_hub and (found := _kept(user_folder(os.environ) / file_name(model), None)):
        return found
    if shipped := shipped_shape(model):
        return shipped
    raise Unmeasured(
        "not a folder, not in the Hugging Face cache, not among the shipped shapes"
        f"{nearest(model, tuple(shipped_models()))}",
        name="MODEL",
        given=model,
        advice=_how_to_measure(model),
    )


def _config_is_here(model: str, job: Mapping[str, str]) -> bool:
    cached = (cached_config(model, environ) for environ in (job, os.environ)) if is_hub_id(model) else ()
    return Path(os.path.expanduser(model)).is_dir() or any(cached)


def _of_config(model: str, config: Mapping[str, Any], *, beside: Path | None = None) -> ModelShape:
    check_unquantized(model, config)
    check_writes(model, config)
    kept = [folder / name for folder, name in ((beside, SHAPE_FILE), *_places(model, config)) if folder]
    if found := next((shape for path in kept if (shape := _kept(path, config))), None):
        return found
    if slug := once(read_json, SHIPPED / "index.json")["configurations"].get(digest(config)):
        return _usable(model, slug)
    if beside is None and (found := shipped_shape(model)):
        return found
    raise Unmeasured("its shape has not been measured yet", name="MODEL", given=model, advice=_how_to_measure(model))


def _places(model: str, config: Mapping[str, Any]) -> tuple[tuple[Path, str], ...]:
    folder = user_folder(os.environ)
    return ((folder, f"{digest(config)}.json"), (folder, file_name(model)))


def _kept(path: Path, config: Mapping[str, Any] | None) -> ModelShape | None:
    try:
        return kept_shape(read_json(path), config)  # not `once`: the file may be written meanwhile
    except (OSError, ValueError):
        return None


def shipped_shape(model: str) -> ModelShape | None:
    """The shipped shape of a hub id, or of the same name with another owner, as mirrors have it
    (unsloth/gemma-3-4b-it). Raises ConfigError for a model that was seen not to train."""
    models = shipped_models()
    by_name = {name.rpartition("/")[2].lower(): slug for name, slug in models.items()}
    owner, _, name = model.rstrip("/").rpartition("/")
    slug = models.get(model) or (by_name.get(name.lower()) if owner else None)
    return _usable(model, slug) if slug else None


def _usable(model: str, slug: str) -> ModelShape:
    record = once(read_json, SHIPPED / f"{slug}.json")
    found = kept_shape(record, None)
    if found is None:
        raise ConfigError("damaged", source=f"{SHIPPED / slug}.json", advice="check Trainyard out again")
    if why := record.get("refused"):
        raise ConfigError(
            f"it cannot be trained here: {why}", name="MODEL", given=model, advice="docs/model-types.md has what can"
        )
    return found


def _how_to_measure(model: str) -> str:
    return f"where torch is installed, type make shape MODEL={shlex.quote(model)}"


def _measured_there(model: str, job: Mapping[str, str]) -> bool:
    """Whether the environment for training exists and has now measured the model. Raises ConfigError with its message
    when that environment refuses the model."""
    import subprocess

    if not training_environment():
        return False
    words = shlex.split(training_command("trainer", "shape", "--model", model))
    print(f"{SAID}measuring {printable(model)}, once ...", file=sys.stderr, flush=True)
    caches = {name: job[name] for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN") if name in job}
    done = subprocess.run(
        words, cwd=CHECKOUT, env={**os.environ, **caches}, capture_output=True, text=True, check=False
    )
    for line in done.stderr.splitlines():
        if done.returncode == 0 and line.startswith(SAID):
            print(printable(line), file=sys.stderr, flush=True)
    if done.returncode == BAD_CONFIG and done.stderr.strip():
        raise ConfigError(done.stderr.strip().splitlines()[-1].removeprefix(SAID), name="MODEL")
    return done.returncode == 0


def training_environment() -> bool:
    """Whether this Python or an environment of this checkout has torch."""
    from importlib.util import find_spec

    return bool(find_spec("torch")) or any(
        (CHECKOUT / f".venv/{flavour}/bin/python").is_file() for flavour in ("cuda", "cpu")
    )


def _config(model: str, path: Path) -> dict[str, Any]:
    try:
        config = once(read_json, path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as JSON ({error})", name="MODEL", given=model, advice="download it again"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds {type(config).__name__}, not a JSON object", name="MODEL", given=model)
    return config
