"""What a scheduler is. The verbs are written once above this, in verbs.py; slurm/, k8s/ and local/ implement it.

A scheduler is a folder whose scheduler.py holds its `Scheduler`, and one name in the Makefile's list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from launcher.grid import Recorded
    from launcher.progress import Seen
    from trainer.outcome import SchedulerError

Words = Mapping[str, str]
"""What was given, as text by variable name; or an environment."""


class AnyRun(Protocol):
    """A run as one scheduler knows it: by its folder, by its ConfigMap, ..."""

    @property
    def run_id(self) -> str: ...


R = TypeVar("R", bound=AnyRun)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[R]):
    """What RUN names."""

    name: str
    """What RUN takes."""
    runs: Sequence[R]
    """The run, or the members of the sweep."""
    sweep: Recorded | None = None
    """sweep.json, where the sweep's folder lies on this machine."""
    again: str = ""
    """What goes on with it, in words; empty where make resume does."""

    @property
    def is_sweep(self) -> bool:
        return self.sweep is not None or len(self.runs) > 1

    @property
    def text(self) -> str:
        """As a person calls it."""
        return f"{'sweep' if self.is_sweep else 'run'} {self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """What became of a wish to cancel."""

    job_ids: Sequence[str]
    """Jobs that are told to end now; none when there was no job that is pending or running."""
    failure: SchedulerError | None = None
    """Why others could not be cancelled."""
    unsure: bool = False
    """Whether those others may have been cancelled all the same."""


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

    def look(self, runs: Sequence[R]) -> Sequence[Seen]:
        """How they stand. A job of which the scheduler does not tell is UNKNOWN."""

    def cancel(self, runs: Sequence[R]) -> Cancelled:
        """End the jobs of these runs that have not ended. Raises SchedulerError when none could be."""

    def follow(self, run: R) -> None:
        """Print the run's whole log to stdout, and what is written to it until its job has ended."""


P_co = TypeVar("P_co", bound=Place[Any], covariant=True)


class Scheduler(Protocol[P_co]):
    """One scheduler."""

    @property
    def name(self) -> str:
        """As in TO=name; the folder is called the same."""

    @property
    def takes(self) -> tuple[str, ...]:
        """Variables that say which run is meant: RUN, and where it is looked for."""

    def place(self, given: Words, environ: Words, project_dir: Path) -> P_co:
        """Where the runs are that are meant. Raises ConfigError for a wrong value."""
