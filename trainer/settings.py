"""usage: python -m trainer config [--config train.yaml] [--name value ...] [--json]

Prints what a run would be told, and where each value comes from. The first that says something wins:
  1. the command line: --name value; in a job these are the plan's decisions
  2. the environment, then the file .env, by the names below
  3. the YAML file of --config, or of CONFIG_FILE in the environment: `name: value` on each line
  4. the default, in parentheses below
`lora: high | medium | low` stands for rank and alpha; a rank alone brings twice itself as alpha.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trainer.config import KNOBS, LORA_PRESETS, SETTINGS, TrainConfig
from trainer.files import MOST_DEPTH, regular
from trainer.flags import answer_help, build, convert, options, split_flags, word
from trainer.outcome import BAD_CONFIG, FINISHED, ConfigError
from trainer.spellings import CONFIG_FILE, ENV_FILE, ENVIRONMENT, LORA, NEEDLESS, OURS, SECRETS
from trainer.text import printable, shown, wrap

COMMAND_LINE = "command line"
# Of a YAML file; ours have a hundredth of it.
MOST_CHARACTERS, MOST_VALUES = 1 << 16, 5_000
# Options that may be given without a value.
STAND_ALONE = ("json", "planned", "strict")
PLANNED = tuple(name for name, setting in SETTINGS.items() if setting.planned)
WATCHED = ("gradients", "parameters", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    values: dict[str, Any]
    """By field of TrainConfig; fields without a value or default are missing."""
    sources: dict[str, str]
    """Who said so, by field."""
    notices: tuple[str, ...] = ()
    """Other spellings that were translated."""
    as_json: bool = False
    """--json was given: for those who print what they find."""

    def config(self) -> TrainConfig:
        """Raises ConfigError naming what is lacking."""
        return build(TrainConfig, self.values)


def resolve_settings(
    argv: Sequence[str], environ: Mapping[str, str], env_file: Mapping[str, str] | None = None, *, folder: Path = Path()
) -> Settings:
    """Every setting with its source. Reads the YAML file, relative to `folder`, and nothing else.

    Raises:
        ConfigError: an unknown or repeated name, a value that its field does not take, a contradicted plan.
    """
    flags, env_file = split_flags(argv, STAND_ALONE), env_file or {}
    as_json, planned = flags.pop("json", "false") == "true", flags.pop("planned", "false") == "true"
    named = flags.pop("config", environ.get(CONFIG_FILE) or env_file.get(CONFIG_FILE))
    if named == "":
        raise ConfigError("--config takes a YAML file, got ''")
    path = str(folder / named) if named else ""
    layers: dict[str, Mapping[str, object]] = {
        path: read_yaml(Path(path)) if path else {},
        ".env": {name: env_file[name] for name in ENVIRONMENT if env_file.get(name)},
        "environment": {name: environ[name] for name in ENVIRONMENT if environ.get(name)},
        COMMAND_LINE: flags,
    }
    notices: list[str] = []
    given = {source: read_layer(source, layer, notices) for source, layer in layers.items()}
    values = {name: option.default for name, option in options(TrainConfig).items() if option.default is not MISSING}
    sources = dict.fromkeys(values, "default")
    for source, said in given.items():
        values |= said
        sources |= dict.fromkeys(said, source)
    if sources["lora_alpha"] == "default" != sources["lora_r"]:
        values["lora_alpha"], sources["lora_alpha"] = 2 * values["lora_r"], "twice lora_r"
    for name in PLANNED if planned else ():
        if given[path].get(name, values[name]) != values[name]:
            raise ConfigError(
                f"{path} says {name}: {word(given[path][name])}, but the plan decides {word(values[name])}: take "
                f"{name} out of the file; CONFIG=, EFFECTIVE_BATCH=, OUTPUT=, RUN= and the GPUs asked for decide it"
            )
    return Settings(values=values, sources=sources, notices=tuple(notices), as_json=as_json)


def read_layer(source: str, given: Mapping[str, object], notices: list[str]) -> dict[str, Any]:
    """What one source says: checked values by setting, a preset's rank and alpha below what says them outright.

    Other names and words are translated, and `notices` told. Raises ConfigError.
    """
    before = {COMMAND_LINE: "--", ".env": "", "environment": ""}.get(source, f"{source}: ")
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        if value is None and (OURS.get(name, name) in (*options(TrainConfig), LORA) or name in NEEDLESS):
            continue
        text = str(value).lower()
        text = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text, text)
        if name in NEEDLESS:
            needless, reason = NEEDLESS[name]
            if text not in needless.split():
                raise ConfigError(f"{before}{name} is not a setting here, leave {shown(text)} out: {reason}")
            notices.append(f"{source}: {name} is not needed: {reason}")
            continue
        ours = OURS.get(name, name)
        meant = SETTINGS[ours].words.get(text, value) if ours in SETTINGS else value
        if ours == "actions" and isinstance(value, list):
            value = meant = ",".join(map(str, value))
        if ours in names:
            raise ConfigError(f"{source}: {names[ours]} and {name} are both {ours} here: leave one out")
        names[ours] = name
        if (ours, meant) != (name, value) and name not in ENVIRONMENT:
            notices.append(f"{source}: {name}={value} is {ours}={meant} here")
        if ours != LORA:
            known = (LORA, "config", "json") if source == COMMAND_LINE else (LORA,)
            values[ours] = convert(TrainConfig, ours, meant, shown_as=f"{before}{name}", also=known)
        elif str(meant) in LORA_PRESETS:
            rank, alpha = LORA_PRESETS[str(meant)]
            values = {"lora_r": rank, "lora_alpha": alpha, **values}
        else:
            raise ConfigError(f"{before}{name} takes {' or '.join(LORA_PRESETS)}, got {shown(str(meant))}")
    return values


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value lines of the project's `.env`: secrets and settings, read inside the job and by the planner, never
    passed on; {} when there is none.

    Raises:
        ConfigError: a line that is no assignment, or a name that is not one of ours.
    """
    # The value in quotes, or up to the comment that a space and # begin.
    assignment = re.compile(r"""(?:export )?([^=]*)=\s*(?:'([^']*)'|"([^"]*)"|([^'"\s#].*?)?)(?:\s+#.*)?""")
    values = {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if not (found := assignment.fullmatch(line)) or "\N{REPLACEMENT CHARACTER}" in line:
            # Not said back: it may be a bare token.
            raise ConfigError(f"{path} line {number}: takes NAME=value in UTF-8, the value whole in quotes or without")
        name = found[1].strip()
        if name not in ENV_FILE and not re.fullmatch("WANDB_[A-Z_]+", name):
            # A token with = at its end reads like a name: only what is written like ours is said back.
            said = repr(name) if re.fullmatch("[A-Z_]{1,40}", name) else "this name"
            raise ConfigError(f"{path} line {number}: {said} is not one of {', '.join((*ENV_FILE, 'WANDB_*'))}")
        values[name] = found[2] or found[3] or found[4] or ""
    watched(values, f"{path}: ")
    return {name: value for name, value in values.items() if value}


def watched(environ: Mapping[str, str], before: str = "") -> str | None:
    """What W&B is to log histograms of: gradients, parameters, all, or None. Raises ConfigError for another word."""
    said = environ.get("WANDB_WATCH", "").strip().lower()
    if said not in (*WATCHED, "false", ""):
        raise ConfigError(f"{before}WANDB_WATCH takes {', '.join(WATCHED)} or false, got {shown(said)}")
    return said if said in WATCHED else None


def open_to_others(path: Path, values: Mapping[str, str]) -> list[str]:
    """What to say of a file of secrets, with these `values`, that others can read; nothing where they cannot."""
    secrets = [name for name in SECRETS if name in values]
    if not secrets or not path.stat().st_mode & 0o077:
        return []
    return [f"{path} holds {' and '.join(secrets)}, and others on this machine can read it: chmod 600 {path}"]


class OnceLoader(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; a setting said twice is a mistake. And it lets 600 bytes
    of aliases stand for a thousand million values, which no file of settings needs."""

    _depth = 0

    def compose_node(self, *where: Any) -> yaml.Node | None:
        self._depth += 1
        _refuse_deep(self._depth)
        node = super().compose_node(*where)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _written_out(node, {})[0] > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((key for key, times in keys.items() if times > 1), None):
            raise yaml.YAMLError(f"{twice} was given twice")
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of `node` when every alias is written out. Raises YAMLError."""
    if id(node) not in known:
        known[id(node)] = (1, MOST_DEPTH)  # until it is known; one that holds itself has no end
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        found = [_written_out(part, known) for part in parts]
        known[id(node)] = (1 + sum(n for n, _ in found), 1 + max((levels for _, levels in found), default=0))
        _refuse_deep(known[id(node)][1])
    return known[id(node)]


def _refuse_deep(levels: int) -> None:
    if levels > MOST_DEPTH:
        raise yaml.YAMLError(f"it nests deeper than {MOST_DEPTH} levels")


class AsTyped(OnceLoader):
    """Leaves scalars, but for null, as they were typed: YAML's own reading makes 010 an 8, no a false, and a folder
    named 2024-01-01 a date."""

    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[misc]


AsTyped.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""])


