"""Jobs as Slurm knows them: from squeue while it remembers them, then from sacct if there is accounting. Uses only
options of 22.05. squeue forgets a job some minutes after its end (MinJobAge), and reports that as an error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.progress import GONE, UNKNOWN, Job
from launcher.records import Run, read_run, write_record
from planner.request import scheduler_values
from slurm.cluster.job_id import array_of, by_cluster, command, joined, member_of, split
from slurm.cluster.reasons import advice, explained
from slurm.script.shell import OF_THE_CLUSTER
from trainer.outcome import ConfigError, SchedulerError
from trainer.text import printable

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
)
SCRIPT_NAME = "job.sbatch"
"""Name of the script in the folder of a run, or of a sweep."""
SUBMITTING = "asked_for"
"""Key in run.json: the script that was given to sbatch, until it returns the job's number."""
ASK_S = 15.0
NO_ACCOUNTING = "accounting storage is disabled"
SURE_AFTER_S = 5.0
# What to do where Slurm's programs reach no cluster, by what they say then.
NO_CLUSTER = {
    "Unable to contact slurm controller": "scontrol ping shows whether the cluster's controller is up; if it stays "
    "down, ask the administrator",
    "Could not establish a configuration source": "this machine has Slurm's programs and belongs to no cluster: go to "
    "a login node",
    "Unable to process configuration file": "the administrator can mend slurm.conf",
}
COLUMNS = 6  # separators in a line of sacct's; squeue has one more column, the script, which may hold any character


class SlurmError(SchedulerError):
    """An error in Slurm's own words."""


