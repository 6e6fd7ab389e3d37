"""What a person asked for elsewhere than on the command line: the YAML file and `.env`, as make variables.

The planner reads the same two files as the ranks will, so that its memory estimate is made for the run that they
describe. Exported variables are not read here: what a site sets for all its users is no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate_configs.job import Plan
from trainer.config import LORA_PRESETS
from trainer.env_file import read_env_file
from trainer.flags import word
from trainer.outcome import ConfigError
from trainer.settings import Settings, resolve_settings
from trainer.spellings import CONFIG_FILE

# Names of .env and what they mean to the planner. BATCH_SIZE and GRAD_ACCUM mean their product.
FROM_ENV_FILE: dict[str, str] = {
    "MODEL_NAME": "MODEL",
    "GRID_DATASET_PATH": "DATA",
    "OUTPUT_DIR": "OUTPUT",
    "MAX_STEPS": "MAX_STEPS",
    "LEARNING_RATE": "LEARNING_RATE",
    "MAX_LENGTH": "MAX_LENGTH",
    "LORA": "LORA",
    "ACCELERATE_CONFIG": "CONFIG",
}
# Settings of the YAML file that the planner has variables for; the others reach the ranks by the file itself.
FROM_YAML: dict[str, str] = {
    "model": "MODEL",
    "data": "DATA",
    "device": "DEVICE",
    "quantization": "QUANTIZATION",
    "vision": "VISION",
    "max_length": "MAX_LENGTH",
    "max_steps": "MAX_STEPS",
    "learning_rate": "LEARNING_RATE",
    "seed": "SEED",
}


def given_elsewhere(given: Mapping[str, str], project_dir: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(variables as text, below what is given on the command line; JobSpec fields without a variable).

    Raises:
        ConfigError: a file that cannot be read, or holds what is not allowed.
    """
    env_file = read_env_file(project_dir / ".env")
    found = {name: env_file[key] for key, name in FROM_ENV_FILE.items() if key in env_file}
    if "CONFIG" in found:
        # accelerate's own spelling of the variable is a path.
        found["CONFIG"] = found["CONFIG"].rpartition("/")[2].removesuffix(".yaml")
    if "BATCH_SIZE" in env_file or "GRAD_ACCUM" in env_file:
        values = resolve_settings([], {}, {k: v for k, v in env_file.items() if k != CONFIG_FILE}).values
        found["EFFECTIVE_BATCH"] = str(values["micro_batch_size"] * values["gradient_accumulation_steps"])
    path = given.get(CONFIG_FILE) or env_file.get(CONFIG_FILE)
    if not path:
        return found, {}
    settings = resolve_settings(["--config", path], {}, folder=project_dir)
    in_file = {name for name, source in settings.sources.items() if source != "default"}
    from_yaml = {name: word(settings.values[key]) for key, name in FROM_YAML.items() if key in in_file}
    if in_file & {"lora_r", "lora_alpha"}:
        from_yaml["LORA"] = _preset(path, settings)
    fields = {"lora_dropout": settings.values["lora_dropout"]} if "lora_dropout" in in_file else {}
    return {**from_yaml, **found, CONFIG_FILE: path}, fields


def told_by(plan: Plan, project_dir: Path) -> Settings:
    """What the ranks of a planned job will be told, found out before anything is submitted. Raises ConfigError."""
    words = plan.launch_argv[plan.launch_argv.index("trainer.train") + 1 :]
    settings = resolve_settings(words, {}, folder=project_dir)
    settings.config()
    return settings


def _preset(path: str, settings: Settings) -> str:
    """The name of the file's rank and alpha. Raises ConfigError when memory cannot be planned for them."""
    asked = (settings.values["lora_r"], settings.values["lora_alpha"])
    names = [name for name, sizes in LORA_PRESETS.items() if sizes == asked]
    if not names:
        known = ", ".join(f"{r}/{alpha} ({name})" for name, (r, alpha) in LORA_PRESETS.items())
        raise ConfigError(f"{path}: lora_r/lora_alpha {asked[0]}/{asked[1]}: jobs are planned for {known}")
    return names[0]
