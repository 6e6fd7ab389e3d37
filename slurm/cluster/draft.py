"""`make site`: a first slurm/site.yaml from this cluster's own answers and the programs on PATH. Certain values are
ready for use; values that only a person knows are comments."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.scheduler import Scheduler, Words
from planner.values import GPU_GIB, NO_BF16
from slurm.cluster.nodes import NodeGroup, read_nodes
from slurm.cluster.queue import slurm
from trainer.outcome import FINISHED, ConfigError
from trainer.text import format_table, printable_lines

DEFAULT_LIMIT_MIN = 720


def site(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `site`."""
    if given:
        raise ConfigError(f"{next(iter(given))}: site takes no variables: make site > slurm/site.yaml")
    print(ask(environ), end="")
    return FINISHED


def ask(environ: Mapping[str, str]) -> str:
    """The text of the file for this cluster. Raises ConfigError without sinfo, SlurmError when it fails."""
    groups = read_nodes(environ)
    config = slurm("scontrol", "show", "config", environ=environ).stdout
    return draft(groups, config, environ, srun_help=slurm("srun", "--help", environ=environ).stdout)


def draft(groups: Sequence[NodeGroup], config: str, environ: Mapping[str, str], *, srun_help: str = "") -> str:
    """The text of the file, from the nodes, `scontrol show config` and the environment of `make site`."""
    blocks = [
        _heading(config),
        _partitions(groups),
        _limits(groups),
        _gpus(groups),
        _names(config, groups, environ),
        _containers(environ, srun_help),
        _environment(environ),
    ]
    return printable_lines("\n\n".join("\n".join(block) for block in blocks) + "\n")


def _heading(config: str) -> list[str]:
    cluster, version = (_setting(config, key) for key in ("ClusterName", "SLURM_VERSION"))
    return [
        f"# Cluster {cluster}, Slurm {version}. Drafted by `make site`: read it through before using it.",
        "# What is typed wins over this file: make submit PARTITION=debug. All keys: slurm/site.example.yaml.",
    ]


