"""Finds the pictures that records name: at their path, or, for paths of another machine, by their last folders."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from trainer.data.faults import MISSING
from trainer.data.file_names import is_picture_name, names_in
from trainer.data.inline import DATA, MAGIC, unpack
from trainer.data.turns import FormError
from trainer.outcome import ConfigError
from trainer.text import printable

LONGEST_SHOWN = 400
"""Characters of a path in a message; a longer text is not a path."""


class Pictures:
    """The picture files named by the records of one folder."""

    def __init__(self, folder: Path, image_root: str | None, *, write: bool = True) -> None:
        """With `write`, pictures that a record itself holds become files."""
        self._folder = folder
        self._image_root = image_root
        self._write = write
        self._found: dict[str, str] = {}
        """Path by name, empty where there is no file. All records that show one picture share the same string, to
        save memory."""
        self._missed = False

    def __call__(self, name: str) -> str:
        """The path of a picture. Raises FormError when there is no such file, or it is not a picture."""
        if known := self._found.get(name):
            return known
        if name.startswith(DATA):
            return unpack(name, write=self._write)
        if name not in self._found:
            self._found[name] = str(find_image(name, self._folder, self._image_root) or "")
        if not (found := self._found[name]):
            what = "no file" if os.path.exists(self._folder / name) else "not there"
            place = str(self._folder / name)
            place = place if len(place) <= LONGEST_SHOWN else f"{place[:LONGEST_SHOWN]}..."
            raise FormError(f": {printable(place)} is {what}{self._nearly(name)}", MISSING, cure="missing")
        return found

    def _nearly(self, name: str) -> str:
        """For the first name that is missed, which is the one that is shown: what is there under nearly that name."""
        if self._missed:
            return ""
        self._missed = True
        found = nearly(self._folder / name)
        return f", but {printable(str(found))} is" if found else ""

    def is_picture(self, name: str) -> bool:
        return is_picture(find_image(name, self._folder, self._image_root))

    def note(self, data: str) -> str | None:
        """A line about paths of another machine, or None. Raises ConfigError where two of them lead to one file."""
        found = {name: where for name, where in self._found.items() if where}
        moved = sorted(name for name, where in found.items() if is_absolute(name) and where != str(Path(name)))
        if not moved:
            return None
        names = Counter(found.values())
        if clash := next((name for name in moved if names[found[name]] > 1), None):
            rival = next(name for name, where in found.items() if where == found[clash] and name != clash)
            one, other = sorted((clash, rival), key=[*found].index)
            raise ConfigError(
                f"{data}: {one} and {other} would both be {found[one]}: bring the images with the folders "
                f"that tell them apart, or make their paths relative to {self._folder}/"
            )
        return f"{len(moved)} image paths of another machine were found by their last folders, for example {moved[0]}"


def nearly(path: Path) -> Path | None:
    """What there is of a path that is not there, up to the first part that is called in other letters (Images for
    images) or is a picture with another suffix; None when nothing is called so."""
    folder = next((parent for parent in path.parents if os.path.isdir(parent)), None)
    if folder is None:
        return None
    wanted = path.relative_to(folder).parts[0]
    stem = os.path.splitext(wanted)[0].lower()
    for name in names_in(folder):
        alike = name.lower() == wanted.lower() or (is_picture_name(name) and os.path.splitext(name)[0].lower() == stem)
        if alike and name != wanted:
            return folder / name
    return None


def is_absolute(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def find_image(name: str, folder: Path, image_root: str | None) -> Path | None:
    """The path of the image `name`: as written, else by as many of its last folders as exist, else as another system
    spells it; None when there is none."""
    return next((path for word in _spellings(name) if (path := _find(word, folder, image_root))), None)


def _spellings(name: str) -> Iterator[str]:
    """The name, then with Windows' backslashes as slashes, and with accents as one sign or, as macOS stores them, as
    two."""
    yield name
    forms = () if name.isascii() else (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    yield from (word for word in (name.replace("\\", "/"), *forms) if word != name)


def _find(name: str, folder: Path, image_root: str | None) -> Path | None:
    bases = [folder, *([Path(image_root)] if image_root else [])]
    tails: list[tuple[str, ...]] = [(name,)]  # in `folder`; an absolute path is the same for every base
    if is_absolute(name):
        parts = (PureWindowsPath(name) if PureWindowsPath(name).is_absolute() else PurePosixPath(name)).parts
        # The longest tail first: frames/0.png of one session must not become that of another.
        tails += [parts[start:] for start in range(1, len(parts))]
    places = (base.joinpath(*tail) for tail in tails for base in bases)
    # Path.is_file would raise for a name that no file system takes.
    return next((place for place in places if os.path.isfile(place)), None)


def is_picture(path: Path | None) -> bool:
    """Whether the file begins like a picture."""
    if path is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8).startswith(MAGIC)
