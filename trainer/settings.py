"""usage: python -m trainer config [--config train.yaml] [--name value ...] [--json]

Prints what a run would be told, and where each value comes from. The first that says something wins:
  1. the command line: --name value; in a job these are the plan's decisions
  2. the environment, then the file .env, by the names below
  3. the YAML file of --config, or of CONFIG_FILE in the environment: `name: value` on each line
  4. the default, in parentheses below
`lora` takes a rank or high, medium, low, and stands for rank and alpha; lora_r alone brings twice itself as alpha too.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from trainer.config import KNOBS, RANKS, SETTINGS, TrainConfig, read_rank
from trainer.env_file import EnvFile, take_env_file
from trainer.files import once
from trainer.flags import answer_help, build, convert, options, split_flags, word
from trainer.other_trainers import NEEDLESS
from trainer.outcome import BAD_CONFIG, FINISHED, ConfigError
from trainer.secret_shapes import told
from trainer.spellings import CONFIG_FILE, ENVIRONMENT, LORA, OURS
from trainer.text import printable, wrap
from trainer.translate import KNOWN, answer_others, is_section, setting_of, value_word

COMMAND_LINE = "command line"
TAKES = "`name: value` on each line; see python -m trainer config --help"
# Options that may be given without a value.
STAND_ALONE = ("json", "planned", "strict")
PLANNED = tuple(name for name, setting in SETTINGS.items() if setting.planned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings as they were read, and where each value comes from."""

    values: dict[str, Any]
    """By field of TrainConfig; fields without a value or default are missing."""
    sources: dict[str, str]
    """The source of each value, by field."""
    notices: tuple[str, ...] = ()
    """Notices about spellings that were translated."""
    as_json: bool = False
    """Whether --json was given, for verbs that print their results."""

    def config(self) -> TrainConfig:
        """The settings as a TrainConfig. Raises ConfigError naming the missing ones."""
        return build(TrainConfig, self.values)


def resolve_settings(
    argv: Sequence[str], environ: Mapping[str, str], env_file: Mapping[str, str] | None = None, *, folder: Path = Path()
) -> Settings:
    """Every setting with its source. Reads the YAML file, relative to `folder`, and no other file.

    Raises:
        ConfigError: an unknown or repeated name, a value that its field does not accept or that contradicts the plan.
    """
    flags, env_file = split_flags(argv, STAND_ALONE), env_file or {}
    as_json, planned = flags.pop("json", "false") == "true", flags.pop("planned", "false") == "true"
    named = flags.pop("config", environ.get(CONFIG_FILE) or env_file.get(CONFIG_FILE))
    if named == "":
        raise ConfigError(name="--config", given="", allowed="takes a YAML file")
    path = str(folder / named) if named else ""
    problems: list[ConfigError] = []
    layers: dict[str, Mapping[str, object]] = {
        path: _read_file(path, problems) if path else {},
        ".env": {name: env_file[name] for name in ENVIRONMENT if env_file.get(name)},
        "environment": {name: environ[name] for name in ENVIRONMENT if environ.get(name)},
        COMMAND_LINE: flags,
    }
    notices: list[str] = []
    lines = {".env": env_file.lines} if isinstance(env_file, EnvFile) else {}
    given: dict[str, dict[str, Any]] = {}
    for source, layer in layers.items():
        try:
            given[source] = read_layer(source, layer, notices, lines.get(source))
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError.of(problems)
    values = {name: option.default for name, option in options(TrainConfig).items() if option.default is not MISSING}
    sources = dict.fromkeys(values, "default")
    for source, said in given.items():
        values |= said
        sources |= dict.fromkeys(said, source)
    if sources["lora_alpha"] == "default" != sources["lora_r"]:
        values["lora_alpha"], sources["lora_alpha"] = 2 * values["lora_r"], "twice lora_r"
    said = given[path]
    against = [name for name in PLANNED if planned and said.get(name, values[name]) != values[name]]
    settled = _without_effect(said, values)
    notices += dict.fromkeys(f"{path}: {settled[name]}" for name in against if name in settled)  # each once
    if against := [name for name in against if name not in settled]:
        spelled = {setting_of(key, ""): key for key in layers[path]}
        told = [
            f"{spelled[n]}: {word(layers[path][spelled[n]])}, but the plan decides {word(values[n])}" for n in against
        ]
        raise ConfigError(
            f"{path} says {', and '.join(told)}: take {' and '.join(spelled[n] for n in against)} out of the file",
            name=against[0],
            advice=", ".join(dict.fromkeys(SETTINGS[name].planned for name in against)),
        )
    return Settings(values=values, sources=sources, notices=tuple(notices), as_json=as_json)


