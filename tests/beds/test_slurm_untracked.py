"""A real cluster that knows nothing of its nodes' memory and GPUs, and gives whole nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SLURM_CONF, Cluster, missing
from programs import slurm
from toy_job import TOY, seen_by

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CONF = (
    SLURM_CONF.replace("CR_Core_Memory", "CR_Core")
    .replace(" RealMemory=256000 Gres=gpu:a100:8", "")
    .replace("GresTypes=gpu\n", "")
    .replace("Default=YES", "Default=YES OverSubscribe=EXCLUSIVE")
)


@pytest.fixture
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with Cluster.started(tmp_path_factory.mktemp("untracked"), CONF) as running:
        yield running


def test_what_the_cluster_does_not_track_is_left_out_and_said(
    untracked: Cluster, checkout: Path, records: Path
) -> None:
    (checkout / "trainer" / "supervise.py").write_text(TOY)
    argv = ("--data", str(records), "--device=cpu", "--gpus=2", "--run=r")
    memory = "Slurm knows of no memory on the nodes of low: the job does not ask for any (MEM=none)"
    gpus = "Slurm knows of no GPUs here, and low gives whole nodes: the job takes theirs (GPU_FLAG=none)"
    done = slurm("check", *argv, cwd=checkout, **untracked.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [f"note    {memory}", f"note    {gpus}"]
    assert done.stdout.splitlines()[2].startswith("sbatch  could start at ")

    done = slurm("submit", *argv, cwd=checkout, **untracked.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(" ".join(note.split()) in " ".join(done.stdout.split()) for note in (memory, gpus))
    record = json.loads((checkout / "runs" / "r" / "run.json").read_text())
    assert (record["spec"]["ask_mem"], record["spec"]["gpu_flag"]) == (False, "none")
    ended = untracked.wait(record["job_ids"][0])
    assert (ended["JobState"], ended["OverSubscribe"], ended.get("TresPerNode")) == ("COMPLETED", "NO", None)
    assert len(seen_by(checkout)) == 1

    # Typed, it is the same script, without a note; in a partition that shares its nodes GPUs must be said.
    done = slurm("render", *argv, "--mem=none", "--gpu-flag=none", cwd=checkout, **untracked.environ)
    assert done.stdout == (checkout / "runs" / "r" / "job.sbatch").read_text()
    done = slurm("check", *argv[:-1], "--partition=high", cwd=checkout, **untracked.environ)
    said = "GPUS=2: partition high has no GPUs: name another with PARTITION=; GPU_FLAG=none takes whole nodes with GPUs"
    assert (done.returncode, done.stderr) == (78, f"trainyard: {said} that Slurm does not know\n")
    done = slurm("check", *argv[:-1], "--partition=high", "--gpu-flag=none", cwd=checkout, **untracked.environ)
    assert (done.returncode, done.stderr) == (0, "")

    # A sweep that is taken up again with another MEM says it as well.
    done = slurm("sweep", *argv[:-1], "--run=s", "--grid=SEED=1,2", cwd=checkout, **untracked.environ)
    assert (done.returncode, done.stderr) == (0, "")
    slurm("cancel", "--run=s", cwd=checkout, **untracked.environ)
    untracked.wait_for_all()  # an array that is cancelled whole keeps one record, of no member
    done = slurm("resume", "--run=s", "--mem=4", cwd=checkout, **untracked.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if "Slurm knows" in line] == [f"note    {memory}"]
    assert "--mem" not in (checkout / "runs" / "s" / "job.sbatch").read_text()

    lines = slurm("site", cwd=checkout, **untracked.environ).stdout.splitlines()
    assert "mem: none  # Slurm knows of no memory on its nodes" in lines
    assert "# gpu_flag: none  # if nodes have GPUs all the same: jobs then take whole nodes" in lines
