"""This machine as a scheduler: the variables it takes, and its two parts, each imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.scheduler import Scheduler, Words

if TYPE_CHECKING:
    from local.runs import Runs
    from local.target import Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalScheduler:
    """A launcher.scheduler.Scheduler."""

    name: str = "local"
    takes: tuple[str, ...] = ("RUN", "OUTPUT")
    in_image: bool = False
    """Whether the runs are containers."""

    def place(self, given: Words, environ: Words, project_dir: Path) -> Runs:
        from local.runs import place

        return place(given, environ, project_dir)

    def target(self, given: Words, environ: Words, project_dir: Path) -> Machine:
        from local.target import target

        return target(given, environ, project_dir, in_image=self.in_image)


SCHEDULER: Scheduler[Runs, Machine] = LocalScheduler()
