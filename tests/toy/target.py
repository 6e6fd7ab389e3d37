"""What the toy plans for: any machine. It adds nothing to a request, and refuses what this checkout cannot run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from launcher import cli
from launcher.folder import refuse_taken
from launcher.grid import check_files
from launcher.records import Run
from launcher.scheduler import Batch, Found, Words, WordsOf
from planner.choose import choose
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from planner.request.site import Site
from toy.render import render
from toy.submit import restart, start
from trainer.outcome import FINISHED


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """A launcher.scheduler.Target."""

    given: Words
    environ: Words
    project_dir: Path
    site: ClassVar[Site] = Site()
    paths_elsewhere: ClassVar[bool] = False
    parallel: ClassVar[int | None] = None

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        return spec

    def plan(self, spec: JobSpec) -> Plan:
        decided = choose(spec)
        check_trainer_accepts(decided, self.project_dir)
        return decided

    def render(self, batch: Batch) -> str:
        return "".join(render(plan) for plan in batch.plans)

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        if not again:
            refuse_taken(batch)
        check_files(batch.plans)
        cli.make_environment(batch.spec, self.environ)
        return batch

    def submit(self, batch: Batch, words: WordsOf) -> int:
        start(batch)
        return cli.print_submitted(batch, cli.follow_up(words(batch.name), cancel="kill"))

    def resubmit(
        self, found: Found[Run], runs: Sequence[Run], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        restart(runs, batch)
        print(f"status  make status {words(found.name)}")
        return FINISHED
