"""The answer to a name that is no variable: another spelling of one, a setting of the trainer, or a line of `.env`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.request.scheduler_values import SAID_BY
from trainer.config import SETTINGS
from trainer.other_trainers import NEEDLESS
from trainer.outcome import ConfigError
from trainer.spellings import ENV_FILE
from trainer.text import nearest, shown
from trainer.translate import OF_ENV_FILE, setting_of

if TYPE_CHECKING:
    from planner.request.variables import Variable


def variable_meant(name: str, variables: Sequence[Variable]) -> str | None:
    """The variable that has another spelling `name`, in capitals, or None."""
    others = {other: variable.name for variable in variables for other in variable.also.split()}
    by_setting = {variable.setting: variable.name for variable in variables if variable.setting}
    setting = setting_of(name, "")
    of_slurm = SAID_BY.get(f"--{name.lower().replace('_', '-')}")
    return others.get(name) or others.get(setting.upper()) or by_setting.get(setting) or of_slurm


def unknown_name(typed: str, variables: Sequence[Variable]) -> ConfigError:
    """The error about a flag, or a variable of make, that nobody knows."""
    flag = typed.startswith("--")
    name = typed.removeprefix("--").replace("-", "_").upper()
    spelled = {variable.name: variable.flag if flag else variable.name for variable in variables}
    known = name if name in spelled else variable_meant(name, variables)
    setting = setting_of(name, "")
    problem, allowed = f"unknown {shown(typed)}", "--help lists all" if flag else "make help lists all"
    if known:
        problem += f", did you mean {spelled[known]}?"
    elif setting in SETTINGS and SETTINGS[setting].planned:
        allowed = f"the plan decides {setting}: {SETTINGS[setting].planned}"
    elif setting in SETTINGS:
        allowed = f"{setting} is a line of a settings file, which CONFIG_FILE= names"
    elif setting in NEEDLESS:
        allowed = NEEDLESS[setting][1]
    elif name in ENV_FILE or name.startswith("WANDB_"):
        allowed = OF_ENV_FILE
    else:
        problem += nearest(typed, tuple(spelled.values()))
    return ConfigError(problem, name=typed, allowed=allowed)
