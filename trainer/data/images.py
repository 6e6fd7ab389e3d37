"""Where the pictures that a record names are: as it says, or by their last folders on another machine."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from trainer.data.unread import MAGIC


def is_absolute(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def find_image(name: str, folder: Path, image_root: str | None) -> Path | None:
    """Where the image `name` is: as it says, else by as many of its last folders as there are."""
    bases = [folder, *([Path(image_root)] if image_root else [])]
    tails: list[tuple[str, ...]] = [(name,)]  # beside `folder` or, absolute, the same place from everywhere
    if is_absolute(name):
        parts = (PureWindowsPath(name) if PureWindowsPath(name).is_absolute() else PurePosixPath(name)).parts
        # The longest tail first: frames/0.png of one session must not become that of another.
        tails += [parts[start:] for start in range(1, len(parts))]
    places = (base.joinpath(*tail) for tail in tails for base in bases)
    # Path.is_file would raise for a name that no file system takes.
    return next((place for place in places if os.path.isfile(place)), None)


def is_picture(path: Path | None) -> bool:
    """Whether it is a file that begins as those of pictures do."""
    if path is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8).startswith(MAGIC)