def load_yaml(path: Path, source: str, loader: type[OnceLoader] = OnceLoader) -> Any:
    """What the file says; {} when it is empty. `source` is how messages name it. Raises ConfigError."""
    try:
        with regular(path).open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return parse_yaml(text, source, loader)


def parse_yaml(text: str, source: str, loader: type[OnceLoader] = OnceLoader) -> Any:
    """What `text` says; {} when it is empty. `source` is how messages name it. Raises ConfigError."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{source} is longer than {MOST_CHARACTERS} characters, which is no file of settings")
    try:
        entry = yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of a tag's own reader, of nesting
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    return {} if entry is None else entry


def without_nulls(content: Any) -> Any:
    """The same without the keys whose value is null, at any depth: such a key says nothing.

    Raises:
        ConfigError: something in it holds itself.
    """
    try:
        return _without_nulls(content)
    except RecursionError:
        raise ConfigError("YAML: a value holds itself by its anchor") from None


def _without_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nulls(value) for key, value in content.items() if value is not None}
    return [_without_nulls(part) for part in content] if isinstance(content, list) else content


def read_yaml(path: Path, loader: type[OnceLoader] = AsTyped) -> dict[str, object]:
    """The file's settings by name, by default as typed. Raises ConfigError when it is no flat mapping."""
    entry = load_yaml(path, str(path), loader)
    if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry):
        raise ConfigError(f"{path} takes `name: value` on each line; see python -m trainer config --help")
    return entry


