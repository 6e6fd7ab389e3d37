"""Where each setting of a run comes from: command line, then environment and .env, then YAML, then defaults.

    python -m trainer config [--config train.yaml] [--name value ...] [--json]

prints what a run would be told and by whom. The planner's flags are a command line too, so what the plan decides
always wins over the environment; a YAML file that says otherwise is refused, since it was written for this run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.config import KNOBS, TrainConfig
from trainer.flags import answer_help, build, check_name, convert, help_table, split_flags, word
from trainer.outcome import BAD_CONFIG, FINISHED, ConfigError
from trainer.spellings import FIXED, LORA, RENAMED, translate
from trainer.text import wrap

# Names of the environment and of .env. What else may stand there is in trainer/supervise.py.
ENVIRONMENT: dict[str, str] = {
    "MODEL_NAME": "model",
    "GRID_DATASET_PATH": "data",
    "OUTPUT_DIR": "output_dir",
    "MAX_STEPS": "max_steps",
    "BATCH_SIZE": "micro_batch_size",
    "GRAD_ACCUM": "gradient_accumulation_steps",
    "LEARNING_RATE": "learning_rate",
    "MAX_LENGTH": "max_length",
    "IMAGE_ROOT": "image_root",
    "LORA": LORA,
}
CONFIG_FILE = "CONFIG_FILE"
PLAN_DECIDES = (
    "world_size", "micro_batch_size", "gradient_accumulation_steps", "activation_checkpointing", "optimizer",
)  # fmt: skip

USAGE = """usage: python -m trainer config [--config train.yaml] [--name value ...] [--json]

Prints what a run would be told, and where each value comes from. The first that says something wins:
  1. the command line: --name value; in a job these are the plan's decisions
  2. the environment, then the file .env: {names}
  3. the YAML file of --config, or of CONFIG_FILE in the environment: `name: value` on each line
  4. the default, in parentheses below
`lora: high | medium | low` stands for rank and alpha. A YAML file that contradicts what the plan decides
({decided}) is refused. Older names are understood and translated: {old}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    values: dict[str, Any]
    """By field of TrainConfig; fields without a value or default are missing."""
    sources: dict[str, str]
    """Who said so, by field."""
    notices: tuple[str, ...] = ()
    """Old spellings that were translated."""

    def config(self) -> TrainConfig:
        """Raises ConfigError naming what is lacking."""
        config: TrainConfig = build(TrainConfig, self.values)
        return config


def resolve_settings(
    argv: Sequence[str], environ: Mapping[str, str], env_file: Mapping[str, str] | None = None
) -> Settings:
    """Every setting with its source. Reads the YAML file and nothing else.

    Raises:
        ConfigError: an unknown or repeated name, a value that its field does not take, a contradicted plan.
    """
    flags = split_flags(argv)
    path = flags.pop("config", None) or environ.get(CONFIG_FILE) or (env_file or {}).get(CONFIG_FILE)
    planned = flags.pop("planned", "false") == "true"
    layers: list[tuple[str, Mapping[str, object]]] = [
        (".env", _named(env_file or {})),
        ("environment", _named(environ)),
        ("command line", flags),
    ]
    if path:
        layers.insert(0, (path, read_yaml(Path(path))))
    values: dict[str, Any] = {
        f.name: f.default for f in dataclasses.fields(TrainConfig) if f.default is not dataclasses.MISSING
    }
    sources = dict.fromkeys(values, "default")
    notices: list[str] = []
    in_file: dict[str, Any] = {}
    for source, given in layers:
        translated, said = translate(given, source)
        notices += said
        for name, value in translated.items():
            if source == path:
                check_name(name, TrainConfig, where=f"{path}: ", also=(LORA,))
            else:
                check_name(name, TrainConfig, shown_as=_shown(source, name), also=(LORA,))
            result = convert(TrainConfig, name, value, shown_as=_shown(source, name))
            values[name], sources[name] = result, source
            if source == path:
                in_file[name] = result
    for name in PLAN_DECIDES if planned else ():
        _check_plan(str(path), name, in_file.get(name, values[name]), values[name])
    return Settings(values=values, sources=sources, notices=tuple(notices))


def _check_plan(path: str, name: str, written: object, decided: object) -> None:
    if written != decided:
        raise ConfigError(
            f"{path} says {name}: {word(written)}, but the plan decides {word(decided)}: take {name} out of the "
            "file; CONFIG=, EFFECTIVE_BATCH= and the GPUs asked for are what the plan is made from"
        )


def _named(environ: Mapping[str, str]) -> dict[str, str]:
    return {field: environ[name] for name, field in ENVIRONMENT.items() if environ.get(name)}


def _shown(source: str, name: str) -> str:
    """A setting as the person wrote it: --max_steps, MAX_STEPS, train.yaml: max_steps."""
    variables = {field: variable for variable, field in ENVIRONMENT.items()}
    if source == "command line":
        return f"--{name}"
    return variables.get(name, name) if source in (".env", "environment") else f"{source}: {name}"


class _OnceLoader(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; a setting said twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"{twice} was given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, object]:
    """The file's settings by name, as written. Raises ConfigError when it is no flat mapping."""
    try:
        entry = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry):
        raise ConfigError(f"{path} takes `name: value` on each line; see python -m trainer config --help")
    return entry


def help_text() -> str:
    usage = USAGE.format(
        names=", ".join(ENVIRONMENT), decided=", ".join(PLAN_DECIDES), old=", ".join((*RENAMED, *FIXED))
    )
    widths = [max(len(row[column]) for row in KNOBS) for column in range(3)]
    knobs = ["  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])) for row in KNOBS]
    return "\n".join(
        [
            *(
                wrap(line.strip(), width=110, prefix=line[: len(line) - len(line.lstrip())])
                for line in usage.splitlines()
            ),
            "\nWhat matters, where to look, why:\n",
            *(f"  {line}" for line in knobs),
            "\nSettings:\n",
            help_table(TrainConfig),
        ]
    )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """`python -m trainer config`. Raises ConfigError."""
    from trainer.env_file import read_env_file  # which reads names from here

    answer_help(argv, help_text())
    rest = [flag for flag in argv if flag != "--json"]
    settings = resolve_settings(rest, os.environ, read_env_file(Path(".env")))
    say(settings.notices)
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    lacking: Collection[str] = [name for name in fields if name not in settings.values]
    if len(rest) < len(argv):
        found = {
            name: {"value": settings.values[name], "source": settings.sources[name]}
            for name in fields
            if name not in lacking
        }
        print(json.dumps({"settings": found, "lacking": lacking}, indent=1))
    else:
        for name in fields:
            value = word(settings.values[name]) if name not in lacking else "-"
            print(f"{name:<28} {value:<28} {settings.sources.get(name, 'required, given by nobody')}")
    return BAD_CONFIG if lacking else FINISHED


def from_plan(launch_argv: Sequence[str], project_dir: Path) -> Settings:
    """What the ranks of a planned job will be told, found out before anything is submitted. Raises ConfigError."""
    argv = list(launch_argv[launch_argv.index("trainer.train") + 1 :])
    if "--config" in argv:
        place = argv.index("--config") + 1
        argv[place] = str(project_dir / argv[place])
    settings = resolve_settings(argv, {})
    settings.config()
    return settings


def say(notices: Sequence[str]) -> None:
    for notice in notices:
        print(f"trainyard: {notice}", file=sys.stderr)
