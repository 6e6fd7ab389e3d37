"""Runs in a folder of this machine, for schedulers that share a disk with their jobs: the part of a Place that reads
them and prevents two resumes of one run, and the creation of a new run's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.grid import read_sweep
from launcher.progress import Job
from launcher.records import Run, done, finished, read_run, refuse_anothers, refuse_spoilt, run_folders
from launcher.restore_spec import read_spec
from launcher.scheduler import Batch, Found, Words, WordsOf
from planner.job import JobSpec
from planner.request.variables import DEFAULT_OUTPUT, parse_given
from planner.values import expand_home
from trainer.files import RECORD_NAME
from trainer.outcome import ConfigError, SchedulerError

LOCK_NAME = ".resuming"


def output_folder(given: Words, environ: Words, project_dir: Path) -> Path:
    """The folder of runs that OUTPUT names, or the default."""
    return project_dir / expand_home(parse_given(given).output or DEFAULT_OUTPUT, environ, name="OUTPUT")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOfRuns:
    """The part of a Place that finds runs, in the folder that OUTPUT names."""

    output: Path
    project_dir: Path
    elsewhere: str = "OUTPUT= looks in another folder"

    @property
    def where(self) -> str:
        return str(self.output)

    def named(self, run_id: str) -> Found[Run] | None:
        folder = self.output / run_id
        if sweep := read_sweep(folder):
            return Found(name=run_id, runs=sweep.members(), sweep=sweep)
        return Found(name=run_id, runs=[read_run(folder)]) if os.path.lexists(folder / RECORD_NAME) else None

    def known(self) -> Sequence[str]:
        return [folder.name for folder in run_folders(self.output)]

    def newest(self, most: int) -> tuple[Sequence[Run | str], int]:
        folders = run_folders(self.output)
        return [_readable(folder) or folder.name for folder in folders[:most]], len(folders)

    def refreshed(self, runs: Sequence[Run]) -> Sequence[Run]:
        """The runs with their present records. Raises SchedulerError when the scheduler must be asked and does not
        answer."""
        return [read_run(run.folder) for run in runs]

    def jobs(self, runs: Sequence[Run]) -> Sequence[Sequence[Job]]:
        """The jobs of each run, oldest first. Raises SchedulerError when the scheduler does not answer."""
        raise NotImplementedError

    @contextlib.contextmanager
    def held(self, found: Found[Run], words: WordsOf) -> Iterator[Sequence[Run]]:
        """The runs of `found` that can be resumed: a Place's `held`."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(resume_lock(found.sweep.folder if found.sweep else found.runs[0].folder))
            runs = self.refreshed(found.runs)
            left: list[Run] = []
            for run in runs:
                refuse_spoilt(run.folder, f"make resume {words(found.name)}")
            for run, jobs in zip(runs, self.jobs(runs), strict=True):
                live = next((job for job in jobs if not job.ended), None)
                if not found.sweep and finished(run.folder):
                    said = f"run {run.run_id} is finished ({run.folder / 'adapter'})"
                    raise ConfigError(f"{said}: make submit starts another")
                if not found.sweep and live:
                    said = f"job {live.job_id} of run {run.run_id} is {live.state}"
                    raise ConfigError(f"{said}: make cancel {words(run.run_id)} ends it, then resume")
                if not live and not done(run.folder):
                    left.append(run)
            if not left:
                raise ConfigError(f"{found.text} has no member that is unfinished and out of the queue")
            for run in left if found.sweep else ():
                stack.enter_context(resume_lock(run.folder))
            yield left

    def spec_of(self, run: Run) -> JobSpec:
        """The request in the run's run.json, for the present place of its folder. Raises ConfigError."""
        refuse_anothers(run)
        spec = read_spec(run.record["spec"], project_dir=self.project_dir, source=str(run.folder / RECORD_NAME))
        if (self.project_dir / spec.run_dir).resolve() != run.folder.resolve():
            return spec.but(output=str(run.folder.parent))  # the folder of runs was moved
        return spec


@contextlib.contextmanager
def resume_lock(folder: Path) -> Iterator[None]:
    """Refuses a second process that resumes the same run at the same time, because two jobs would spoil the folder."""
    lock = folder / LOCK_NAME
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError as error:
        raise ConfigError(f"{lock} is there, someone is resuming this run: if not, remove it") from error
    except OSError as error:
        raise SchedulerError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def folders_of(batch: Batch) -> list[Path]:
    """The folders that a new batch will make: first that of a sweep, then those of the runs."""
    runs = [Path(plan.spec.project_dir, plan.spec.run_dir) for plan in batch.plans]
    return [batch.sweep.folder, *runs] if batch.sweep else runs


def refuse_taken(batch: Batch) -> None:
    """Raises ConfigError when one of the folders exists."""
    for folder in folders_of(batch):
        if os.path.lexists(folder):
            raise _taken(batch.name, folder)


@contextlib.contextmanager
def new_folders(batch: Batch, keep: type[Exception] | tuple[()] = ()) -> Iterator[list[Path]]:
    """The folders of a new batch, made for the block, and removed with their content when the block fails with
    another error than `keep`.

    Raises:
        ConfigError: another submit with this RUN was faster.
        SchedulerError: the disk refused.
    """
    folders = folders_of(batch)
    above = [path for path in folders[0].parents if not path.exists()]  # nearest first
    made: list[Path] = []
    try:
        folders[0].parent.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            try:
                folder.mkdir()
            except FileExistsError as error:
                raise _taken(batch.name, folder) from error
            made.append(folder)
        yield folders
    except keep:
        raise
    except BaseException as error:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails if another submit uses the folder by now
        if isinstance(error, OSError):
            raise SchedulerError(f"cannot write {error.filename or folders[0]}: {error.strerror}") from error
        raise


def _taken(run_id: str, folder: Path) -> ConfigError:
    return ConfigError(f"{folder} exists", name="RUN", given=run_id, advice="give another RUN, or none for a new one")


def _readable(folder: Path) -> Run | None:
    try:
        return read_run(folder)
    except ConfigError:
        return None