def usage() -> str:
    """What --help prints above the settings."""
    knobs = [f"  {name:<17}{weight:<10}{usual:<17}{why}" for name, weight, usual, why in KNOBS]
    names = (
        ("In the environment and .env", ENVIRONMENT),
        ("A YAML file that contradicts the plan is refused (OUTPUT= and RUN= say the first two)", PLANNED),
        (
            "Other trainers' names, translated, dropped, or refused with what to say instead",
            [name for name in (*OURS, *NEEDLESS) if name not in ENVIRONMENT],
        ),
    )
    lists = [wrap(f"{what}: {', '.join(listed)}.", width=118) for what, listed in names]
    return "\n".join((f"{__doc__}", *lists, "\nWhat matters, where to look, why:\n", *knobs, "\nSettings:"))


def settings_here(argv: Sequence[str]) -> Settings:
    """What a run would be told here, its notices said; .env is taken in. Raises ConfigError."""
    environ = dict(os.environ)
    settings = resolve_settings(argv, environ, take_env_file())
    say(settings.notices)
    return settings


def take_env_file() -> dict[str, str]:
    """What `.env` says. It goes into the environment, where the libraries look for tokens and caches once they are
    imported. Raises ConfigError."""
    env_file = read_env_file(Path(".env"))
    os.environ.update(env_file | os.environ)
    if token := os.environ.get("HUGGINGFACE_TOKEN"):
        os.environ.setdefault("HF_TOKEN", token)
    return env_file


def main(argv: Sequence[str]) -> int:
    """`python -m trainer config`. Raises ConfigError."""
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
    for notice in notices:
        print(f"trainyard: {printable(notice)}", file=sys.stderr)
