"""The runs in a folder, and the states of their jobs: read from run.json, squeue and sacct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cli import say
from launcher.folder import FolderOfRuns, output_folder
from launcher.logs import follow
from launcher.progress import UNKNOWN, Job, RunStatus, run_status
from launcher.records import ATTEMPT_NAME, Run, finished, name_of, read_run
from launcher.scheduler import Cancelled, Words
from slurm.cluster.job_id import by_cluster, split
from slurm.cluster.queue import (
    SUBMITTING,
    SlurmError,
    adopt_submitted_job,
    adopt_submitted_jobs,
    advised,
    ask_jobs,
    find_jobs,
    jobs_of,
    slurm,
    with_exit_code,
)  # fmt: skip
from slurm.cluster.site import find_site
from trainer.outcome import FINISHED, ConfigError
from trainer.progress_file import ENDS, FAILED_PHASE, read_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs(FolderOfRuns):
    """A launcher.scheduler.Place."""

    environ: Words

    def statuses(self, runs: Sequence[Run]) -> Sequence[RunStatus]:
        """The status of each run. A job whose number sbatch did not return is searched for first."""
        runs = self._as_told(runs)
        found = ask_jobs(job_ids(runs), self.environ)
        jobs = [jobs_of(run, found) for run in runs]
        for run, own in zip(runs, jobs, strict=True):
            own[:] = [_with_memory(run, job) for job in [*own[:-1], *(_as_it_ended(run, job) for job in own[-1:])]]
        if len(runs) == 1:
            jobs[0][-1:] = [with_exit_code(job, self.environ) for job in jobs[0][-1:]]
        return [
            run_status(run, [*own, *_untold(run)], elsewhere="local" if _is_local(run) else "")
            for run, own in zip(runs, jobs, strict=True)
        ]

    def _as_told(self, runs: Sequence[Run]) -> list[Run]:
        found = list(runs)
        try:
            for index, run in enumerate(runs):
                found[index] = adopt_submitted_job(run, self.environ)
        except SlurmError as error:
            say(str(error))
        return found

    def cancel(self, runs: Sequence[Run]) -> Cancelled:
        runs = [adopt_submitted_job(run, self.environ) for run in runs]
        if all(_is_local(run) for run in runs):
            name, text = name_of(runs)
            raise ConfigError(f"{text} was started without Slurm: make cancel TO=local RUN={name}")
        jobs = jobs_by_id(runs, find_jobs(job_ids(runs), self.environ))
        live = [job_id for job_id, job in jobs.items() if not job.ended]
        for cluster, numbers in by_cluster(live).items():
            done = slurm("scancel", *numbers, environ=self.environ, cluster=cluster)
            if done.returncode:
                raise SlurmError(f"scancel failed: {advised(done)}")
        if not live and len(runs) == 1:
            for job in list(jobs.values())[-1:]:
                say(f"job {job.text}")
        return Cancelled(job_ids=live)

    def follow(self, run: Run) -> None:
        run = adopt_submitted_job(run, self.environ)
        if SUBMITTING in run.record and not run.job_ids:
            raise ConfigError(f"run {run.run_id} has no job that is known: make status RUN={run.run_id} looks for it")
        if not run.job_ids:
            raise ConfigError(f"run {run.run_id} was started without Slurm: make logs TO=local RUN={run.run_id}")
        *earlier, last = run.job_ids
        before = [log_path(run, job_id) for job_id in earlier]
        follow(log_path(run), lambda: jobs_of(run, find_jobs([last], self.environ))[-1], before=before)

    def refreshed(self, runs: Sequence[Run]) -> Sequence[Run]:
        if not any(run.job_ids or SUBMITTING in run.record for run in runs):
            name, text = name_of(runs)
            begun = f"the command that began it, with RUN={name}, goes on with it"
            again = f"make resume TO=local RUN={name}" if len(runs) == 1 and _is_local(runs[0]) else begun
            raise ConfigError(f"{text} was started without Slurm: {again}")
        return adopt_submitted_jobs([read_run(run.folder) for run in runs], self.environ)

    def jobs(self, runs: Sequence[Run]) -> Sequence[Sequence[Job]]:
        found = find_jobs(job_ids(runs), self.environ)
        return [jobs_of(run, found) for run in runs]


def _is_local(run: Run) -> bool:
    """Whether the run is trained on this machine, without Slurm."""
    return not run.job_ids and SUBMITTING not in run.record and (run.folder / ATTEMPT_NAME).exists()


def _as_it_ended(run: Run, job: Job) -> Job:
    """The run's last job, as its own record tells where Slurm's word does not. Slurm 24.11 calls a job PREEMPTED, with
    an exit code of 0, that was told of a preemption and then ended by itself; a job is OUT_OF_MEMORY for Slurm only
    when its batch script is killed, and FAILED when a rank is."""
    progress = read_progress(run.folder)
    phase = ENDS[FINISHED] if finished(run.folder) else progress.phase if progress else ""
    if job.state == "PREEMPTED" and phase == ENDS[FINISHED]:
        return replace(job, state="COMPLETED", reason="while another job took its place")
    if job.state == "PREEMPTED" and phase == FAILED_PHASE:
        return replace(job, state="FAILED", reason="while another job took its place")
    if job.state == "FAILED" and phase == FAILED_PHASE and progress and progress.out_of_memory:
        return replace(job, state="OUT_OF_MEMORY")
    return job


def _with_memory(run: Run, job: Job) -> Job:
    """One that used more memory than it had is told how much that was, where the request said it."""
    spec = run.record["spec"]
    had = spec.get("mem_gib")
    if job.state != "OUT_OF_MEMORY" or type(had) is not int:
        return job
    if spec.get("ask_mem") is False:
        return replace(job, advice="{again} MEM=... (GiB a node; with MEM=none Slurm said how much it had)")
    return replace(job, advice=f"{{again}} MEM={2 * had} (it had MEM={had}, GiB a node)")


def place(given: Words, environ: Words, project_dir: Path) -> Runs:
    """The runs of the given folder. Raises ConfigError for a wrong OUTPUT or site file."""
    by_site = {k: v for k, v in find_site(given, project_dir, environ).texts.items() if k == "OUTPUT"}
    output = output_folder({**by_site, **given}, environ, project_dir)
    return Runs(output=output, project_dir=project_dir, environ=environ)


def job_ids(runs: Sequence[Run]) -> list[str]:
    return [job_id for run in runs for job_id in run.job_ids]


def jobs_by_id(runs: Sequence[Run], found: Mapping[str, Job]) -> dict[str, Job]:
    """The found jobs that belong to the runs, by id."""
    return {job.job_id: job for run in runs for job in jobs_of(run, found)}


def log_path(run: Run, job_id: str = "") -> Path:
    last = run.job_ids[-1] if run.job_ids else "none"
    return run.folder / "logs" / f"slurm-{split(job_id or last)[0]}.log"


def _untold(run: Run) -> list[Job]:
    """The job that sbatch was asked for and whose number it has not returned."""
    said = "sbatch did not answer, squeue shows none"
    return [Job(job_id="-", state=UNKNOWN, ended=False, reason=said)] if SUBMITTING in run.record else []