def _without_effect(said: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """The plan's settings in a file whose values change no result, each with the notice about it ("" for none)."""
    settled = {}
    if said.get("activation_checkpointing"):
        settled["activation_checkpointing"] = (
            "activation checkpointing is left out: the plan fits without it, and faster"
        )
    batch = ("micro_batch_size", "gradient_accumulation_steps")
    asked = math.prod(said.get(name, 0) for name in batch)
    if asked == math.prod(values[name] for name in batch) * values["world_size"]:
        divided = " x ".join(str(values[name]) for name in (*batch, "world_size"))
        settled |= dict.fromkeys(batch, f"the plan divides these {asked} samples a step into {divided} (processes)")
    return settled


def read_layer(
    source: str, given: Mapping[str, object], notices: list[str], lines: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The settings of one source: checked values by setting, where an explicit rank or alpha overrides a preset's.
    `lines` are the line numbers of the source's names, if known.

    Other names and words are translated, with a line added to `notices`. Raises ConfigError with all mistakes.
    """
    dash = "--" if source == COMMAND_LINE else ""
    values: dict[str, Any] = {}
    preset: dict[str, Any] = {}
    names: dict[str, str] = {}
    problems: list[ConfigError] = []
    for name, value in given.items():
        ours = setting_of(name, value)
        try:
            if ours in names:
                both = f"{names[ours]} and {name} are both {ours} here: leave one out"
                raise ConfigError(f"{source}: {both}" if dash else both, name=ours)
            names[ours] = name
            if is_section(ours, value):
                assert isinstance(value, dict)
                read_layer("", value, [])
            elif ours in (*SETTINGS, LORA):
                said, notice = _read_value(name, value, shown_as=f"{dash}{name}")
                (preset if ours == LORA else values).update(said)
                notices += [f"{source}: {notice}"] if notice else []
        except ConfigError as error:
            problems.append(error.but(source=f"{source} line {lines[name]}") if lines else error)
    dropped, refused = answer_others(given, dash)
    notices += [f"{source}: {said}" for said in dropped]
    if problems := [*problems, *refused]:
        raise ConfigError.of(problems, source="" if dash or lines else source)
    return preset | values


def _read_value(name: str, value: object, *, shown_as: str) -> tuple[dict[str, Any], str]:
    """(checked values by setting, a notice about another spelling or ""). Raises ConfigError."""
    ours = setting_of(name, value)
    if ours in ("actions", "lora_targets") and isinstance(value, list):
        value = ",".join(map(str, value))
    if ours == "lora_targets":
        value = re.sub(r"\s*,\s*", ",", str(value))
    if ours == "columns" and isinstance(value, dict):
        value = ",".join(f"{column}={key}" for column, key in value.items())
    meant = SETTINGS[ours].words.get(value_word(value), value) if ours in SETTINGS else value
    same = (ours, meant) == (name, value) or name in ENVIRONMENT
    notice = "" if same else f"{name}={value} is {ours}={meant} here"
    if ours != LORA:
        return {ours: convert(TrainConfig, ours, meant, shown_as=shown_as)}, notice
    if (rank := read_rank(str(meant))) is None:
        raise ConfigError(name=shown_as, given=str(meant), allowed=f"takes {RANKS}")
    return {"lora_r": rank, "lora_alpha": 2 * rank}, notice


def _read_file(path: str, problems: list[ConfigError]) -> dict[str, object]:
    """The values of a YAML file by key; a key that is no setting is included even when its value is null. What is
    wrong with the file as such is added to `problems`."""
    # imported late: most requests have no such file, and planning should be fast
    from trainer.yaml_file import Malformed, read_yaml

    keys: list[str] = []
    found: Mapping[str, Any] = {}
    try:
        found = read_yaml(Path(path), path, takes=TAKES, check_key=keys.append)
    except ConfigError as error:
        problems.append(error)
        found = error.content if isinstance(error, Malformed) else found
    return {**{key: None for key in keys if setting_of(key, None) not in KNOWN}, **found}


def usage() -> str:
    """The text that --help prints above the settings."""
    knobs = [f"  {name:<17}{weight:<10}{usual:<17}{why}" for name, weight, usual, why in KNOBS]
    names = (
        ("In the environment and .env", ENVIRONMENT),
        ("A YAML file that contradicts the plan is refused (OUTPUT= and RUN= say the first two)", PLANNED),
        ("Other trainers' names, translated", [name for name in OURS if name not in ENVIRONMENT]),
        (
            f"What {len(NEEDLESS)} more names of theirs are here, such as",
            [*itertools.islice(NEEDLESS, 0, None, len(NEEDLESS) // 6), "stands in docs/settings.md"],
        ),
    )
    lists = [wrap(f"{what}: {', '.join(listed)}.", width=118) for what, listed in names]
    return "\n".join((f"{__doc__}", *lists, "\nWhat matters, where to look, why:\n", *knobs, "\nSettings:"))


def settings_here(argv: Sequence[str]) -> Settings:
    """The settings of a run on this machine, with the notices printed; reads .env into the environment. Raises
    ConfigError."""
    environ = dict(os.environ)
    settings = resolve_settings(argv, environ, take_env_file())
    say(settings.notices)
    return settings


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer config`. Raises ConfigError."""
    answer_help(argv, usage(), TrainConfig)
    settings = settings_here(argv)
    lacking = [name for name in options(TrainConfig) if name not in settings.values]
    if settings.as_json:
        found = {name: {"value": value, "source": settings.sources[name]} for name, value in settings.values.items()}
        print(json.dumps({"settings": found, "lacking": lacking}, indent=1))
    else:
        for name in options(TrainConfig):
            value, source = settings.values.get(name, "-"), settings.sources.get(name, "required, given by nobody")
            print(printable(f"{name:<28} {word(value):<28} {source}"))
    return BAD_CONFIG if lacking else FINISHED


def say(notices: Sequence[str]) -> None:
    """Print the notices. A command that checks a file for several plans prints each notice once."""
    for notice in notices:
        once(_say, notice)


def _say(notice: str) -> None:
    print(f"trainyard: {told(notice)}", file=sys.stderr)
