"""A copy of what launches jobs, for one test after the other: copying 500 files takes longer than most tests do, so a
test's copy is put back as it was and handed to the next."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
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
ENVIRONMENTS = ".venv"
COMPILED = "__pycache__"  # Python itself tells whether what is in it holds
BEING_COMPILED = "*.pyc.*"  # written by another process, and renamed at once
MADE_NS = time.time_ns()  # newer than what the environments are made from, or make would make them again
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
    _prepare_environments(folder)
    for path, stamp in _stamps(folder).items():
        _whole.setdefault(path, stamp)


def _prepare_environments(folder: Path) -> None:
    for flavour in ("launch", "cpu"):
        prepare_environment(folder, flavour)
    for path in (folder / ENVIRONMENTS).rglob("*"):  # made, not copied, and yet as old in each copy
        os.utime(path, ns=(MADE_NS, MADE_NS))


def prepare_environment(folder: Path, flavour: str) -> None:
    """Make an environment that make takes for finished; its Python is the one that runs the tests."""
    python = folder / ENVIRONMENTS / flavour / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    words = "cat docker/launch.lock" if flavour == "launch" else PINS
    pins = subprocess.run(["sh", "-c", words], cwd=folder, capture_output=True, check=True)
    (folder / ENVIRONMENTS / flavour / ".made").write_bytes(pins.stdout)


def is_put_back(folder: Path) -> bool:
    """Whether `folder` is as make_checkout left it, after removing what a test has added to it, and copying again what
    the test has changed or removed."""
    found = _stamps(folder)
    for path in sorted(found.keys() - _whole.keys()):
        place = folder / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
    lost = [path for path, stamp in _whole.items() if found.get(path) != stamp]
    try:
        for path in lost:
            if not path.startswith(ENVIRONMENTS):
                (folder / path).unlink(missing_ok=True)  # which may now lead out of the folder
                shutil.copy2(ROOT / path, folder / path)
        if any(path.startswith(ENVIRONMENTS) for path in lost):
            shutil.rmtree(folder / ENVIRONMENTS, ignore_errors=True)
            _prepare_environments(folder)
    except OSError:  # a folder is lost, or stands where a file was
        return False
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
