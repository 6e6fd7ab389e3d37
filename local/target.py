"""The target on this machine: its cores, its memory, its GPUs, and the runs that were begun on it before."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.scheduler import Batch, Found, Words, WordsOf
from local.render import NO_LIMIT_MIN, render
from planner.choose import choose
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from planner.request.site import Site
from planner.request.variables import parse_given
from trainer.files import RECORD_NAME
from trainer.outcome import ConfigError
from trainer.text import GIB

if TYPE_CHECKING:
    from launcher.records import Run

# The fields that `validate data` changes in a request, those that find-batch-size changes.
OF_LENGTHS = ("length_source", "max_length", "supervised_tokens", "images_per_sample")
OF_BATCH = ("measured_with", "measured_batch", "measured_peak_gib")
OF_IMAGE = ("IMAGE", "BINDS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A launcher.scheduler.Target: members of a sweep run one after another."""

    given: Words
    environ: Words
    project_dir: Path
    in_image: bool = False
    site: ClassVar[Site] = Site()
    paths_elsewhere: ClassVar[bool] = False
    parallel: ClassVar[int | None] = 1

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        if spec.resources.nodes > 1:
            raise ConfigError(
                "run uses this machine only; make submit takes several", name="NODES", given=spec.resources.nodes
            )
        if spec.slurm.runtime != "none":
            raise ConfigError(
                "is for clusters",
                name="RUNTIME",
                given=spec.slurm.runtime,
                advice="run uses this checkout's environment, leave it out",
            )
        if spec.resources.device == "cuda" and not shutil.which("nvidia-smi"):
            raise ConfigError(
                "this machine has no NVIDIA driver", name="DEVICE", given="cuda", advice="say DEVICE=cpu, or submit"
            )
        return spec.but(time_limit_min=NO_LIMIT_MIN) if is_new and "TIME" not in self.given else spec

    def plan(self, spec: JobSpec) -> Plan:
        decided = choose(self._as_begun(spec), here=True)
        check_trainer_accepts(decided, self.project_dir)
        return decided

    def _as_begun(self, spec: JobSpec) -> JobSpec:
        """`spec` with the measured micro-batch and the time limit that its run was begun with, and the lengths where
        they keep the same records: measured only now, or no longer, the run goes on as it was planned.

        Raises:
            ConfigError: the run's record cannot be read.
        """
        from launcher.records import read_run
        from launcher.restore_spec import read_spec

        folder = self.project_dir / spec.run_dir
        if not (folder / RECORD_NAME).is_file():
            return spec
        source = str(folder / RECORD_NAME)
        begun = read_spec(read_run(folder).record["spec"], project_dir=self.project_dir, source=source)
        before, now = begun.training.max_length, spec.training.max_length
        longest = {begun.sources.length_source: before, spec.sources.length_source: now}
        same = before == now or longest.get("measured", math.inf) <= longest.get("MAX_LENGTH", 0)
        kept = [*OF_BATCH, *(OF_LENGTHS if same else ()), *(() if "TIME" in self.given else ("time_limit_min",))]
        return spec.but(**{name: begun.value(name) for name in kept})

    def render(self, batch: Batch) -> str:
        return render(batch)

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        from local.submit import ready

        return ready(batch, self.environ, self.plan, again=again)

    def submit(self, batch: Batch, words: WordsOf) -> int:
        from local.submit import submit

        if self.in_image:
            from local.machine.docker import attempts

            return submit(batch, attempts(batch, self.environ, self.project_dir), "docker-run")
        from local.submit import supervised

        return submit(batch, supervised(batch, self.environ, self.project_dir))

    def resubmit(
        self, found: Found[Run], runs: Sequence[Run], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        return self.submit(batch, words)


def target(given: Words, environ: Words, project_dir: Path, *, in_image: bool = False) -> Machine:
    """With this machine's cores and memory where nothing was said of them, or MEM=none.

    Raises:
        ConfigError: what says nothing to a process of this machine, and more memory than there is.
    """
    if not in_image and (odd := [name for name in given if name in OF_IMAGE]):
        raise ConfigError("on this machine only docker-run takes it, leave it out", name=odd[0], given=given[odd[0]])
    memory = max(1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // GIB)
    asked = parse_given({name: text for name, text in given.items() if name == "MEM"}).mem
    if asked is not None and asked > memory:
        raise ConfigError(f"this machine has {memory} GiB", name="MEM", given=given["MEM"], advice="leave it out")
    # More threads than cores would only wait for each other.
    mine = {"CPUS": str(os.cpu_count()), **given, "MEM": str(memory if asked is None else asked)}
    return Machine(given=mine, environ=environ, project_dir=project_dir, in_image=in_image)
