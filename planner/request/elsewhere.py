"""What a person asked for elsewhere than on the command line: the YAML file and `.env`, as make variables.

The planner reads the same two files as the ranks will, so that its memory estimate is made for the run that they
describe. Exported variables are not read here: what a site sets for all its users is no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.job import JobSpec, Plan
from planner.request.variables import VARIABLES
from planner.values import expand_home
from trainer.config import LORA_PRESETS, SETTINGS
from trainer.env_file import read_env_file
from trainer.files import regular
from trainer.flags import word
from trainer.outcome import ConfigError
from trainer.settings import Settings, resolve_settings
from trainer.spellings import CONFIG_FILE, ENVIRONMENT

# Settings that are a variable of the request, or a field of JobSpec without one; the others reach the ranks by the file
# itself. What the plan decides is none of the file's.
ASKED = tuple(
    variable.field
    for variable in VARIABLES
    if variable.field and variable.settings == (variable.field,) and not SETTINGS[variable.field].planned
)
FIELDS = tuple(
    name for name in SETTINGS if name in JobSpec.__dataclass_fields__ and name not in {v.field for v in VARIABLES}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """What the two files ask for."""

    texts: dict[str, str]
    """By variable name, below what is given on the command line."""
    sources: dict[str, str]
    """In words, by variable name."""
    fields: dict[str, Any]
    """Of JobSpec, without a variable; and `learn`, which the measured lengths depend on."""


def given_elsewhere(given: Mapping[str, str], project_dir: Path, environ: Mapping[str, str]) -> Elsewhere:
    """What `.env` and the YAML file say; `environ` has the home of CONFIG_FILE=~/x.

    Raises:
        ConfigError: a file that cannot be read, or holds what is not allowed.
    """
    env_file = read_env_file(project_dir / ".env")
    path = expand_home(given.get(CONFIG_FILE) or env_file.get(CONFIG_FILE) or "", environ)
    _refuse_pipe(path, project_dir)
    settings = resolve_settings(["--config", path] if path else [], {}, env_file, folder=project_dir)
    values, sources = settings.values, {k: v for k, v in settings.sources.items() if v != "default"}
    texts = {name.upper(): word(values[name]) for name in ASKED if name in sources}
    said = {name.upper(): _said(name, source) for name, source in sources.items()}
    if path:
        texts[CONFIG_FILE], said[CONFIG_FILE] = path, ".env"
    if "lora_r" in sources or "lora_alpha" in sources:
        texts["LORA"] = _preset(path, settings)
    # Of the YAML file these are a run's own: its folder, and what the plan decides.
    if sources.get("output_dir") == ".env":
        texts["OUTPUT"], said["OUTPUT"] = values["output_dir"], said["OUTPUT_DIR"]
    if ".env" in (sources.get("micro_batch_size"), sources.get("gradient_accumulation_steps")):
        texts["EFFECTIVE_BATCH"] = str(values["micro_batch_size"] * values["gradient_accumulation_steps"])
        said["EFFECTIVE_BATCH"] = "BATCH_SIZE x GRAD_ACCUM in .env"
    if config := env_file.get("ACCELERATE_CONFIG"):
        # accelerate's own spelling of the variable is a path.
        texts["CONFIG"], said["CONFIG"] = config.rpartition("/")[2].removesuffix(".yaml"), "ACCELERATE_CONFIG in .env"
    fields: dict[str, Any] = {name: values[name] for name in (*FIELDS, "learn") if name in sources}
    fields["evaluates"] = _evaluates(
        values, project_dir / expand_home(given.get("DATA") or texts.get("DATA", ""), environ)
    )
    return Elsewhere(texts=texts, sources={name: said[name] for name in texts if name in said}, fields=fields)


def _refuse_pipe(path: str, project_dir: Path) -> None:
    try:
        regular(project_dir / path)
    except FileNotFoundError:
        pass  # whoever reads it says so
    except OSError as error:
        raise ConfigError(f"CONFIG_FILE={path} cannot be read ({error.strerror})", name="CONFIG_FILE") from None


def _evaluates(values: Mapping[str, Any], data: Path) -> bool:
    """Whether anything may be held out and measured; `data` may lie where only the job sees it."""
    brings = not data.exists() or (data / "eval.jsonl").is_file()
    return bool(values["eval_samples"] or values["score_samples"]) and bool(values["eval_fraction"] or brings)


def _said(name: str, source: str) -> str:
    """MODEL_NAME in .env, or model in train.yaml."""
    in_env = next((other for other, setting in ENVIRONMENT.items() if setting == name), name)
    return f"{in_env if source == '.env' else name} in {source}"


def told_by(plan: Plan, project_dir: Path) -> Settings:
    """What the ranks of a planned job will be told, found out before anything is submitted. Raises ConfigError."""
    settings = resolve_settings(plan.launch.setting_words(), {}, folder=project_dir)
    settings.config()
    return settings


def _preset(path: str | None, settings: Settings) -> str:
    """The name of the rank and alpha asked for. Raises ConfigError when memory cannot be planned for them."""
    asked = (settings.values["lora_r"], settings.values["lora_alpha"])
    for name, sizes in LORA_PRESETS.items():
        if sizes == asked:
            return name
    known = ", ".join(f"{r}/{alpha} ({name})" for name, (r, alpha) in LORA_PRESETS.items())
    raise ConfigError(f"{path}: lora_r/lora_alpha {asked[0]}/{asked[1]}: jobs are planned for {known}")
