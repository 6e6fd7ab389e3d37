"""Plan -> a job in the queue. The only part of the launch side that acts.

The order is the promise: everything that can be refused is refused before the first file is written, and when
sbatch itself refuses, what was written is removed again. When sbatch cannot tell, everything stays: run.json says
what was asked for, and whoever reads it next looks for the job (queue.settled).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher import cli
from launcher.records import run_record, write_record
from planner.job import JobSpec, Plan
from planner.request.variables import DEFAULT_OUTPUT
from slurm.queue import ASKED, SCRIPT_NAME, SlurmError, find_submitted, slurm, words
from slurm.runtime import image_file, is_unpacked, job_python
from slurm.script import job_name, log_dir, log_path, render, run_dir
from trainer.outcome import ConfigError

# What sbatch says when the controller may have read the request and has not answered. A connect failure is none.
UNANSWERED = re.compile(
    r"timed out|(send|receive|shutdown) failure|zero bytes|reset by peer|broken pipe", re.IGNORECASE
)
ASK_AFTER_S = (1.0, 2.0, 4.0, 8.0)


class SubmitError(SlurmError):
    """Nothing is wrong that we can see, but sbatch or the disk refused. One line; exit code 1.

    sbatch has one exit code for "no such partition" and for "the controller is down", so it is never 78.
    """


class UnansweredError(SlurmError):
    """Whether the job is queued is not known, so what was written for it stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A job that Slurm has taken."""

    plan: Plan
    job_id: str
    ignored: tuple[str, ...]
    """Names of environment variables that were kept from sbatch."""


def check(plan: Plan, environ: Mapping[str, str], *, again: bool = False) -> None:
    """Raises ConfigError when there is no sbatch or no image here, or the run exists (unless it runs `again`).

    What the job itself would refuse, data and settings, is trainer.planned's to find.
    """
    spec = plan.spec
    if not shutil.which("sbatch", path=environ.get("PATH")):
        raise ConfigError(
            "no sbatch on PATH: submit where Slurm is installed; `make render` prints the script without it"
        )
    if not again and os.path.lexists(folder := Path(run_dir(spec))):
        raise _taken(spec.run_id, folder)
    if (file := image_file(spec)) and not (file.is_dir() if is_unpacked(spec) else file.is_file()):
        lacking = "is no folder with an unpacked image" if file.exists() else "is not there"
        raise ConfigError(f"IMAGE={spec.image}: {file} {lacking}: the nodes could not run it")


def make_environment(spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Makes the environment that the job's script names where it is missing or its pins have changed, which takes
    minutes. Raises ConfigError when it cannot be made; make-env.sh has said why on stderr."""
    if spec.runtime != "none":
        return  # the image brings it
    command = ["sh", "make-env.sh", spec.device]
    if subprocess.run(command, cwd=spec.project_dir, env=dict(environ), stdout=subprocess.DEVNULL).returncode:
        raise ConfigError(f"the job's environment could not be made: make env DEVICE={spec.device} tries again")


def check_environment(spec: JobSpec) -> None:
    """Raises ConfigError when the environment that the job's script names has not been made."""
    if spec.runtime != "none":
        return  # the image brings it
    python = Path(job_python(spec))
    # make-env.sh writes .made last: an environment without it was interrupted.
    if not os.access(python, os.X_OK) or not (python.parents[1] / ".made").exists():
        raise ConfigError(f"no finished environment for the job ({python}): make env DEVICE={spec.device}")


