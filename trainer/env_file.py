"""The file `.env` of a checkout, with secrets and settings, one NAME=value on each line, and the only code that reads
it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from trainer.files import MOST_CHARACTERS, once, read_typed
from trainer.outcome import ATTEMPT_DIR_ENV, ConfigError
from trainer.spellings import ALLOCATOR, ENV_FILE, FORMER_ALLOCATOR, SECRETS

WATCHED = ("gradients", "parameters", "all")

# NAME=value: the value is in quotes, or ends before a comment that begins with a space and #.
ASSIGNMENT = r"""(?:export )?([^=]*)=\s*(?:'([^']*)'|"([^"]*)"|([^'"\s#]\S*(?:\s+(?!#)\S+)*)?)(?:\s+#.*)?"""
CONTROL = r"[\0-\x08\x0e-\x1f\x7f-\x9f]"
"""No environment takes a NUL; a terminal acts on the others."""


class EnvFile(dict[str, str]):
    """The values of the file by name."""

    lines: Mapping[str, int]
    """The line number of each name."""

    def __init__(self, values: Mapping[str, str], lines: Mapping[str, int]) -> None:
        super().__init__(values)
        self.lines = lines


def read_env_file(path: Path) -> EnvFile:
    """The values of the file by name; {} when there is no file. A name without a value counts as not given. The job
    and the planner read the file themselves; the values are never passed on.

    Raises:
        ConfigError: with every mistake: a line that is no assignment, a name that is unknown or is given twice.
    """
    try:
        text = once(read_typed, path).decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        return EnvFile({}, {})
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{path} is longer than {MOST_CHARACTERS} characters: it takes NAME=value on each line")
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[ConfigError] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            name, value = _assignment(line)
            if name in lines:
                raise ConfigError(f"{name} is given in line {lines[name]} too: leave one out", name=name)
        except ConfigError as error:
            problems.append(error.but(source=f"{path} line {number}"))
        else:
            values[name], lines[name] = value, number
    try:
        watched(values)
    except ConfigError as error:
        problems.append(error.but(source=f"{path} line {lines['WANDB_WATCH']}"))
    if problems:
        raise ConfigError.of(problems)
    return EnvFile({name: value for name, value in values.items() if value}, lines)


def _assignment(line: str) -> tuple[str, str]:
    """(name, value). Raises ConfigError, which does not quote the line, because it may be a bare token."""
    if not (found := re.fullmatch(ASSIGNMENT, line)) or "\N{REPLACEMENT CHARACTER}" in line:
        raise ConfigError("takes NAME=value in UTF-8, the value whole in quotes or without")
    if re.search(CONTROL, line):
        raise ConfigError("holds a control character: type the line again")
    name = found[1].strip()
    if name not in ENV_FILE and not re.fullmatch("WANDB_[A-Z_]+", name):
        # A token with = at its end looks like a name: only a word in the form of Trainyard's names is quoted.
        said = repr(name) if re.fullmatch("[A-Z_]{1,40}", name) else "this name"
        raise ConfigError(f"{said} is not one of {', '.join((*ENV_FILE, 'WANDB_*'))}")
    return name, found[2] or found[3] or found[4] or ""


def watched(environ: Mapping[str, str]) -> str | None:
    """The W&B histograms to log: gradients, parameters, all, or None. Raises ConfigError for another word."""
    said = environ.get("WANDB_WATCH", "").strip().lower()
    if said not in (*WATCHED, "false", ""):
        raise ConfigError(name="WANDB_WATCH", given=said, allowed=f"takes {', '.join(WATCHED)} or false")
    return said if said in WATCHED else None


def open_to_others(path: Path, values: Mapping[str, str]) -> list[str]:
    """A warning about a file of secrets, with these `values`, that others can read; an empty list when they cannot."""
    secrets = [name for name in SECRETS if name in values]
    if not secrets or not path.stat().st_mode & 0o077:
        return []
    return [f"{path} holds {' and '.join(secrets)}, and others on this machine can read it: chmod 600 {path}"]


def with_env_file(
    env_file: Mapping[str, str], environ: Mapping[str, str], planned: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """`environ` with the values of the file that it lacks, and with those that only a plan's own words contradict,
    `planned`."""
    said = {name: value for name, value in environ.items() if planned.get(name) != value}
    found = {**environ, **env_file, **said}
    names = (ALLOCATOR, FORMER_ALLOCATOR)
    if asked := next((by[name] for by in (said, env_file) for name in names if by.get(name)), None):
        found |= dict.fromkeys((ALLOCATOR, *(name for name in names if name in found)), asked)
    return found


def take_env_file() -> EnvFile:
    """The values of `.env`, which are also put into the environment, where the libraries look for tokens and caches
    when they are imported. Raises ConfigError."""
    from trainer.log import complain  # imported late: code that only reads runs needs no logging

    env_file = read_env_file(path := Path(".env"))
    # the supervisor has already printed the notice
    for notice in [] if ATTEMPT_DIR_ENV in os.environ else open_to_others(path, env_file):
        complain(notice)
    os.environ.update(with_env_file(env_file, os.environ))
    if token := os.environ.get("HUGGINGFACE_TOKEN"):
        os.environ.setdefault("HF_TOKEN", token)
    return env_file
