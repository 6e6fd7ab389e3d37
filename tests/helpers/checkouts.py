"""A copy of what launches jobs, for one test after the other: copying 500 files takes longer than most tests do, so a
test's copy is put back as it was and handed to the next."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from paths import ROOT

LAUNCH_SIDE = (
    "Makefile",
    "trainyard",
    "make-env.sh",
    "pyproject.toml",
    "docker",
    "accelerate_configs",
    "trainer",
    "planner",
    "launcher",
    "slurm",
    "k8s",
    "local",
    "examples",
)
# As make-env.sh takes them.
LOCKS = "docker/torch-*.lock docker/libraries.lock docker/sdists.lock docker/developers.lock"
PINS = rf"sed -n '/^\[project/,/^\[tool/p' pyproject.toml && cat {LOCKS} | cksum"
COMPILED = "__pycache__"  # Python itself tells whether what is in it holds
BEING_COMPILED = "*.pyc.*"  # written by another process, and renamed at once
Stamp = tuple[int, int, int]
_whole: dict[str, Stamp] = {}
"""Stamps of a fresh copy, by relative path; the same for all copies of this process."""


def make_checkout(folder: Path) -> None:
    folder.mkdir()
    for name in LAUNCH_SIDE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("site.yaml", BEING_COMPILED))
        else:
            shutil.copy2(source, folder / name)
    for flavour in ("launch", "cpu"):
        prepare_environment(folder, flavour)
    for path, stamp in _stamps(folder).items():
        kept = _whole.setdefault(path, stamp)
        if path.startswith(".venv"):  # made, not copied
            os.utime(folder / path, ns=(kept[2], kept[2]))


def prepare_environment(folder: Path, flavour: str) -> None:
    """Make an environment that make takes for finished; its Python is the one that runs the tests."""
    python = folder / ".venv" / flavour / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    words = "cat docker/launch.lock" if flavour == "launch" else PINS
    pins = subprocess.run(["sh", "-c", words], cwd=folder, capture_output=True, check=True)
    (folder / ".venv" / flavour / ".made").write_bytes(pins.stdout)


def is_put_back(folder: Path) -> bool:
    """Whether `folder` is as make_checkout left it, after removing files that a test has added. Files that a test has
    changed or removed are not restored: the next test then gets a fresh copy."""
    found = _stamps(folder)
    if found == _whole:
        return True
    for path in sorted(found.keys() - _whole.keys()):
        place = folder / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
    return _stamps(folder) == _whole


def _stamps(folder: Path) -> dict[str, Stamp]:
    """Mode, size and time of each file, and the mode of each folder, without compiled files."""
    found: dict[str, Stamp] = {}
    left = [""]
    while left:
        inside = left.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                path = f"{inside}{entry.name}"
                seen = entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(seen.st_mode)
                if is_folder and entry.name != COMPILED:
                    left.append(f"{path}/")
                if entry.name != COMPILED:
                    found[path] = (seen.st_mode, 0, 0) if is_folder else (seen.st_mode, seen.st_size, seen.st_mtime_ns)
    return found
