"""The protocol of a scheduler. The verbs use it and are written only once: plan, render, submit and sweep in
starting.py, resume in resuming.py, status, logs, list and cancel in verbs.py. slurm/, k8s/ and local/ implement it.

A scheduler is a folder whose scheduler.py holds its `Scheduler`, and one name in the Makefile's list. It has two
parts: the `Target`, for which runs are planned and to which they are given, and the `Place`, where they are found
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from launcher.grid import Recorded, Sweep
    from launcher.progress import RunStatus
    from planner.job import JobSpec
    from planner.plan import Plan
    from planner.request.site import Site
    from trainer.outcome import SchedulerError

Words = Mapping[str, str]
"""Given values, as text by variable name; or an environment."""
WordsOf = Callable[[str], str]
"""The words by which make finds the run or sweep of that id again: `TO=k8s RUN=x NAMESPACE=y`."""


class AnyRun(Protocol):
    """A run as one scheduler knows it: by its folder, by its ConfigMap, ..."""

    @property
    def run_id(self) -> str: ...


R = TypeVar("R", bound=AnyRun)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[R]):
    """The run or the sweep that RUN names."""

    name: str
    """The id for RUN=."""
    runs: Sequence[R]
    """The run, or the members of the sweep."""
    sweep: Recorded | None = None
    """sweep.json, if the sweep's folder lies on this machine."""
    again: str = ""
    """The command that continues the run; empty when that is make resume."""

    @property
    def is_sweep(self) -> bool:
        return self.sweep is not None or len(self.runs) > 1

    @property
    def text(self) -> str:
        """The name for a person."""
        return f"{'sweep' if self.is_sweep else 'run'} {self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """The result of a cancel."""

    job_ids: Sequence[str]
    """Jobs that have been told to end; empty when no job was pending or running."""
    failure: SchedulerError | None = None
    """Why other jobs could not be cancelled."""
    unsure: bool = False
    """Whether those other jobs may have been cancelled all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The plans that are submitted together: one run, or the members of a sweep."""

    plans: tuple[Plan, ...]
    sweep: Sweep | None = None
    """The sweep of these plans, if they are members of a new sweep."""

    @property
    def spec(self) -> JobSpec:
        """The spec of the first plan: members share resources, image and folders."""
        return self.plans[0].spec

    @property
    def name(self) -> str:
        """The value for RUN."""
        return self.sweep.sweep_id if self.sweep else self.spec.run_id

    def planned(self, plans: Sequence[Plan]) -> Batch:
        """The batch with other plans."""
        return Batch(plans=tuple(plans), sweep=self.sweep and replace(self.sweep, plans=tuple(plans)))


class Target(Protocol[R]):
    """A scheduler with the site file that a request names; runs are planned for it and given to it. Every verb makes
    a new one. `complete`, `plan` and `render` only read files, so they work without a cluster."""

    @property
    def given(self) -> Words:
        """The given values, and those that this target adds, such as the cores of this machine."""

    @property
    def site(self) -> Site:
        """Defaults of a request."""

    @property
    def paths_elsewhere(self) -> bool:
        """Whether jobs see other folders than this machine does."""

    @property
    def parallel(self) -> int | None:
        """How many members of a sweep run at once; None means as many as PARALLEL says."""

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        """The request in the form that this target runs. A resumed run is not new: earlier decisions about it stay.
        If not `is_named`, its id is made from the request, and may be made from more. Raises ConfigError for a
        request that this target could never run."""

    def plan(self, spec: JobSpec) -> Plan:
        """The choice. Raises ConfigError when nothing fits, or the settings file contradicts the plan."""

    def render(self, batch: Batch) -> str:
        """The script, the manifest or the command."""

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        """The batch in the form that is submitted, after every refusal that is possible before a file is written.
        `again`: its runs exist already. Raises ConfigError."""

    def submit(self, batch: Batch, words: WordsOf) -> int:
        """Start new runs, and print what to type next; returns the exit code. Raises SchedulerError, and leaves
        nothing behind, when the scheduler refuses."""

    def resubmit(
        self, found: Found[R], runs: Sequence[R], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        """Start `runs` of `found` again, as `batch` plans them; otherwise as `submit`. `changes` are the changed
        fields of the request, to be recorded."""


class Place(Protocol[R]):
    """The place of one scheduler's runs: a folder, a namespace. Every verb makes a new one."""

    @property
    def where(self) -> str:
        """The name of the place for a person."""

    @property
    def elsewhere(self) -> str:
        """How a person searches another place."""

    def named(self, run_id: str) -> Found[R] | None:
        """The run of that id, or the sweep. Raises ConfigError when its record is not what submit wrote."""

    def known(self) -> Sequence[str]:
        """Ids of runs, the newest first."""

    def newest(self, most: int) -> tuple[Sequence[R | str], int]:
        """(the newest runs, at most `most`; the number of all runs). An unreadable run is represented by its id."""

    def statuses(self, runs: Sequence[R]) -> Sequence[RunStatus]:
        """The status of each run. A job about which the scheduler gives no answer is UNKNOWN."""

    def cancel(self, runs: Sequence[R]) -> Cancelled:
        """End the jobs of these runs that have not ended. Raises SchedulerError when none could be ended."""

    def follow(self, run: R) -> None:
        """Print the run's whole log to stdout, and all that is added to it until its job has ended."""

    def held(self, found: Found[R], words: WordsOf) -> AbstractContextManager[Sequence[R]]:
        """The runs of `found` that can be resumed; during the block nobody else resumes them. Raises ConfigError,
        with the reason, when there is none."""

    def spec_of(self, run: R) -> JobSpec:
        """The recorded request. Raises ConfigError when it cannot be used."""


P_co = TypeVar("P_co", bound=Place[Any], covariant=True)
T_co = TypeVar("T_co", bound=Target[Any], covariant=True)


class Scheduler(Protocol[P_co, T_co]):
    """One scheduler."""

    @property
    def name(self) -> str:
        """The name in TO=name, which is also that of the folder."""

    @property
    def takes(self) -> tuple[str, ...]:
        """Variables that identify a run: RUN, and those that say where to search for it."""

    def place(self, given: Words, environ: Words, project_dir: Path) -> P_co:
        """The place of the runs that `given` means. Raises ConfigError for a wrong value."""

    def target(self, given: Words, environ: Words, project_dir: Path) -> T_co:
        """The target for `given`. Raises ConfigError for a wrong site file, or a variable that it does not take."""
