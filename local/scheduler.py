"""This machine as a scheduler: what it takes, and where its verbs are, each imported when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.scheduler import Scheduler, Words

if TYPE_CHECKING:
    from local.runs import Runs


class Local:
    """A launcher.scheduler.Scheduler."""

    name = "local"
    takes = ("RUN", "OUTPUT")

    def place(self, given: Words, environ: Words, project_dir: Path) -> Runs:
        from local.runs import place

        return place(given, environ, project_dir)


SCHEDULER: Scheduler[Runs] = Local()
