"""Commands that are printed to be copied: they run unchanged in the folder where they are printed. Torch-free."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


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
