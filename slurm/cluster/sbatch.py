"""Calls sbatch to submit a script or to test it, and handles a missing answer."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from launcher import cli
from slurm.cluster.job_id import joined
from slurm.cluster.queue import NO_CLUSTER, SCRIPT_NAME, SlurmError, find_submitted, slurm, way_out, words
from trainer.outcome import ConfigError

# sbatch's messages when the controller may have read the request without answering. A failed connection is not among
# them.
UNANSWERED = re.compile(
    r"timed out|(send|receive|shutdown) failure|zero bytes|reset by peer|broken pipe", re.IGNORECASE
)
ASK_AFTER_S = (1.0, 2.0, 4.0, 8.0)
_MINE = "sacctmgr show assoc user=$USER format=account,partition,qos lists yours"
# What to do about words of sbatch that name no variable of the request.
WAYS_OUT = {
    **{told: f"{way}; make run trains on this machine, TO=k8s on Kubernetes" for told, way in NO_CLUSTER.items()},
    "No partition specified": "say PARTITION= (sinfo lists them)",
    "Required partition not available": "say another PARTITION= (sinfo lists them)",
    "Invalid account": f"say ACCOUNT= ({_MINE})",
    "Invalid qos": f"say QOS= ({_MINE})",
    "Invalid feature": "say another CONSTRAINT= (sinfo --format=%f lists the features)",
    "reservation is invalid": "say another RESERVATION= (scontrol show reservation lists them)",
    "node configuration is not available": "scontrol show partition shows limits, sinfo --list-reasons what is down",
}


class SubmitError(SlurmError):
    """sbatch refused without a mistake that Trainyard can see. One line; exit code 1. sbatch has one exit code for
    "no such partition" and for "the controller is down", so it is never 78."""


class UnansweredError(SlurmError):
    """It is not known whether the job is queued, so the files written for it stay."""


def sbatch(script: Path, environ: Mapping[str, str], known: Collection[str] = (), cluster: str = "") -> str:
    """The id of the job that Slurm made of `script`, which names `cluster`; `known` are the ids of earlier jobs.

    Raises:
        SubmitError: sbatch refused the job, in its own words.
        UnansweredError: neither sbatch nor squeue says whether the job exists, or the user interrupted the wait.
    """
    try:
        done = slurm("sbatch", "--parsable", str(script), environ=environ)
        said = words(done)
        found = re.match(r"([0-9]+)(?:;(\S+))?\s*$", done.stdout)  # "id" or, for a named cluster, "id;cluster"
        if done.returncode == 0 and found:
            if done.stderr.strip():  # a warning, or what the site's own rules have to say
                cli.say(f"sbatch says: {said}")
            return joined(found[1], found[2] or "")
        if done.returncode > 0 and not UNANSWERED.search(said):
            raise _refused(f"sbatch refused the job: {said}", environ)
        cli.say(f"sbatch did not answer ({said}): asking squeue for the job")
        for pause_s in ASK_AFTER_S:
            time.sleep(pause_s)
            with contextlib.suppress(SlurmError, ConfigError):
                if new := [job_id for job_id in find_submitted(script, environ, cluster) if job_id not in known]:
                    return new[-1]
    except KeyboardInterrupt:
        said = "interrupted"
    run_id = script.parent.name
    raise UnansweredError(
        f"it is not known whether the job is queued, so {script.parent} stays ({said}): make status RUN={run_id} asks "
        f"again, as does squeue --me; make resume RUN={run_id} submits it if it is not there"
    )


def rehearse(text: str, environ: Mapping[str, str]) -> str:
    """sbatch's answer to a test of the script `text`; nothing is queued, and no file is left on the disk.

    Raises:
        SubmitError: sbatch would refuse the job.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        script = Path(folder) / SCRIPT_NAME
        script.write_text(text, encoding="utf-8")
        done = slurm("sbatch", "--test-only", str(script), environ=environ)
    if done.returncode:
        raise _refused(f"sbatch would refuse the job: {words(done)}", environ)
    return re.sub(r"^Job [0-9]+ to start", "could start", words(done))


def overrides(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of variables that sbatch would read options from. They are not passed to it, because they override the
    script."""
    return tuple(sorted(name for name in environ if name.startswith("SBATCH_") or name == "SLURM_CLUSTERS"))


def _refused(said: str, environ: Mapping[str, str]) -> SubmitError:
    """sbatch's message, with what to do about it, and with the options of this shell that were not passed to it: a site
    may set an account in them."""
    if way := way_out(said, WAYS_OUT):
        said = f"{said}: {way}"
    if kept := ", ".join(overrides(environ)):
        said = f"{said} (not passed to sbatch, say it in the request or the site file: {kept})"
    return SubmitError(said)
