"""Which setting a name means, in Trainyard's own spelling or another trainer's, and the answers to names that mean
none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trainer.config import SETTINGS
from trainer.other_trainers import ANY, NEEDLESS, SECTION
from trainer.outcome import ConfigError
from trainer.spellings import ENV_FILE, ENVIRONMENT, LORA, OURS, SHARES
from trainer.text import nearest, shown

LISTED = "python -m trainer config --help lists all"
OF_ENV_FILE = "this belongs in .env"
# Options that are not settings.
OPTIONS = ("config", "json")
KNOWN = frozenset((*SETTINGS, LORA, *OURS, *NEEDLESS))


def setting_of(name: str, value: object) -> str:
    """Trainyard's name of a setting, also for one with dashes or capitals; an unknown name unchanged."""
    plain = name.replace("-", "_").lower()
    name = plain if name not in KNOWN and plain in KNOWN else name
    return SHARES[name] if name in SHARES and re.fullmatch(r"0?\.[0-9]+|0", str(value)) else OURS.get(name, name)


def value_word(value: object) -> str:
    """A value in the form in which it is compared with other words for values."""
    text = str(value).lower()
    return {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text, text)


def is_section(ours: str, value: object) -> bool:
    """Whether a name has settings below it instead of a value."""
    return isinstance(value, dict) and ours != "columns" and NEEDLESS.get(ours, ((), SECTION))[1] == SECTION


def answer_others(given: Mapping[str, object], dash: str) -> tuple[list[str], list[ConfigError]]:
    """(notices about ignored names, errors about refused ones) of the names that are no settings, grouped by the
    reason; errors about unknown names come last."""
    dropped: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    problems: list[ConfigError] = []
    for name, value in given.items():
        ours = setting_of(name, value)
        if is_section(ours, value):
            refused.setdefault(SECTION, []).append(name)
        elif ours in NEEDLESS:
            harmless, reason = NEEDLESS[ours]
            needless = harmless == (ANY,) or "".join(value_word(value).split()) in harmless
            (dropped if needless else refused).setdefault(reason, []).append(f"{dash}{name}")
        elif ours in (*SETTINGS, LORA):
            continue
        elif ours in ENV_FILE or ours.startswith("WANDB_"):
            refused.setdefault(OF_ENV_FILE, []).append(f"{dash}{name}")
        else:
            theirs = (other for other in (*OURS, *NEEDLESS) if other not in ENVIRONMENT)
            near = nearest(name, (*SETTINGS, LORA, *OPTIONS, *theirs))
            problems.append(ConfigError(f"unknown {shown(f'{dash}{name}')}{near}", name=name, allowed=LISTED))
    answers = [
        ConfigError(_listed(names, *_VERBS.get(why, _NO_SETTING)), name=names[0], allowed=why)
        for why, names in refused.items()
    ]
    return [f"{_listed(names, 'is', 'are')} not needed: {why}" for why, names in dropped.items()], answers + problems


_NO_SETTING = ("is not a setting here", "are no settings here")
_VERBS = {SECTION: ("is a heading here", "are headings here")}


def _listed(names: Sequence[str], one: str, several: str) -> str:
    return f"{', '.join(names)} {several if len(names) > 1 else one}"