def note_runtime(spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Says where srun knows no containers. No refusal: only the nodes' own need know them."""
    if spec.runtime != "pyxis" or not shutil.which("srun", path=environ.get("PATH")):
        return
    with contextlib.suppress(SlurmError):
        helped = slurm("srun", "--help", environ=environ, timeout_s=5.0)
        if helped.returncode == 0 and "--container-image" not in helped.stdout:
            cli.say(
                "srun here knows no --container-image: where the nodes' does not either, RUNTIME=pyxis ends with 78"
            )


def submit(plan: Plan, environ: Mapping[str, str]) -> Submitted:
    """Write the run's folder and hand the script to sbatch.

    Raises:
        ConfigError: as `check`, or the job's environment has not been made.
        SubmitError: the folder could not be written, or sbatch refused; nothing is left behind.
        UnansweredError: sbatch did not tell; the folder is left.
    """
    check(plan, environ)
    spec = plan.spec
    check_environment(spec)
    note_runtime(spec, environ)
    folder = Path(run_dir(spec))
    record = run_record(plan)
    with new_folders(spec.run_id, folder):
        Path(log_dir(spec)).mkdir()
        (folder / SCRIPT_NAME).write_text(render(plan), encoding="utf-8")
        write_record(folder, {**record, ASKED: str(folder / SCRIPT_NAME)})
        job_id = sbatch(folder / SCRIPT_NAME, environ)
    write_record(folder, {**record, "job_ids": [job_id]})
    return Submitted(plan=plan, job_id=job_id, ignored=tuple(sorted(overrides(environ))))


@contextlib.contextmanager
def new_folders(run_id: str, *folders: Path) -> Iterator[None]:
    """Folders side by side that are made for the block, and removed again, with what is in them, when it fails.

    Raises:
        ConfigError: another submit with this RUN was faster.
        SubmitError: the disk refused.
    """
    above = [path for path in folders[0].parents if not path.exists()]  # nearest first
    made: list[Path] = []
    try:
        folders[0].parent.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            try:
                folder.mkdir()
            except FileExistsError as error:
                raise _taken(run_id, folder) from error
            made.append(folder)
        yield
    except UnansweredError:
        raise
    except BaseException as error:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()  # not one that another submit uses by now
        if isinstance(error, OSError):
            raise SubmitError(f"cannot write {error.filename or folders[0]}: {error.strerror}") from error
        raise


def _taken(run_id: str, folder: Path) -> ConfigError:
    return ConfigError(f"RUN={run_id}: {folder} exists: give another RUN, or none for a new one")


def rehearse(plan: Plan, environ: Mapping[str, str]) -> str:
    """What sbatch would do with the script, in its words; nothing is queued, and nothing is left on the disk.

    Raises:
        SubmitError: sbatch would refuse the job.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        script = Path(folder) / SCRIPT_NAME
        script.write_text(render(plan), encoding="utf-8")
        done = slurm("sbatch", "--test-only", str(script), environ=environ)
    if done.returncode:
        raise _refused(f"sbatch would refuse the job: {words(done)}", environ)
    return re.sub(r"^sbatch: Job [0-9]+ to start", "could start", words(done))


def follow_up(submitted: Submitted) -> str:
    """What was submitted and how to follow it, for a terminal."""
    spec, job_id = submitted.plan.spec, submitted.job_id
    elsewhere = {"OUTPUT": spec.output} if spec.output != DEFAULT_OUTPUT else {}
    lines = [
        f"job id  {job_id} ({job_name(spec)})",
        f"run id  {spec.run_id}",
        f"log     {log_path(spec, job_id=job_id)}",
        f"result  {os.path.join(run_dir(spec), 'adapter')} when it is done",
        "",
        *cli.follow_up(cli.command_words(elsewhere, spec.run_id), cancel=f"scancel {job_id}"),
    ]
    if submitted.ignored:
        lines += ["", f"note    not passed to sbatch, say it in the request: {', '.join(submitted.ignored)}"]
    return "\n".join(lines)


def overrides(environ: Mapping[str, str]) -> set[str]:
    """Variables that sbatch reads options from, and that it is not given: they win over the script's own."""
    return {name for name in environ if name.startswith("SBATCH_") or name == "SLURM_CLUSTERS"}


def _refused(said: str, environ: Mapping[str, str]) -> SubmitError:
    """What sbatch said, and what it was not given of this shell's options: a site may set an account there."""
    if kept := ", ".join(sorted(overrides(environ))):
        said = f"{said} (not passed to sbatch, say it in the request or the site file: {kept})"
    return SubmitError(said)


def sbatch(script: Path, environ: Mapping[str, str], known: Collection[str] = ()) -> str:
    """The id of the job that Slurm made of `script`; `known` are those of earlier ones.

    Raises:
        SubmitError: sbatch refused it; with its own words.
        UnansweredError: neither sbatch nor squeue says whether the job is there, or one did not wait for them.
    """
    try:
        done = slurm("sbatch", "--parsable", str(script), environ=environ)
        said = words(done)
        found = re.match(r"([0-9]+)(?:;|\s|$)", done.stdout)  # "id" or, with several clusters, "id;cluster"
        if done.returncode == 0 and found:
            return found[1]
        if done.returncode > 0 and not UNANSWERED.search(said):
            raise _refused(f"sbatch refused the job: {said}", environ)
        cli.say(f"sbatch did not answer ({said}): asking squeue for the job")
        for pause_s in ASK_AFTER_S:
            time.sleep(pause_s)
            with contextlib.suppress(SlurmError, ConfigError):
                if new := [job_id for job_id in find_submitted(script, environ) if job_id not in known]:
                    return new[-1]
    except KeyboardInterrupt:
        said = "interrupted"
    run_id = script.parent.name
    raise UnansweredError(
        f"it is not known whether the job is queued, so {script.parent} stays ({said}): make status RUN={run_id} asks "
        f"again, as does squeue --me; make resume RUN={run_id} submits it if it is not there"
    )
