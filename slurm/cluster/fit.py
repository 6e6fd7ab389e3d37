"""Fits a plan to this cluster: does not ask for resources that the cluster does not track, and refuses a job that it
can never run. Both are found by asking Slurm. When Slurm does not answer, the plan stays unchanged, and sbatch
decides."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.job import JobSpec
from planner.plan import Plan
from slurm.cluster.nodes import NodeGroup, as_tracked, read_nodes, refuse_impossible
from slurm.cluster.queue import SlurmError, slurm
from slurm.cluster.site import user_name
from slurm.script.runtime import image_file, is_unpacked
from trainer.outcome import ConfigError

ASK_S = 5.0  # longest wait of a submit before it leaves the decision to sbatch
# This plugin treats all descendants of a job's first process as the job's and signals them, including squashfuse_ll,
# which keeps the image mounted for an apptainer without setuid. Seen with apptainer 1.4.5 on Slurm 26.05;
# proctrack/pgid left it alone.
SIGNALS_ALL = "proctrack/linuxproc"


def fit(plans: Sequence[Plan], environ: Mapping[str, str], *, needs_answer: bool = False) -> list[Plan]:
    """The fitted plans of one job, or of an array's members. Resources and notes are decided by the first plan.

    Raises:
        SlurmError: Slurm does not answer, where the caller `needs_answer`.
        ConfigError: no partition that the job may use could ever run it, or its container would not survive a stop.
    """
    spec, notes = plans[0].spec, list[str]()
    refuse_lost_image(spec, environ)
    if shutil.which("sinfo", path=environ.get("PATH")):
        try:
            groups = read_nodes(environ, timeout_s=ASK_S, cluster=spec.slurm.cluster or "")
        except SlurmError:
            if needs_answer:
                raise
            return list(plans)
        spec, notes = as_tracked(spec, groups)
        notes += refuse_beyond_limits(spec, groups, environ)
    changed = {"ask_mem": spec.resources.ask_mem, "gpu_flag": spec.slurm.gpu_flag}
    first, *others = (replace(plan, spec=plan.spec.but(**changed)) for plan in plans)
    return [replace(first, notes=(*first.notes, *notes)), *others]


def refuse_beyond_limits(spec: JobSpec, groups: Sequence[NodeGroup], environ: Mapping[str, str]) -> list[str]:
    """As refuse_impossible, except that a time limit which the person's default QOS lifts is only a note."""
    try:
        refuse_impossible(spec, groups)
    except ConfigError as error:
        qos = _lifting_qos(spec, environ)
        if not qos:
            raise
        refuse_impossible(spec.but(qos=qos), groups)
        return [f"{error}; your default QOS, {qos}, lifts this limit"]
    return []


def _lifting_qos(spec: JobSpec, environ: Mapping[str, str]) -> str:
    """The submitting person's default QOS for the job's account, if it lifts partitions' time limits; else "". sbatch
    --test-only does not tell: unless it enforces limits, Slurm accepts the job and lets it wait for ever."""
    arguments = ("--noheader", "--parsable2", "show")
    person = f"user={user_name(environ)}"
    questions = (
        ("user", person, "format=DefaultAccount"),
        ("assoc", person, "format=Account,DefaultQOS"),
        ("qos", "format=Name,Flags"),
    )
    try:
        mine, accounts, qos = (
            slurm("sacctmgr", *arguments, *asked, environ=environ, timeout_s=ASK_S).stdout.splitlines()
            for asked in questions
        )
    except (ConfigError, SlurmError):
        return ""
    lifting = {name for name, _, flags in (line.partition("|") for line in qos) if "PartitionTimeLimit" in flags}
    account = spec.slurm.account or "".join(mine[:1])
    found = [name for of, _, name in (line.partition("|") for line in accounts) if of == account]
    return next((name for name in found if name in lifting), "")


def refuse_lost_image(spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Raises ConfigError when the stop signal would also reach the process that keeps the container's image
    mounted."""
    image, runtime = spec.container.image, spec.slurm.runtime
    if runtime != "apptainer" or is_unpacked(spec) or _configured("ProctrackType", spec, environ) != SIGNALS_ALL:
        return
    source = image if image_file(spec) else f"docker://{image}"
    raise ConfigError(
        f"this cluster (ProctrackType={SIGNALS_ALL}) sends the signal to stop to the process that holds the image "
        "mounted too, and the run would be lost instead of saved",
        name="IMAGE",
        given=image,
        advice=f"unpack it (apptainer build --sandbox FOLDER {source}) and say IMAGE= with the folder's path, or "
        "RUNTIME=none or pyxis",
    )


def refuse_long_array(members: int, spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Raises ConfigError when the cluster has no index for an array's last member."""
    most = _configured("MaxArraySize", spec, environ)
    if most.isdigit() and members > int(most):
        raise ConfigError(
            f"{members} members: this cluster has job arrays of at most {most} (MaxArraySize): "
            f"make several sweeps of at most {most}"
        )


def _configured(key: str, spec: JobSpec, environ: Mapping[str, str]) -> str:
    """The value of a key in slurm.conf of the job's cluster; "" when Slurm does not report it."""
    try:
        config = slurm(
            "scontrol", "show", "config", environ=environ, timeout_s=ASK_S, cluster=spec.slurm.cluster or ""
        ).stdout
    except (ConfigError, SlurmError):
        return ""
    found = re.search(rf"^{key}\s*=\s*(\S+)", config, re.MULTILINE)
    return found[1] if found else ""