def slurm(
    program: str, *arguments: str, environ: Mapping[str, str], timeout_s: float | None = None, cluster: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs to its end, for `cluster` if it is not the program's default.

    Raises:
        ConfigError: the program is not on PATH.
        SlurmError: it took longer than `timeout_s`, since without a controller the programs wait for minutes; or
            SLURM_CONF names no file, for which they wait a minute.
    """
    if not shutil.which(program, path=environ.get("PATH")):
        raise ConfigError(f"no {program} on PATH: this asks Slurm, so run it where Slurm is installed")
    if (conf := environ.get("SLURM_CONF")) and not os.access(conf, os.R_OK):
        raise SlurmError(f"SLURM_CONF={conf}: no file that can be read: unset it, or name the cluster's slurm.conf")
    # Options that a site or a person keeps in the environment (SBATCH_PARTITION, SQUEUE_FORMAT, ...) win over
    # ours, and SLURM_* of a job that this is called from would leak.
    dropped = ("SBATCH_", "SLURM_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_", "SRUN_")
    kept = {k: v for k, v in environ.items() if not k.startswith(dropped) or k.startswith(OF_THE_CLUSTER)}
    try:
        return subprocess.run(
            [program, *([f"--clusters={cluster}"] if cluster else []), *arguments],
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
    """The message of a program, on one line."""
    return " ".join(_unnamed(done.stderr or done.stdout, done).split()) or f"exit code {done.returncode}"


def advised(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a program, on one line; where it reached no cluster, with what to do."""
    said = words(done)
    return ": ".join(filter(None, (said, way_out(said, NO_CLUSTER))))


def way_out(said: str, ways: Mapping[str, str]) -> str:
    """What to do about a program's words, by what they contain; "" when that is not known."""
    return next((way for told, way in ways.items() if told.lower() in said.lower()), "")


def _unnamed(said: str, done: subprocess.CompletedProcess[str]) -> str:
    """What a program said, without its own name, which Slurm's programs put before each line: `sbatch: error: `."""
    return re.sub(rf"(?m)^{re.escape(done.args[0])}: (error: )?", "", said)


def find_jobs(job_ids: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    """Every one of `job_ids`, in their order, whoever owns them: `jobs_of` selects a run's own jobs. Raises
    ConfigError without squeue, SlurmError when it fails."""
    found: dict[str, Job] = {}
    for cluster, numbers in by_cluster(job_ids).items():
        found |= _find_in(cluster, numbers, environ)
    return {i: found.get(i, Job(job_id=i, state=GONE, ended=True, reason="not in squeue")) for i in job_ids}


def _find_in(cluster: str, numbers: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    found = _squeue(numbers, environ, cluster)
    missing = [number for number in numbers if number not in found]
    if missing:
        told, silent = _sacct(missing, environ, cluster)
        found |= told
    for number in missing:
        # What never started of an array is one job without an index, once it was cancelled.
        if number not in found and (rest := found.get(array_of(number))):
            found[number] = rest
        elif number not in found and silent:
            found[number] = Job(job_id=number, state=GONE, ended=True, reason=f"not in squeue, {silent}")
    return {joined(n, cluster): replace(found[n], job_id=joined(n, cluster)) for n in numbers if n in found}


def ask_jobs(job_ids: Sequence[str], environ: Mapping[str, str]) -> dict[str, Job]:
    """As find_jobs; a job is UNKNOWN, and the reason says why, where its cluster does not answer."""
    found: dict[str, Job] = {}
    for cluster, numbers in by_cluster(job_ids).items():
        asked = [joined(number, cluster) for number in numbers]
        try:
            found |= find_jobs(asked, environ)
        except SlurmError as error:
            found |= {i: Job(job_id=i, state=UNKNOWN, ended=False, reason=str(error)) for i in asked}
    return {i: found[i] for i in job_ids}


def jobs_of(run: Run, found: Mapping[str, Job]) -> list[Job]:
    """The run's jobs, oldest first. A number in run.json proves nothing: people copy and edit files, and Slurm reuses
    numbers. A job with another script is GONE for this run, and its reason says so."""
    return [_held_against(run, found[job_id]) for job_id in run.job_ids if job_id in found]


def _held_against(run: Run, job: Job) -> Job:
    if job.state in (GONE, UNKNOWN) or _made_of(_folder_of(run, job.job_id), job):
        return job
    which = f"made of {printable(job.script)}" if job.script else f"called {printable(job.name)}"
    return Job(job_id=job.job_id, state=GONE, ended=True, reason=f"Slurm's job of that number is another, {which}")


def _folder_of(run: Run, job_id: str) -> Path:
    """The folder of the script that the job was made of: an array's script lies in the sweep's folder, beside its
    members'."""
    return run.folder.with_name(run.run_id.rpartition("-")[0]) if "_" in split(job_id)[0] else run.folder


def _made_of(folder: Path, job: Job) -> bool:
    named = job.name == folder.name or job.name.endswith(f"-{folder.name}")
    if not job.script:
        return named  # sacct does not tell the script
    own, script = folder / SCRIPT_NAME, Path(job.script)
    if os.path.realpath(script) == os.path.realpath(own):
        return True
    try:
        script.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return named and script.parts[-2:] == own.parts[-2:]  # the folder of runs was moved, or is mounted elsewhere
    except OSError:
        pass
    return False


def with_exit_code(job: Job, environ: Mapping[str, str]) -> Job:
    """`job` with its exit code if it failed by one, which squeue does not report."""
    if job.reason != "NonZeroExitCode":
        return job
    number, cluster = split(job.job_id)
    done = slurm("scontrol", "--oneliner", "show", "job", number, environ=environ, cluster=cluster)
    found = re.search(r" ExitCode=([0-9]+):", done.stdout)
    return replace(job, reason="", exit_code=int(found[1])) if found else job


def find_submitted(script: Path, environ: Mapping[str, str], cluster: str = "") -> list[str]:
    """The ids of the user's own jobs with that script, oldest first. Raises as find_jobs."""
    arguments = ("--noheader", "--me", "--all", "--states=all", "--format=%F|%o")
    done = slurm("squeue", *arguments, environ=environ, timeout_s=ASK_S, cluster=cluster)
    if done.returncode:
        raise SlurmError(f"squeue failed: {advised(done)}")
    jobs = (line.strip().partition("|") for line in done.stdout.splitlines())
    numbers = sorted({number for number, _, made_of in jobs if made_of == str(script)}, key=int)
    return [joined(number, cluster) for number in numbers]


def adopt_submitted_job(run: Run, environ: Mapping[str, str]) -> Run:
    """The run, with the job whose number sbatch did not return, once squeue shows it. Raises as find_jobs."""
    if not (script := Path(str(run.record.get(SUBMITTING, "")))).name:
        return run
    found = [job_id for job_id in find_submitted(script, environ, _cluster_of(run)) if job_id not in _arrays_of(run)]
    if not found:
        return run
    # The script of a sweep lies in the sweep's folder, and a member's index ends its name.
    member = "" if script.parent == run.folder else "_" + run.run_id.rpartition("-")[2]
    kept = {key: value for key, value in run.record.items() if key != SUBMITTING}
    write_record(run.folder, {**kept, "job_ids": [*run.job_ids, member_of(found[-1], member)]})
    return read_run(run.folder)


def _cluster_of(run: Run) -> str:
    """The cluster of the run's newest job, if the record names one. Raises ConfigError for an invalid name."""
    name = run.record["spec"].get("cluster")
    return str(scheduler_values.cluster("CLUSTER", str(name))) if name else ""


def _arrays_of(run: Run) -> set[str]:
    return {joined(array_of(job_id), split(job_id)[1]) for job_id in run.job_ids}


def adopt_submitted_jobs(runs: Sequence[Run], environ: Mapping[str, str]) -> list[Run]:
    """adopt_submitted_job of each run, asked twice: a controller that has just returned shows its queue before it has
    accepted the jobs that waited for it."""
    found = [adopt_submitted_job(run, environ) for run in runs]
    if any(SUBMITTING in run.record for run in found):
        time.sleep(SURE_AFTER_S)
        found = [adopt_submitted_job(run, environ) for run in found]
    return found


def _squeue(job_ids: Sequence[str], environ: Mapping[str, str], cluster: str) -> dict[str, Job]:
    arguments = ("--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%r|%N|%M|%l|%j|%o")
    jobs = dict.fromkeys(map(array_of, job_ids))
    done = slurm("squeue", *arguments, f"--jobs={','.join(jobs)}", environ=environ, cluster=cluster)
    if done.returncode:
        if "invalid job id" in done.stderr.lower():
            return {}
        raise SlurmError(f"squeue failed: {advised(done)}")
    return dict(_job(line, cluster) for line in done.stdout.splitlines() if line.count("|") >= COLUMNS)


def _sacct(job_ids: Sequence[str], environ: Mapping[str, str], cluster: str) -> tuple[dict[str, Job], str]:
    """(the jobs in the accounting, why it does not answer; "" when it does, or when the cluster has none)."""
    if not shutil.which("sacct", path=environ.get("PATH")):
        return {}, ""
    arguments = ("--noheader", "--parsable2", "--allocations")
    columns = "--format=JobID,State,ExitCode,NodeList,Elapsed,Timelimit,JobName"
    jobs = f"--jobs={','.join(job_ids)}"
    try:
        done = slurm("sacct", *arguments, columns, jobs, environ=environ, timeout_s=ASK_S, cluster=cluster)
    except SlurmError as error:
        return {}, str(error)
    if done.returncode:
        *_, last = ["", *_unnamed(done.stderr, done).splitlines()]
        return {}, "" if NO_ACCOUNTING in done.stderr or not last else f"sacct failed: {last}"
    found = dict(_job(line, cluster) for line in done.stdout.splitlines() if line.count("|") == COLUMNS)
    return {job_id: job for job_id, job in found.items() if job_id in job_ids}, ""


def _job(line: str, cluster: str) -> tuple[str, Job]:
    """(the job's number, the job)."""
    number, state, reason, nodes, elapsed, limit, name, *script = (part.strip() for part in line.split("|", 7))
    state = (state.split() or [GONE])[0]  # sacct: "CANCELLED by 1000"
    # squeue has None for no reason, sacct an exit code and a signal, where 0:0 is no news.
    code = re.fullmatch(r"([0-9]+):0", reason)
    reason = "" if reason == "None" or code else reason
    nodes = "" if nodes in ("", "(null)", "None assigned") else nodes
    ended, job_id = state in ENDED, joined(number, cluster)
    job = Job(
        job_id=job_id,
        state=state,
        ended=ended,
        reason=reason if ended else explained(reason),
        nodes=nodes,
        elapsed="" if state == "PENDING" else elapsed,
        limit=limit,
        exit_code=int(code[1]) if code else 0,
        release=command("scontrol", job_id, "release") if not ended and "held" in reason.lower() else "",
        advice="" if ended else advice(reason, job_id),
        name=name,
        script="".join(script),
    )
    return number, job
