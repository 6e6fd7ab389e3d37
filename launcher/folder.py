"""Runs that lie in a folder of this machine, for schedulers that share a disk with their jobs: a Place's records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.grid import read_sweep
from launcher.records import Run, read_run, run_folders
from launcher.scheduler import Found, Words
from planner.request.variables import DEFAULT_OUTPUT, parse_given
from planner.values import expand_home
from trainer.files import RECORD_NAME
from trainer.outcome import ConfigError


def output_folder(given: Words, environ: Words, project_dir: Path) -> Path:
    """The folder of runs that OUTPUT names, or the usual one."""
    output = parse_given(given).get("OUTPUT", DEFAULT_OUTPUT)
    return project_dir / expand_home(str(output), environ)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOfRuns:
    """The half of a Place that finds runs: the folder that OUTPUT names."""

    output: Path
    elsewhere: str = "OUTPUT= looks in another folder"

    @property
    def where(self) -> str:
        return str(self.output)

    def named(self, run_id: str) -> Found[Run] | None:
        folder = self.output / run_id
        if sweep := read_sweep(folder):
            return Found(name=run_id, runs=sweep.members(), sweep=sweep)
        return Found(name=run_id, runs=[read_run(folder)]) if (folder / RECORD_NAME).is_file() else None

    def known(self) -> Sequence[str]:
        return [folder.name for folder in run_folders(self.output)]

    def newest(self, most: int) -> tuple[Sequence[Run | str], int]:
        folders = run_folders(self.output)
        return [_readable(folder) or folder.name for folder in folders[:most]], len(folders)


def _readable(folder: Path) -> Run | None:
    try:
        return read_run(folder)
    except ConfigError:
        return None
