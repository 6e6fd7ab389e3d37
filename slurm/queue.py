"""What Slurm says about jobs: squeue while it remembers them, then sacct where there is accounting.

Only options that 22.05 has. squeue forgets a job some minutes after its end (MinJobAge), and says so as an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate_configs.runs.progress import GONE, UNKNOWN, Job
from accelerate_configs.runs.records import Run, read_run, write_record
from trainer.outcome import ConfigError, SchedulerError

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
)
ASKED = "asked_for"
"""In run.json: the script that sbatch was given, until it has told the job's number."""
ASK_S = 15.0
SURE_AFTER_S = 5.0


class SlurmError(SchedulerError):
    """Slurm's own words."""


def slurm(
    program: str, *arguments: str, environ: Mapping[str, str], timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """One of Slurm's programs, run to its end.

    Raises:
        ConfigError: it is not on PATH.
        SlurmError: it took longer than `timeout_s`; without a controller they wait for minutes.
    """
    if not shutil.which(program, path=environ.get("PATH")):
        raise ConfigError(f"no {program} on PATH: this asks Slurm, so run it where Slurm is installed")
    # Options that a site or a person keeps in the environment (SBATCH_PARTITION, SQUEUE_FORMAT, ...) win over
    # ours, and SLURM_* of a job that this is called from would leak. SLURM_CONF says which cluster.
    dropped = ("SBATCH_", "SLURM_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_")
    kept = {k: v for k, v in environ.items() if not k.startswith(dropped) or k == "SLURM_CONF"}
    try:
        return subprocess.run(
            [program, *arguments],
            env=kept,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{program} did not answer in {timeout_s:g} s") from error


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What a program that failed said, on one line."""
    return " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"


def find_jobs(job_ids: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    """Every one of `job_ids`, in their order. Raises ConfigError without squeue, SlurmError when it fails."""
    if not job_ids:
        return {}
    found = _squeue(job_ids, environ)
    missing = [job_id for job_id in job_ids if job_id not in found]
    if missing:
        found |= _sacct(missing, environ)
    for job_id in missing:
        # What never started of an array is one job without an index, once it was cancelled.
        if job_id not in found and (rest := found.get(_array(job_id))):
            found[job_id] = replace(rest, job_id=job_id)
    return {i: found.get(i, Job(job_id=i, state=GONE, ended=True, reason="not in squeue")) for i in job_ids}


def ask_jobs(job_ids: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    """As find_jobs; UNKNOWN, and why, where Slurm does not answer."""
    try:
        return find_jobs(job_ids, environ)
    except SlurmError as error:
        return {i: Job(job_id=i, state=UNKNOWN, ended=False, reason=str(error)) for i in job_ids}


def with_exit_code(job: Job, environ: Mapping[str, str]) -> Job:
    """`job` with its exit code where it failed by one, which squeue does not tell."""
    if job.reason != "NonZeroExitCode":
        return job
    done = slurm("scontrol", "--oneliner", "show", "job", job.job_id, environ=environ)
    found = re.search(r" ExitCode=([0-9]+):", done.stdout)
    return replace(job, reason="", exit_code=int(found[1])) if found else job


def find_submitted(script: Path, environ: Mapping[str, str]) -> list[str]:
    """The ids of one's own jobs that were made of that script, oldest first. Raises as find_jobs."""
    arguments = ("--noheader", "--me", "--all", "--states=all", "--format=%F|%o")
    done = slurm("squeue", *arguments, environ=environ, timeout_s=ASK_S)
    if done.returncode:
        raise SlurmError(f"squeue failed: {words(done)}")
    jobs = (line.strip().partition("|") for line in done.stdout.splitlines())
    return sorted({job_id for job_id, _, command in jobs if command == str(script)}, key=int)


def settled(run: Run, environ: Mapping[str, str]) -> Run:
    """The run, with the job that sbatch did not tell of where squeue shows it by now. Raises as find_jobs."""
    if not (script := Path(str(run.record.get(ASKED, "")))).name:
        return run
    known = set(map(_array, run.job_ids))
    found = [job_id for job_id in find_submitted(script, environ) if job_id not in known]
    if not found:
        return run
    # The script of a sweep lies in the sweep's folder, and a member's index ends its name.
    member = "" if script.parent == run.folder else "_" + run.run_id.rpartition("-")[2]
    kept = {key: value for key, value in run.record.items() if key != ASKED}
    write_record(run.folder, {**kept, "job_ids": [*run.job_ids, found[-1] + member]})
    return read_run(run.folder)


def surely_settled(runs: Sequence[Run], environ: Mapping[str, str]) -> list[Run]:
    """Each `settled`, asked twice: a controller that is back shows its queue before it has taken what waited for it."""
    found = [settled(run, environ) for run in runs]
    if any(ASKED in run.record for run in found):
        time.sleep(SURE_AFTER_S)
        found = [settled(run, environ) for run in found]
    return found


def _squeue(job_ids: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    arguments = ("--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%r|%N|%M|%l")
    jobs = dict.fromkeys(map(_array, job_ids))
    done = slurm("squeue", *arguments, f"--jobs={','.join(jobs)}", environ=environ)
    if done.returncode:
        if "invalid job id" in done.stderr.lower():
            return {}
        raise SlurmError(f"squeue failed: {words(done)}")
    return dict(_job(line) for line in done.stdout.splitlines() if line.count("|") == 5)


def _sacct(job_ids: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    """Nothing where there is no accounting, which sacct tells by failing."""
    if not shutil.which("sacct", path=environ.get("PATH")):
        return {}
    arguments = ("--noheader", "--parsable2", "--allocations")
    columns = "--format=JobID,State,ExitCode,NodeList,Elapsed,Timelimit"
    done = slurm("sacct", *arguments, columns, f"--jobs={','.join(job_ids)}", environ=environ)
    if done.returncode:
        return {}
    found = dict(_job(line) for line in done.stdout.splitlines() if line.count("|") == 5)
    return {job_id: job for job_id, job in found.items() if job_id in job_ids}


def _array(job_id: str) -> str:
    """The array that a member belongs to; any other job itself."""
    return job_id.partition("_")[0]


def _job(line: str) -> tuple[str, Job]:
    job_id, state, reason, nodes, elapsed, limit = (part.strip() for part in line.split("|"))
    state = (state.split() or [GONE])[0]  # sacct: "CANCELLED by 1000"
    # squeue has None for no reason, sacct an exit code and a signal, where 0:0 is no news.
    code = re.fullmatch(r"([0-9]+):0", reason)
    reason = "" if reason == "None" or code else reason
    nodes = "" if nodes in ("", "(null)", "None assigned") else nodes
    job = Job(
        job_id=job_id,
        state=state,
        ended=state in ENDED,
        reason=reason,
        nodes=nodes,
        elapsed="" if state == "PENDING" else elapsed,
        limit=limit,
        exit_code=int(code[1]) if code else 0,
    )
    return job_id, job
