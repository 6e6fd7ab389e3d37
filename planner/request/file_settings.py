"""The settings in the YAML file and `.env`, as make variables.

The planner reads the same two files as the ranks will, so that its memory estimate matches the run that they
describe. Exported variables are not read: a value that a site sets for all its users is no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.plan import Plan
from planner.request.variables import VARIABLES
from planner.values import expand_home
from trainer.config import SETTINGS
from trainer.env_file import read_env_file
from trainer.files import regular
from trainer.flags import word
from trainer.outcome import ConfigError
from trainer.settings import Settings, resolve_settings, say
from trainer.spellings import CONFIG_FILE, ENVIRONMENT

# Variables that are a setting; all other settings reach the ranks through the file itself. Settings that the plan
# decides are left out.
SETTING_VARIABLES = tuple(
    variable for variable in VARIABLES if variable.setting and not SETTINGS[variable.setting].planned
)

FOUND_BY = ("learn", "feature_store", "feature_cache_gib", "text_only")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSettings:
    """The settings in the two files."""

    texts: dict[str, str]
    """Text by variable name; the command line overrides it."""
    sources: dict[str, str]
    """The source in words, by variable name."""
    fields: dict[str, Any]
    """Fields of JobSpec that have no variable, and the settings FOUND_BY, which say whether files beside the data and
    the store of features are those of this run."""


def read_settings_files(given: Mapping[str, str], project_dir: Path, environ: Mapping[str, str]) -> FileSettings:
    """The settings in `.env` and the YAML file; `environ` has the home for CONFIG_FILE=~/x.

    Raises:
        ConfigError: a file that cannot be read, or holds something that is not allowed.
    """
    env_file = read_env_file(project_dir / ".env")
    path = expand_home(given.get(CONFIG_FILE) or env_file.get(CONFIG_FILE) or "", environ, name=CONFIG_FILE)
    _refuse_pipe(path, project_dir)
    settings = resolve_settings(["--config", path] if path else [], {}, env_file, folder=project_dir)
    values, sources = settings.values, {k: v for k, v in settings.sources.items() if v != "default"}
    asked = {variable.name: variable.setting for variable in SETTING_VARIABLES if variable.setting in sources}
    texts = {name: word(values[setting]) for name, setting in asked.items()}
    said = {name: _said(setting, sources[setting]) for name, setting in asked.items()}
    if path:
        texts[CONFIG_FILE], said[CONFIG_FILE] = path, ".env"
    # In the YAML file these belong to a single run: its folder, and the plan's decisions.
    if sources.get("output_dir") == ".env":
        texts["OUTPUT"], said["OUTPUT"] = values["output_dir"], _said("output_dir", ".env")
    if ".env" in (sources.get("micro_batch_size"), sources.get("gradient_accumulation_steps")):
        texts["EFFECTIVE_BATCH"] = str(values["micro_batch_size"] * values["gradient_accumulation_steps"])
        said["EFFECTIVE_BATCH"] = "BATCH_SIZE x GRAD_ACCUM in .env"
    elif path and sources.get("micro_batch_size") == sources.get("gradient_accumulation_steps") is not None:
        texts["EFFECTIVE_BATCH"] = str(values["micro_batch_size"] * values["gradient_accumulation_steps"])
        said["EFFECTIVE_BATCH"] = f"micro_batch_size x gradient_accumulation_steps in {path}"
    if config := env_file.get("ACCELERATE_CONFIG"):
        # accelerate's own spelling of the variable is a path.
        texts["CONFIG"], said["CONFIG"] = config.rpartition("/")[2].removesuffix(".yaml"), "ACCELERATE_CONFIG in .env"
    fields = {name: values[name] for name in (*FOUND_BY, "features_ahead") if name in sources}
    fields["evaluates"] = _evaluates(
        values, project_dir / expand_home(given.get("DATA") or texts.get("DATA", ""), environ, name="DATA")
    )
    return FileSettings(texts=texts, sources={name: said[name] for name in texts if name in said}, fields=fields)


def _refuse_pipe(path: str, project_dir: Path) -> None:
    try:
        regular(project_dir / path)
    except FileNotFoundError:
        pass  # the code that reads it reports that
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", name="CONFIG_FILE", given=path) from None


def _evaluates(values: Mapping[str, Any], data: Path) -> bool:
    """Whether any record may be held out and measured; `data` may be visible only to the job."""
    try:
        brings = not data.exists() or (data / "eval.jsonl").is_file()
    except OSError:  # no file system takes such a name, so it is not here
        brings = True
    return bool(values["eval_samples"] or values["score_samples"]) and bool(values["eval_fraction"] or brings)


def _said(name: str, source: str) -> str:
    """The source of a setting: MODEL_NAME in .env, or model in train.yaml."""
    in_env = next((other for other, setting in ENVIRONMENT.items() if setting == name), name)
    return f"{in_env if source == '.env' else name} in {source}"


def check_trainer_accepts(plan: Plan, project_dir: Path) -> Settings:
    """The settings that the ranks of a planned job will read, checked before anything is submitted, with the notices
    about them printed. Raises ConfigError."""
    settings = resolve_settings(plan.launch.setting_words(), {}, folder=project_dir)
    settings.config()
    say(settings.notices)
    return settings
