"""The protocol of a scheduler. The verbs are written once above this: plan, render, submit and sweep in starting.py,
resume in resuming.py, status, logs, list and cancel in verbs.py. slurm/, k8s/ and local/ implement it.

A scheduler is a folder whose scheduler.py holds its `Scheduler`, and one name in the Makefile's list. It has two parts:
the `Target` that runs are planned for and handed to, and the `Place` where they are found again.
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
    """sweep.json, where the sweep's folder lies on this machine."""
    again: str = ""
    """The command that goes on with it; empty where make resume does."""

    @property
    def is_sweep(self) -> bool:
        return self.sweep is not None or len(self.runs) > 1

    @property
    def text(self) -> str:
        """As a person calls it."""
        return f"{'sweep' if self.is_sweep else 'run'} {self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """The result of a cancel."""

    job_ids: Sequence[str]
    """Jobs that are told to end now; none when there was no job that is pending or running."""
    failure: SchedulerError | None = None
    """Why others could not be cancelled."""
    unsure: bool = False
    """Whether those others may have been cancelled all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The plans that are submitted at once: one run, or the members of a sweep."""

    plans: tuple[Plan, ...]
    sweep: Sweep | None = None
    """The sweep of these plans, where they are members of a new one."""

    @property
    def spec(self) -> JobSpec:
        """The spec of the first plan: members share resources, image and folders."""
        return self.plans[0].spec

    @property
    def name(self) -> str:
        """What RUN takes."""
        return self.sweep.sweep_id if self.sweep else self.spec.run_id

    def planned(self, plans: Sequence[Plan]) -> Batch:
        """The same with other plans."""
        return Batch(plans=tuple(plans), sweep=self.sweep and replace(self.sweep, plans=tuple(plans)))


class Target(Protocol[R]):
    """A scheduler with the site file that a request names: runs are planned for it and handed to it. Every verb makes
    one anew. `complete`, `plan` and `render` read files and ask nobody, so they work without a cluster."""

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
        """How many members of a sweep run at once; None: PARALLEL says it."""

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        """The request as this target runs it. A run that goes on is not new: what was decided for it stays. Not
        `is_named`: its id is made from the request, and may be made from more. Raises ConfigError for a request that
        could never run here."""

    def plan(self, spec: JobSpec) -> Plan:
        """The choice. Raises ConfigError where nothing fits, or the settings file says otherwise."""

    def render(self, batch: Batch) -> str:
        """The script, the manifest or the command."""

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        """The batch as it is submitted, after everything that can be refused before a file is written. `again`: its
        runs are there. Raises ConfigError."""

    def submit(self, batch: Batch, words: WordsOf) -> int:
        """Start new runs, and print what to type next; returns the exit code. Raises SchedulerError, and leaves nothing
        behind, where the scheduler refuses."""

    def resubmit(
        self, found: Found[R], runs: Sequence[R], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        """Start `runs` of `found` again, as `batch` plans them; otherwise as `submit`. `changes` are fields of the
        request that are new, to be recorded."""


class Place(Protocol[R]):
    """Where one scheduler's runs are: a folder, a namespace. It is asked anew by every verb."""

    @property
    def where(self) -> str:
        """As a person calls it."""

    @property
    def elsewhere(self) -> str:
        """How a person looks in another place."""

    def named(self, run_id: str) -> Found[R] | None:
        """The run of that id, or the sweep. Raises ConfigError when its record is not what submit wrote."""

    def known(self) -> Sequence[str]:
        """Ids of runs, the newest first."""

    def newest(self, most: int) -> tuple[Sequence[R | str], int]:
        """(the newest runs, at most so many; how many there are). One that cannot be read is its id alone."""

    def statuses(self, runs: Sequence[R]) -> Sequence[RunStatus]:
        """How they stand. A job of which the scheduler does not tell is UNKNOWN."""

    def cancel(self, runs: Sequence[R]) -> Cancelled:
        """End the jobs of these runs that have not ended. Raises SchedulerError when none could be."""

    def follow(self, run: R) -> None:
        """Print the run's whole log to stdout, and what is written to it until its job has ended."""

    def held(self, found: Found[R], words: WordsOf) -> AbstractContextManager[Sequence[R]]:
        """Those of its runs that can go on; in the block nobody else makes them go on. Raises ConfigError, which
        says why, where there is none."""

    def spec_of(self, run: R) -> JobSpec:
        """The recorded request. Raises ConfigError where it cannot be used."""


P_co = TypeVar("P_co", bound=Place[Any], covariant=True)
T_co = TypeVar("T_co", bound=Target[Any], covariant=True)


class Scheduler(Protocol[P_co, T_co]):
    """One scheduler."""

    @property
    def name(self) -> str:
        """As in TO=name; the folder is called the same."""

    @property
    def takes(self) -> tuple[str, ...]:
        """Variables that say which run is meant: RUN, and where it is looked for."""

    def place(self, given: Words, environ: Words, project_dir: Path) -> P_co:
        """Where the runs are that are meant. Raises ConfigError for a wrong value."""

    def target(self, given: Words, environ: Words, project_dir: Path) -> T_co:
        """The target for `given`. Raises ConfigError for a wrong site file, or a variable that it does not take."""
