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
from trainer.flags import word
from trainer.outcome import ConfigError
from trainer.settings import Settings, read_env_file, resolve_settings
from trainer.spellings import CONFIG_FILE

# Settings that the planner has variables for, of the same name in capitals; the others reach the ranks by the file
# itself.
SETTINGS = ("model", "data", "device", "quantization", "vision", "max_length", "max_steps", "learning_rate", "seed")


def given_elsewhere(given: Mapping[str, str], project_dir: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(variables as text, below what is given on the command line; JobSpec fields without a variable).

    Raises:
        ConfigError: a file that cannot be read, or holds what is not allowed.
    """
    env_file = read_env_file(project_dir / ".env")
    path = given.get(CONFIG_FILE) or env_file.get(CONFIG_FILE)
    settings = resolve_settings(["--config", path] if path else [], {}, env_file, folder=project_dir)
    values, sources = settings.values, {k: v for k, v in settings.sources.items() if v != "default"}
    found = {name.upper(): word(values[name]) for name in SETTINGS if name in sources}
    if path:
        found[CONFIG_FILE] = path
    if "lora_r" in sources or "lora_alpha" in sources:
        found["LORA"] = _preset(path, settings)
    # Of the YAML file these are a run's own: its folder, and what the plan decides.
    if sources.get("output_dir") == ".env":
        found["OUTPUT"] = values["output_dir"]
    if ".env" in (sources.get("micro_batch_size"), sources.get("gradient_accumulation_steps")):
        found["EFFECTIVE_BATCH"] = str(values["micro_batch_size"] * values["gradient_accumulation_steps"])
    if config := env_file.get("ACCELERATE_CONFIG"):
        # accelerate's own spelling of the variable is a path.
        found["CONFIG"] = config.rpartition("/")[2].removesuffix(".yaml")
    return found, {"lora_dropout": values["lora_dropout"]} if "lora_dropout" in sources else {}


def told_by(plan: Plan, project_dir: Path) -> Settings:
    """What the ranks of a planned job will be told, found out before anything is submitted. Raises ConfigError."""
    words = plan.launch_argv[plan.launch_argv.index("trainer.train") + 1 :]
    settings = resolve_settings(words, {}, folder=project_dir)
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
