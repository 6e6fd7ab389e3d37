"""docs/settings.md says what the two tables say, of every setting and every variable. `make golden` writes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING

from paths import ROOT

from planner.request.variables import CLUSTERS, EVERY, VARIABLES, Variable
from trainer.config import SETTINGS, TrainConfig
from trainer.flags import field_help, options, word
from trainer.other_trainers import ANY, NEEDLESS
from trainer.outcome import ConfigError

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Settings and variables

Written by `make golden` from [trainer/config.py](../trainer/config.py) and
[planner/request/variables.py](../planner/request/variables.py): change those, not this page.

A **variable** is asked for with make, `make submit GPUS=2 TIME=12h`, or as a flag, `--gpus 2 --time 12h`. A **setting**
is told to the trainer: by its variable, by `.env`, or as `name: value` in the YAML file of `CONFIG_FILE=train.yaml`.
`python -m trainer config` prints every setting of a run and where its value comes from.

With make, only the variables on its command line count: an exported `TIME` or `NAME` changes nothing.
"""
COLUMNS = """
- **for**: the schedulers that take it (`TO=`; `local` is `make run`); the others refuse it. Empty: all take it.
- **site**: the site file may hold its default, in small letters. **grid**: members of `GRID=` may differ in it.
  **resume**: `make resume` may give it another value, on the schedulers that take it. **sweep**: only a sweep takes it.
"""
OTHERS = """
Every field of TrainingArguments, SFTConfig, LoraConfig and BitsAndBytesConfig, and the commonest keys of LLaMA-Factory
and Axolotl, are a setting above (in "also said as") or stand here. A value in parentheses is what every run has: it is
dropped, and a notice says why. All other values are refused, all problems of a file in one message.
"""
MEANS = """
- **plan**: the plan decides it; a YAML file that says something else is refused.
- **sweep**: a W&B sweep may choose it.
- **continues**: a run may go on from its checkpoint after you changed this setting. Every other setting is compared:
  with another value the run is refused, since its losses or scores would mean something else.
- **folder**: it names a folder that the job must see.
"""


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([row(heads), row("---" for _ in heads), *map(row, rows)])


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def taken(variable: Variable) -> str:
    """What it takes, in the words in which it refuses everything else."""
    try:
        variable.parse(variable.name, "\0")
    except ConfigError as error:
        return error.allowed.rpartition("known are ")[2].removeprefix("it ").removeprefix("takes ")
    raise AssertionError(f"{variable.name} takes anything")


def variable_row(variable: Variable) -> Sequence[str]:
    site = "site" if variable.site == CLUSTERS else f"site ({', '.join(variable.site)})"
    more = {site: bool(variable.site), "grid": variable.grid, "resume": variable.resume, "sweep": variable.sweeps}
    where = "" if variable.takes == EVERY else ", ".join(variable.takes)
    return f"`{variable.name}`", variable.help, taken(variable), where, marked(more)


def setting_row(name: str) -> Sequence[str]:
    option, setting = options(TrainConfig)[name], SETTINGS[name]
    default = {MISSING: "required", None: ""}.get(option.default, f"`{word(option.default)}`")
    variable = [f"{variable.name}=" for variable in VARIABLES if name == variable.setting]
    also = code([*variable, *setting.env.split(), *setting.also.split()])
    more = {"plan": setting.planned, "sweep": setting.swept, "continues": setting.continues, "folder": setting.folder}
    return f"`{name}`", field_help(TrainConfig)[name], option.allowed, default, also, marked(more)


def reason_row(reason: str) -> Sequence[str]:
    listed = [(name, dropped) for name, (dropped, why) in NEEDLESS.items() if why == reason]
    return "; ".join(f"`{name}`{answer(dropped)}" for name, dropped in listed), reason


def answer(dropped: Sequence[str]) -> str:
    return " (any)" if dropped == (ANY,) else f" ({code(dropped)})" if dropped else ""


def marked(columns: Mapping[str, bool]) -> str:
    return ", ".join(column for column, holds in columns.items() if holds)


def page() -> str:
    variables = table(("variable", "what it is (default)", "takes", "for", "more"), map(variable_row, VARIABLES))
    settings = table(("setting", "what it is", "takes", "default", "also said as", "more"), map(setting_row, SETTINGS))
    reasons = dict.fromkeys(reason for _, reason in NEEDLESS.values())
    needless = table(("names, and the values that are dropped", "why they are no settings"), map(reason_row, reasons))
    return "\n".join(
        [
            *(HEAD, "## Variables", COLUMNS, variables, "", "## Settings", MEANS, settings, ""),
            *("## Names of other trainers that are no settings", OTHERS, needless, ""),
        ]
    )


def test_the_page_says_what_the_tables_say() -> None:
    made = page()
    if os.environ.get("TRAINYARD_REWRITE_GOLDEN"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made


def test_every_variable_says_what_it_takes() -> None:
    assert [variable.name for variable in VARIABLES if not taken(variable)] == []
