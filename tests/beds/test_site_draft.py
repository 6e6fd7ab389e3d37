"""`make site` writes a site file that works, and `make check` refuses what the cluster could never run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from paths import ROOT
from programs import files, slurm
from refusal import refusal

from planner.request.resolve import resolve
from planner.request.site import read_site
from slurm.cluster.draft import draft
from slurm.cluster.nodes import NodeGroup, as_tracked, read_nodes, refuse_impossible
from slurm.cluster.site import SITE_KEYS

CONFIG = """\
AccountingStorageEnforce = associations,limits
ClusterName             = big
SLURM_VERSION           = 23.02.1
"""


def group(**said: object) -> NodeGroup:
    plain = {"partition": "cpu", "default": False, "limit_min": None, "nodes": 4, "cpus": 32, "mem_mib": 128_000}
    return NodeGroup(**{**plain, "gpus": (), "features": "", **said})  # type: ignore[arg-type]


GROUPS = (
    group(default=True),
    group(partition="gpu", limit_min=120, gpus=(("A100", 4),), features="ib,nvme"),
    group(partition="gpu", limit_min=120, gpus=(("l40s", 8), ("v100", 2), ("h1000", 1)), nodes=1),
)


def test_a_draft_takes_the_account_that_the_site_sets_for_sbatch() -> None:
    environ = {"PATH": "/nonexistent", "SBATCH_ACCOUNT": "vision-1", "SBATCH_QOS": "$(x)"}
    lines = draft(GROUPS, CONFIG, environ).splitlines()
    assert [line for line in lines if "account" in line or "qos" in line] == [
        "account: vision-1  # from SBATCH_ACCOUNT",
        "# qos: normal",
    ]


def test_a_draft_uses_what_is_certain_and_leaves_the_rest_as_comments() -> None:
    environ = {"PATH": "/nonexistent", "USER": "ada", "SCRATCH": "/scratch/ada/", "LMOD_CMD": "/lmod"}
    assert draft(GROUPS, CONFIG, environ).splitlines() == [
        "# Cluster big, Slurm 23.02.1. Drafted by `make site`: read it through before using it.",
        "# What is typed wins over this file: make submit PARTITION=debug. All keys: slurm/site.example.yaml.",
        "",
        "#   partition  limit  nodes  CPUs  GiB            GPUs a node  features",
        "#   cpu*        none      4    32  125                      -         -",
        "#   gpu         120m      4    32  125                 A100:4   ib,nvme",
        "#   gpu         120m      1    32  125  l40s:8 v100:2 h1000:1         -",
        "partition: gpu  # the first that has GPUs; the default has none",
        "",
        "time: 120m  # the partition's limit; 12h where this is left out",
        "",
        "# GiB of one GPU, by the type that Slurm knows it by. Without GPU_TYPE the smallest is planned for.",
        "gpu_types:",
        "  A100: 40  # 40 or 80: nvidia-smi on a node says",
        "  l40s: 48",
        "#   h1000: GiB of one, nvidia-smi on a node says",
        "#   v100: no bfloat16, which training needs",
        "",
        "# account: mine  # this cluster refuses jobs without one: sacctmgr show assoc user=$USER format=account,qos",
        "# qos: normal",
        "# constraint: ib  # ib, nvme",
        "# mail_user: me@example.org",
        "# mail_type: [END, FAIL]",
        "",
        "# runtime: none  # neither apptainer on PATH nor pyxis in srun: with modules, module avail apptainer",
        "",
        "# modules: [cuda]  # module avail says what there is",
        "environment:",
        "  HF_HOME: /scratch/{user}/huggingface  # from SCRATCH; homes are small",
    ]


def test_a_draft_names_a_partition_where_slurm_has_no_default() -> None:
    lines = draft([group(partition="gpu", gpus=(("A100", 4),))], CONFIG, {"PATH": "/nonexistent"}).splitlines()
    assert "partition: gpu  # the first that has GPUs; Slurm has no default" in lines


def test_a_draft_offers_the_runtimes_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "apptainer").touch(mode=0o755)
    environ = {"PATH": str(tmp_path), "SCRATCH": "/lustre/ada"}
    text = draft(GROUPS, CONFIG, environ, srun_help="  --container-image=IMAGE  [pyxis]")
    assert [line for line in text.splitlines() if re.match("# (runtime|image|binds)", line)] == [
        "# runtime: apptainer  # seen here: apptainer, pyxis; none is the checkout's own environment",
        "# image: /shared/trainyard.sif  # apptainer pull trainyard.sif docker://registry.example.org/...",
        "# image: /shared/trainyard.sqsh  # enroot import -o trainyard.sqsh docker://registry.example.org#...",
        "# binds: [/lustre]  # what a container sees besides the run, its data and caches",
    ]
    only = draft(GROUPS, CONFIG, {"PATH": ""}, srun_help="  --container-image=IMAGE  [pyxis]")
    assert "# runtime: pyxis  # seen here: pyxis;" in only and ".sif" not in only


@pytest.mark.parametrize("groups", [GROUPS, (), (group(gpus=(("", 8),), default=True),)])
def test_a_draft_is_a_site_file(groups: tuple[NodeGroup, ...], tmp_path: Path) -> None:
    text = draft(groups, CONFIG, {"PATH": "", "SCRATCH": "/s"})
    (tmp_path / "site.yaml").write_text(text)
    site = read_site(tmp_path / "site.yaml", source="s", keys=SITE_KEYS, user="ada")
    spec = resolve({}, project_dir=tmp_path, environ={}, site=site)
    assert (spec.slurm.partition, spec.resources.vram_gib) == (("gpu", 40.0) if groups is GROUPS else (None, 24.0))


UNTRACKED = "; GPU_FLAG=none takes whole nodes with GPUs that Slurm does not know"
IMPOSSIBLE = [
    ({"PARTITION": "gpus"}, "PARTITION=gpus: no such partition, did you mean gpu? known are cpu, gpu"),
    ({}, f"GPUS=1: partition cpu has no GPUs: name another with PARTITION={UNTRACKED}"),
    ({"PARTITION": "gpu", "TIME": "3h"}, "TIME=180m: partition gpu ends jobs after 120 minutes: try TIME=120m"),
    ({"PARTITION": "gpu", "GPU_TYPE": "h100"}, "GPU_TYPE=h100: partition gpu has A100, h1000, l40s, v100"),
    (
        {"PARTITION": "gpu", "GPU_TYPE": "A100", "GPUS": "6"},
        "GPUS=6: a node of partition gpu has at most 4: try GPUS=3 NODES=2",
    ),
    (
        {"PARTITION": "gpu", "GPU_TYPE": "l40s", "GPUS": "16"},
        "GPUS=16: a node of partition gpu has at most 8: try GPUS=8",
    ),
    ({"PARTITION": "gpu", "GPU_TYPE": "l40s", "NODES": "2"}, "NODES=2: partition gpu has 1 such nodes"),
    (
        {"PARTITION": "cpu,gpu", "TIME": "1h", "CPUS": "64"},
        f"GPUS=1: partition cpu has no GPUs: name another with PARTITION={UNTRACKED}; "
        "CPUS=64: such a node of partition gpu has at most 32: try CPUS=32",
    ),
    (
        {"PARTITION": "gpu", "GPU_TYPE": "h100", "GPU_FLAG": "none"},
        "GPU_TYPE=h100: partition gpu has A100, h1000, l40s, v100",
    ),
    ({"PARTITION": "gpu", "MEM": "126"}, "MEM=126: such a node of partition gpu has at most 125 GiB: try MEM=125"),
]


@pytest.mark.parametrize(("given", "said"), IMPOSSIBLE)
def test_what_no_partition_can_run_is_refused_with_what_could(given: dict[str, str], said: str) -> None:
    spec = resolve({"TIME": "1h", **given}, project_dir=ROOT, environ={})
    assert refusal(refuse_impossible, spec, GROUPS) == said


def test_a_partition_without_nodes_is_refused_as_that() -> None:
    spec = resolve({"PARTITION": "cpu", "DEVICE": "cpu"}, project_dir=Path("/p"), environ={})
    said = "PARTITION=cpu: this partition has no nodes: name another"
    assert refusal(refuse_impossible, spec, [group(nodes=0, cpus=0, mem_mib=0)]) == said


def test_one_mib_is_what_slurm_says_of_nodes_whose_memory_it_does_not_know() -> None:
    assert [group(mem_mib=size).tracks_memory for size in (1, 2)] == [False, True]


def test_memory_that_slurm_knows_on_some_nodes_is_asked_for_and_a_little_of_it_is_not_enough() -> None:
    groups = (group(default=True, mem_mib=1), group(default=True, mem_mib=500))
    spec = resolve({"DEVICE": "cpu"}, project_dir=ROOT, environ={})
    assert as_tracked(spec, groups) == (spec, [])
    said = "MEM=32: such a node of partition cpu has at most 0 GiB: try MEM=none, which asks for none"
    assert refusal(refuse_impossible, spec, groups) == said
    untracked, notes = as_tracked(spec, groups[:1])
    assert (untracked, len(notes)) == (spec.but(ask_mem=False), 1)


@pytest.mark.parametrize("known", [group(gpus=(("a100", 8),)), group(default=True)])
def test_gpus_are_asked_for_where_slurm_knows_some_elsewhere_or_shares_nodes(known: NodeGroup) -> None:
    spec = resolve({}, project_dir=ROOT, environ={})
    whole = group(default=True, whole=True)
    assert as_tracked(spec, (whole,))[0] == spec.but(gpu_flag="none")
    assert as_tracked(spec, (whole, known)) == (spec, [])


@pytest.mark.parametrize(
    "given",
    [
        {"PARTITION": "gpu", "GPUS": "8", "TIME": "2h", "MEM": "100"},
        {"PARTITION": "cpu,gpu", "TIME": "1h"},
        {"PARTITION": "gpu", "QOS": "long"},
        {"DEVICE": "cpu"},
        {"PARTITION": "gpu", "MEM": "none", "TIME": "1h"},
        {"GPU_FLAG": "none", "GPUS": "4"},
        {"GPU_FLAG": "none", "GPU_TYPE": "h100"},
        {"PARTITION": "gpu", "GPU_FLAG": "none", "GPU_TYPE": "A100", "TIME": "1h"},
    ],
)
def test_what_one_partition_can_run_is_let_through(given: dict[str, str]) -> None:
    """A QOS may lift a time limit: Slurm decides."""
    refuse_impossible(resolve(given, project_dir=ROOT, environ={}), GROUPS)


@pytest.fixture
def short(cluster: Cluster) -> Iterator[None]:
    """A partition of one node for an hour at most, whose node has features."""
    cluster.run("scontrol", "create", "PartitionName=short", "Nodes=n1", "MaxTime=1:00:00")
    cluster.run("scontrol", "update", "NodeName=n1", "AvailableFeatures=ib,a100", "ActiveFeatures=ib,a100")
    yield
    cluster.run("scontrol", "delete", "PartitionName=short")
    cluster.run("scontrol", "update", "NodeName=n1", "AvailableFeatures=", "ActiveFeatures=")


@pytest.mark.cluster
def test_the_clusters_nodes_are_read_from_sinfo(cluster: Cluster, short: None) -> None:
    plain = {"cpus": 64, "mem_mib": 256_000, "gpus": (("a100", 8),), "limit_min": None, "default": False}

    def nodes(partition: str, **said: object) -> NodeGroup:
        return group(**{**plain, "partition": partition, "nodes": 1, **said})

    found = sorted(read_nodes(cluster.environ), key=lambda g: (g.partition, g.features))
    assert found == [
        nodes("high"),
        nodes("high", features="ib,a100"),
        nodes("low", default=True),
        nodes("low", default=True, features="ib,a100"),
        nodes("short", features="ib,a100", limit_min=60),
    ]


# What a site or a person may keep in the shell for Slurm's programs.
OF_THE_SHELL = {
    "SBATCH_QOS": "none-such", "SBATCH_PARTITION": "high", "SLURM_CLUSTERS": "none-such", "SLURM_TIME_FORMAT": "%d",
    "SINFO_FORMAT": "%P", "SINFO_PARTITION": "high", "SQUEUE_FORMAT": "%u", "SQUEUE_PARTITION": "high",
}  # fmt: skip


def checked(cluster: Cluster, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return slurm("check", *argv, cwd=cwd, **cluster.environ, **OF_THE_SHELL)


@pytest.mark.cluster
def test_check_asks_slurm_and_queues_nothing(cluster: Cluster, short: None, checkout: Path, records: Path) -> None:
    before = files(checkout)
    data = ("--data", str(records), "--partition=short", "--device=cpu", "--gpus=2", "--vram=40")
    done = checked(cluster, checkout, *data, "--time=60", "--constraint=ib&a100", "--gpu-type=a100")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sbatch  could start at ")
    assert done.stdout.endswith(" using 8 processors on nodes n1 in partition short\n")
    for word, code, said in (
        ("--time=61", 78, "TIME=61m: partition short ends jobs after 60 minutes: try TIME=60m"),
        ("--gpus=9", 78, "GPUS=9: a node of partition short has at most 8: try GPUS=8"),
        ("--partition=shirt", 78, "PARTITION=shirt: no such partition, did you mean short? known are "),
        ("--constraint=none-such", 1, "sbatch would refuse the job: allocation failure: Invalid feature spec"),
    ):
        done = checked(cluster, checkout, *data, "--time=60", word)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert done.stderr.startswith(f"trainyard: {said}")
    unsaid = "SBATCH_PARTITION, SBATCH_QOS, SLURM_CLUSTERS"
    assert done.stderr.endswith(f" (not passed to sbatch, say it in the request or the site file: {unsaid})\n")
    assert files(checkout) == before
    assert cluster.run("squeue", "--noheader", "--states=all", "--name=gemma-3-4b-it").stdout == ""


@pytest.mark.cluster
def test_make_site_drafts_the_test_clusters_file_and_a_plan_takes_it(
    cluster: Cluster, short: None, checkout: Path, records: Path
) -> None:
    (checkout / "slurm" / "site.yaml").touch()  # as the shell leaves it for make site > slurm/site.yaml
    done = cluster.run("make", "site", cwd=checkout)
    assert done.stderr == ""
    (checkout / "slurm" / "site.yaml").write_text(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("# Cluster trainyard, Slurm ")
    assert "# partition: low  # Slurm's own default, and it has GPUs" in lines
    assert "# constraint: a100  # a100, ib" in lines
    assert lines[lines.index("gpu_types:") + 1] == "  a100: 40  # 40 or 80: nvidia-smi on a node says"
    done = cluster.run("make", "plan", cwd=checkout)
    assert "memory 40 GiB a GPU (a100 of slurm/site.yaml), " in done.stdout
    done = cluster.run("make", "check", f"DATA={records}", "DEVICE=cpu", "GPUS=2", cwd=checkout)
    assert done.stdout.startswith("sbatch  could start at ")


def test_site_and_check_without_slurm_are_one_line(checkout: Path, records: Path) -> None:
    for verb, argv, said in (
        ("site", (), "no sinfo on PATH: this asks Slurm, so run it where Slurm is installed"),
        ("site", ("--gpus=2",), "GPUS: site takes no variables: make site > slurm/site.yaml"),
        ("check", ("--data", str(records)), "no sbatch on PATH: submit where Slurm is installed;"),
    ):
        done = slurm(verb, *argv, cwd=checkout, PATH="/nonexistent")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
        assert done.stderr.startswith(f"trainyard: {said}")
