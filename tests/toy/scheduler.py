"""What the toy takes, and its two parts."""

from __future__ import annotations

from pathlib import Path

from launcher.folder import output_folder
from launcher.scheduler import Scheduler, Words
from toy.runs import Runs
from toy.target import Processes


class Toy:
    """A launcher.scheduler.Scheduler."""

    name = "toy"
    takes = ("RUN", "OUTPUT")

    def place(self, given: Words, environ: Words, project_dir: Path) -> Runs:
        return Runs(output=output_folder(given, environ, project_dir), project_dir=project_dir)

    def target(self, given: Words, environ: Words, project_dir: Path) -> Processes:
        return Processes(given=given, environ=environ, project_dir=project_dir)


SCHEDULER: Scheduler[Runs, Processes] = Toy()
