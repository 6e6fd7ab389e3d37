"""The target on Slurm: the cluster as the site file describes it, and the runtime of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.scheduler import Batch, Found, Words, WordsOf
from planner.choose import choose
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from planner.request.site import Site
from slurm.cluster.site import find_site, with_gpu_type
from slurm.script.runtime import check_runtime
from trainer.outcome import ConfigError

if TYPE_CHECKING:
    from launcher.records import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Slurm:
    """A launcher.scheduler.Target."""

    given: Words
    site: Site
    environ: Words
    project_dir: Path
    paths_elsewhere: ClassVar[bool] = False
    parallel: ClassVar[int | None] = None

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        check_runtime(spec, typed=self.given)
        _check_whole_nodes(spec)
        return with_gpu_type(spec, self.site) if is_new else spec

    def plan(self, spec: JobSpec) -> Plan:
        decided = choose(spec)
        check_trainer_accepts(decided, self.project_dir)
        return decided

    def render(self, batch: Batch) -> str:
        from slurm.render import render_batch

        return render_batch(batch)

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        from slurm.submit import ready

        return ready(batch, self.environ, again=again)

    def submit(self, batch: Batch, words: WordsOf) -> int:
        from slurm.submit import print_submitted, submit

        return print_submitted(batch, submit(batch, self.environ), self.environ)

    def resubmit(
        self, found: Found[Run], runs: Sequence[Run], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        from slurm.submit import resubmit

        return resubmit(found, runs, batch, changes, words(found.name), self.environ)


def _check_whole_nodes(spec: JobSpec) -> None:
    """Raises ConfigError for a job that takes whole nodes but would share them."""
    shared = [flag for flag in spec.slurm.extra_flags if flag.startswith(("--exclusive=", "--oversubscribe"))]
    if shared and spec.resources.gpus and spec.slurm.gpu_flag == "none":
        raise ConfigError(
            "GPU_FLAG=none takes whole nodes, and others would share their GPUs",
            name="EXTRA_FLAGS",
            given=shared[0],
            advice="leave it out",
        )


def target(given: Words, environ: Words, project_dir: Path) -> Slurm:
    """The target of a request. Raises ConfigError for a wrong site file."""
    return Slurm(given=given, site=find_site(given, project_dir, environ), environ=environ, project_dir=project_dir)
