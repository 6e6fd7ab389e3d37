"""Commands that are printed to be copied: they run unchanged in the folder where they are printed. Torch-free."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TYPED_ENV = "TRAINYARD_TYPED"
"""What a person typed to come here: `make` or `./trainyard`, which say it; without it, `python -m`."""
MAKE_VARIABLES = {
    "model": "MODEL", "data": "DATA", "device": "DEVICE", "max_length": "MAX_LENGTH", "config": "CONFIG_FILE",
    "question": "QUESTION", "context": "CONTEXT", "records": "RECORDS",
}  # fmt: skip
"""make's variable for an option of `python -m trainer`, as the Makefile hands it on."""


def command(*words: object) -> str:
    """The command `python -m` followed by `words`, quoted for a shell, with this Python's path where PATH has another
    one."""
    return _by(python(), words)


def training_command(*words: object) -> str:
    """As `command`, but with the checkout's environment for training when this Python has no torch."""
    if find_spec("torch"):
        return command(*words)
    made = (f".venv/{flavour}/bin/python" for flavour in ("cuda", "cpu"))
    # A path without permission counts as absent: Path.is_file would raise PermissionError.
    ready = next((path for path in made if os.path.isfile(CHECKOUT / path)), None)
    return _by(ready, words) if ready else command(*words)


def command_from_anywhere(*words: object) -> str:
    """As `command`, for a page that is read in any folder: it first changes to the checkout. An installed Trainyard,
    as in the image, needs no folder."""
    there = (CHECKOUT / "pyproject.toml").is_file()
    return f"cd {shlex.quote(str(CHECKOUT))} && {_by(python(CHECKOUT), words)}" if there else command(*words)


def command_as_typed(made: str, *words: object) -> str:
    """The command in the words of the program that a person typed: `made` with make, else `words` behind that
    program, ./trainyard, or behind `python -m trainer`."""
    program = os.environ.get(TYPED_ENV, "")
    if program == "make":
        return made
    return shlex.join([program, *map(str, words)]) if program else command("trainer", *words)


def option_as_typed(name: str) -> str:
    """An option by the name that a person types: `MODEL` with make, `--model` without."""
    return MAKE_VARIABLES[name] if name in MAKE_VARIABLES and os.environ.get(TYPED_ENV) == "make" else f"--{name}"


def option_with_value(name: str, value: str) -> str:
    """An option with its value, as a person types it."""
    shown = option_as_typed(name)
    return f"{shown}{' ' if shown.startswith('--') else '='}{shlex.quote(value)}"


def name_as_typed(name: str, argv: Sequence[str]) -> str:
    """As `option_as_typed`, for the name that an error has: `--data`, or `DATA` where `argv` has --data. Another name
    stays."""
    for ours, made in MAKE_VARIABLES.items():
        if name == f"--{ours}" or (name == made and any(word.partition("=")[0] == f"--{ours}" for word in argv)):
            return option_as_typed(ours)
    return name


def run_variables(folder: str) -> str:
    """The variables by which make finds a run's folder."""
    path = Path(folder)
    output = "" if path.parent == Path("runs") else f" OUTPUT={shlex.quote(str(path.parent))}"
    return f"RUN={shlex.quote(path.name)}{output}"


def python(folder: Path | None = None) -> str:
    """The word that starts this Python from `folder` (default: the current folder)."""
    own, folder = Path(sys.executable), folder or Path.cwd()
    import shutil

    named = shutil.which("python")
    # Compare the folders: a virtual environment's Python is a link to the Python that made the environment.
    if named and Path(named).parent.resolve() == own.parent.resolve():
        return "python"
    return str(own.relative_to(folder) if own.is_relative_to(folder) else own)


def _by(this: str, words: tuple[object, ...]) -> str:
    return shlex.join([this, "-m", *map(str, words)])