def _partitions(groups: Sequence[NodeGroup]) -> list[str]:
    rows = [("partition", "limit", "nodes", "CPUs", "GiB", "GPUs a node", "features")]
    for g in groups:
        gpus = " ".join(f"{kind or 'gpu'}:{count}" for kind, count in g.gpus)
        limit = "none" if g.limit_min is None else f"{g.limit_min}m"
        name = g.partition + ("*" if g.default else "")
        sizes = (str(g.nodes), str(g.cpus), str(g.mem_mib // 1024))
        rows.append((name, limit, *sizes, gpus or "-", g.features or "-"))
    table = [f"#   {line}" for line in format_table(rows).splitlines()]
    home = _home(groups)
    if home and home.default:
        return [*table, f"# partition: {home.partition}  # Slurm's own default, and it has GPUs"]
    if home:
        default = "the default has none" if any(group.default for group in groups) else "Slurm has no default"
        return [*table, f"partition: {home.partition}  # the first that has GPUs; {default}"]
    return [*table, "# partition: no partition has GPUs that Slurm knows of"]


def _limits(groups: Sequence[NodeGroup]) -> list[str]:
    home = _home(groups)
    if home and home.limit_min is not None and home.limit_min < DEFAULT_LIMIT_MIN:
        return [f"time: {home.limit_min}m  # the partition's limit; 12h where this is left out", *_untracked(groups)]
    return ["# time: 12h", *_untracked(groups)]


def _untracked(groups: Sequence[NodeGroup]) -> list[str]:
    """Resources that jobs must not ask for, since Slurm does not know that the nodes have them."""
    home = _home(groups)
    here = [group for group in groups if (group.partition == home.partition if home else group.default)] or groups
    lines = []
    if not any(group.tracks_memory for group in here):
        lines.append("mem: none  # Slurm knows of no memory on its nodes")
    if not any(group.gpus for group in groups):
        lines.append("# gpu_flag: none  # if nodes have GPUs all the same: jobs then take whole nodes")
    return lines


def _gpus(groups: Sequence[NodeGroup]) -> list[str]:
    kinds = sorted({kind for group in groups for kind, _ in group.gpus if kind})
    known, unknown = [], []
    for kind in kinds:
        size = GPU_GIB.get(kind.lower())
        if kind.lower() in NO_BF16:
            unknown.append(f"#   {kind}: no bfloat16, which training needs")
        elif size is not None:
            also = [f"{gib:g}" for name, gib in GPU_GIB.items() if name.startswith(f"{kind.lower()}-")]
            hint = f"  # {' or '.join(also)}: nvidia-smi on a node says" if also else ""
            known.append(f"  {kind}: {size:g}{hint}")
        else:
            unknown.append(f"#   {kind}: GiB of one, nvidia-smi on a node says")
    heading = "# GiB of one GPU, by the type that Slurm knows it by. Without GPU_TYPE the smallest is planned for."
    if known:
        return [heading, "gpu_types:", *known, *unknown]
    if unknown:
        return [heading, "# gpu_types:", *unknown]
    return [heading, "# Slurm has no types for its GPUs here: say VRAM= or GPU_TYPE=.", "# gpu_types:"]


def _names(config: str, groups: Sequence[NodeGroup], environ: Mapping[str, str]) -> list[str]:
    enforced = _setting(config, "AccountingStorageEnforce")
    needed = "this cluster refuses jobs without one" if "associations" in enforced else "if you have several"
    features = sorted({name for group in groups for name in group.features.split(",") if name})
    drafted = {
        "account": f"# account: mine  # {needed}: sacctmgr show assoc user=$USER format=account,qos",
        "qos": "# qos: normal",
    }
    for key in drafted:
        # A site may set these for sbatch in everybody's shell; Trainyard's jobs do not get them.
        name = f"SBATCH_{key.upper()}"
        if re.fullmatch(r"[A-Za-z0-9_.-]+", text := environ.get(name, "")):
            drafted[key] = f"{key}: {text}  # from {name}"
    return [
        *drafted.values(),
        f"# constraint: {features[0] if features else 'feature'}  # {', '.join(features) or 'no node has features'}",
        "# mail_user: me@example.org",
        "# mail_type: [END, FAIL]",
    ]


def _containers(environ: Mapping[str, str], srun_help: str) -> list[str]:
    """The container runtimes whose tools are visible. enroot alone is not enough: srun must support pyxis."""
    seen = {
        "apptainer": bool(shutil.which("apptainer", path=environ.get("PATH"))),
        "pyxis": "--container-image" in srun_help,
    }
    found = [name for name, there in seen.items() if there]
    images = {
        "apptainer": "/shared/trainyard.sif  # apptainer pull trainyard.sif docker://registry.example.org/...",
        "pyxis": "/shared/trainyard.sqsh  # enroot import -o trainyard.sqsh docker://registry.example.org#...",
    }
    if not found:
        return ["# runtime: none  # neither apptainer on PATH nor pyxis in srun: with modules, module avail apptainer"]
    return [
        f"# runtime: {found[0]}  # seen here: {', '.join(found)}; none is the checkout's own environment",
        *(f"# image: {images[name]}" for name in found),
        f"# binds: [{_top(environ.get('SCRATCH', ''))}]  # what a container sees besides the run, its data and caches",
    ]


def _top(scratch: str) -> str:
    """The file system of a personal folder."""
    found = re.match(r"/[A-Za-z0-9._-]+", scratch)
    return found[0] if found else "/scratch"


def _environment(environ: Mapping[str, str]) -> list[str]:
    has_modules = any(environ.get(name) for name in ("LMOD_CMD", "MODULESHOME", "MODULEPATH"))
    lines = [f"# modules: [cuda]  # {'module avail says what there is' if has_modules else 'no modules seen here'}"]
    scratch = environ.get("SCRATCH", "")
    if re.fullmatch(r"/[A-Za-z0-9/._-]+", scratch):
        user = environ.get("USER", "")
        parts = ["{user}" if user and part == user else part for part in scratch.rstrip("/").split("/")]
        place = "/".join(parts)
        return [*lines, "environment:", f"  HF_HOME: {place}/huggingface  # from SCRATCH; homes are small"]
    return [*lines, "# environment:", "#   HF_HOME: /scratch/{user}/huggingface  # homes are small"]


def _home(groups: Sequence[NodeGroup]) -> NodeGroup | None:
    """The partition for jobs with GPUs: the default partition if it has GPUs, else the first that has; None when none
    has."""
    with_gpus = [group for group in groups if group.gpus]
    return next((group for group in with_gpus if group.default), with_gpus[0] if with_gpus else None)


def _setting(config: str, key: str) -> str:
    found = re.search(rf"^{key}\s*=\s*(.*?)\s*$", config, re.MULTILINE)
    return found[1] if found and found[1].isprintable() else "unknown"
