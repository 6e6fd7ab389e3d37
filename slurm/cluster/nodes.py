"""The cluster's partitions and nodes, from sinfo, and the refusal of requests that they can never run. Nodes that are
down count, because they may come back, and a job may wait for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.job import JobSpec
from slurm.cluster.queue import SlurmError, advised, slurm
from trainer.outcome import ConfigError
from trainer.text import known_are


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeGroup:
    """Equal nodes of one partition."""

    partition: str
    default: bool
    """Whether Slurm uses this partition when none is named."""
    limit_min: int | None
    """The longest time of a job, in minutes; None without a limit."""
    nodes: int
    cpus: int
    mem_mib: int
    gpus: tuple[tuple[str, int], ...]
    """(type, number) of the GPUs of a node, from its Gres; the type is empty when the cluster names none."""
    features: str
    whole: bool = False
    """Whether a job gets whole nodes."""

    @property
    def tracks_memory(self) -> bool:
        """Whether Slurm knows the nodes' memory; it reports 1 MiB when slurm.conf does not give any."""
        return self.mem_mib > 1

    def gpu_count(self, kind: str | None) -> int:
        return sum(count for name, count in self.gpus if kind in (None, name))


def read_nodes(
    environ: Mapping[str, str], *, timeout_s: float | None = None, cluster: str = ""
) -> tuple[NodeGroup, ...]:
    """The nodes of all partitions. Raises ConfigError without sinfo, SlurmError when it fails."""
    # Without --exact different nodes would be one group, with its smallest value and a +.
    done = slurm(
        "sinfo",
        "--noheader",
        "--all",
        "--exact",
        "--format=%P|%l|%D|%c|%m|%G|%f|%h",
        environ=environ,
        timeout_s=timeout_s,
        cluster=cluster,
    )
    if done.returncode:
        raise SlurmError(f"sinfo failed: {advised(done)}")
    lines = [line for line in done.stdout.splitlines() if line.count("|") == 7]
    try:
        return tuple(map(_group, lines))
    except ValueError as error:
        raise SlurmError(f"sinfo said what is no list of nodes: {error}") from None


def as_tracked(spec: JobSpec, groups: Sequence[NodeGroup]) -> tuple[JobSpec, list[str]]:
    """(the request without resources that the cluster does not track and so cannot assign, notes about that for a
    person)."""
    asked = [group for group in groups if group.partition in partitions(spec, groups)]
    where, notes = ",".join(partitions(spec, groups)), []
    if spec.resources.ask_mem and asked and not any(group.tracks_memory for group in asked):
        spec = spec.but(ask_mem=False)
        notes.append(f"Slurm knows of no memory on the nodes of {where}: the job does not ask for any (MEM=none)")
    # If Slurm knows of GPUs on other nodes, it knows that these nodes have none.
    untracked = asked and not any(group.gpus for group in groups)
    if spec.resources.gpus and spec.slurm.gpu_flag != "none" and untracked and all(group.whole for group in asked):
        spec = spec.but(gpu_flag="none")
        notes.append(
            f"Slurm knows of no GPUs here, and {where} gives whole nodes: the job takes theirs (GPU_FLAG=none)"
        )
    return spec, notes


def partitions(spec: JobSpec, groups: Sequence[NodeGroup]) -> list[str]:
    """The partitions that the job may use; empty when the cluster has no default."""
    named = spec.slurm.partition
    return named.split(",") if named else list({g.partition: 0 for g in groups if g.default})


def refuse_impossible(spec: JobSpec, groups: Sequence[NodeGroup]) -> None:
    """Raises ConfigError when no partition that the job may use could ever run it."""
    names = list(dict.fromkeys(group.partition for group in groups))
    asked = partitions(spec, groups)
    for name in asked:
        if name not in names:
            raise ConfigError(f"no such partition{known_are(name, names)}", name="PARTITION", given=name)
    # Without a default partition sbatch decides.
    problems = [_problem(spec, name, [g for g in groups if g.partition == name]) for name in asked]
    found = {str(problem): problem for problem in problems if problem}
    if problems and all(problems):
        raise ConfigError.of(list(found.values()))


