"""Slurm as a scheduler: the variables it takes, and its two parts, each imported when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.scheduler import Scheduler, Words

if TYPE_CHECKING:
    from slurm.runs import Runs
    from slurm.target import Slurm


class SlurmScheduler:
    """A launcher.scheduler.Scheduler."""

    name = "slurm"
    takes = ("RUN", "OUTPUT", "SITE")

    def place(self, given: Words, environ: Words, project_dir: Path) -> Runs:
        from slurm.runs import place

        return place(given, environ, project_dir)

    def target(self, given: Words, environ: Words, project_dir: Path) -> Slurm:
        from slurm.target import target

        return target(given, environ, project_dir)


SCHEDULER: Scheduler[Runs, Slurm] = SlurmScheduler()
