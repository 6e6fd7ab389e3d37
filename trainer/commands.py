"""Commands that are printed to be copied: they run as they stand, where they are printed. Torch-free."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def command(*words: object) -> str:
    """`words` behind `python -m`, quoted for a shell, by this very Python: it is seldom the one on the PATH."""
    return _by(python(), words)


def training_command(*words: object) -> str:
    """As `command`, where this Python may be that of the launch side: by the checkout's environment for training."""
    if find_spec("torch"):
        return command(*words)
    made = (f".venv/{flavour}/bin/python" for flavour in ("cuda", "cpu"))
    # A path that may not be looked at is none: Path.is_file would raise PermissionError.
    ready = next((path for path in made if os.path.isfile(CHECKOUT / path)), None)
    return _by(ready, words) if ready else command(*words)


def command_from_anywhere(*words: object) -> str:
    """The same for a page, which is read anywhere. Where Trainyard is installed, as in the image, no folder matters."""
    there = (CHECKOUT / "pyproject.toml").is_file()
    return f"cd {shlex.quote(str(CHECKOUT))} && {_by(python(CHECKOUT), words)}" if there else command(*words)


def python(folder: Path | None = None) -> str:
    """How to start this Python from `folder` (left out: where this process stands)."""
    own, folder = Path(sys.executable), folder or Path.cwd()
    import shutil

    named = shutil.which("python")
    # The folder decides: a virtual environment's Python is a link to the one that it was made with.
    if named and Path(named).parent.resolve() == own.parent.resolve():
        return "python"
    return str(own.relative_to(folder) if own.is_relative_to(folder) else own)


def _by(this: str, words: tuple[object, ...]) -> str:
    return shlex.join([this, "-m", *map(str, words)])