def _problem(spec: JobSpec, name: str, groups: Sequence[NodeGroup]) -> ConfigError | None:
    """Why the partition can never run the request; None when it can."""
    resources = spec.resources
    if not any(group.nodes for group in groups):
        return ConfigError("this partition has no nodes", name="PARTITION", given=name, advice="name another")
    where, limit, kind = f"partition {name}", groups[0].limit_min, resources.gpu_type
    # A QOS may lift a partition's limit.
    if limit is not None and resources.time_limit_min > limit and not spec.slurm.qos:
        return ConfigError(
            f"{where} ends jobs after {limit} minutes",
            name="TIME",
            given=f"{resources.time_limit_min}m",
            advice=f"try TIME={limit}m",
        )
    fitting = list(groups)
    most = max(group.gpu_count(kind) for group in groups)
    kinds = sorted({gpu for group in groups for gpu, _ in group.gpus if gpu})
    asks = spec.slurm.gpu_flag != "none"
    # Whole nodes include their GPUs, whose type Slurm may know.
    if resources.gpus and not most and kind and (max(group.gpu_count(None) for group in groups) if asks else kinds):
        return ConfigError(
            f"{where} has {', '.join(kinds) or 'GPUs without a type: leave it out'}", name="GPU_TYPE", given=kind
        )
    if resources.gpus and asks:
        if not most:
            untracked = "GPU_FLAG=none takes whole nodes with GPUs that Slurm does not know"
            return ConfigError(
                f"{where} has no GPUs",
                name="GPUS",
                given=resources.gpus,
                advice=f"name another with PARTITION=; {untracked}",
            )
        if resources.gpus > most:
            other = _spread(resources.gpus * resources.nodes, [g for g in groups if g.gpu_count(kind)], kind)
            return ConfigError(
                f"a node of {where} has at most {most}",
                name="GPUS",
                given=resources.gpus,
                advice=f"try {other or f'GPUS={most}'}",
            )
        fitting = [group for group in fitting if group.gpu_count(kind) >= resources.gpus]
    most = max(group.cpus for group in fitting)
    if resources.cpus > most:
        return ConfigError(
            f"such a node of {where} has at most {most}", name="CPUS", given=resources.cpus, advice=f"try CPUS={most}"
        )
    most, needed = max(group.mem_mib for group in fitting) // 1024, resources.mem_gib if resources.ask_mem else 0
    if needed > most:
        instead = f"MEM={most}" if most else "MEM=none, which asks for none"
        return ConfigError(
            f"such a node of {where} has at most {most} GiB", name="MEM", given=needed, advice=f"try {instead}"
        )
    fitting = [g for g in fitting if g.cpus >= resources.cpus and g.mem_mib >= needed * 1024]
    count = sum(group.nodes for group in fitting)
    if resources.nodes > count:
        return ConfigError(f"{where} has {count} such nodes", name="NODES", given=resources.nodes)
    return None


def _spread(total: int, groups: Sequence[NodeGroup], kind: str | None) -> str:
    """A request for the same number of GPUs on as few nodes as possible; "" when they do not divide evenly."""
    for each in range(max(group.gpu_count(kind) for group in groups), 0, -1):
        nodes = sum(group.nodes for group in groups if group.gpu_count(kind) >= each)
        if total % each == 0 and total // each <= nodes:
            return f"GPUS={each} NODES={total // each}"
    return ""


def _group(line: str) -> NodeGroup:
    partition, limit, nodes, cpus, memory, gres, features, shared = (part.strip() for part in line.split("|"))
    return NodeGroup(
        partition=partition.removesuffix("*"),
        default=partition.endswith("*"),
        limit_min=_minutes(limit),
        nodes=int(nodes),
        cpus=int(cpus.rstrip("+")),
        mem_mib=int(memory.rstrip("+")),
        gpus=_gpus(gres),
        features="" if features == "(null)" else features,
        whole=shared == "EXCLUSIVE",
    )


def _gpus(gres: str) -> tuple[tuple[str, int], ...]:
    """`gpu:a100:8(S:0-1),gpu:2,mps:100` -> (("a100", 8), ("", 2))."""
    without_sockets = re.sub(r"\([^)]*\)", "", gres)
    found = (re.fullmatch(r"gpu(?::([^:]+))?:([0-9]+)", part) for part in without_sockets.split(","))
    return tuple((match[1] or "", int(match[2])) for match in found if match)


def _minutes(limit: str) -> int | None:
    """Minutes of `1-00:00:00`, `2:00:00` or `30:00`; None for infinite."""
    found = re.fullmatch(r"(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):[0-9]+", limit)
    if not found:
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes
