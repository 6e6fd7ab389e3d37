"""A job that uses more memory than it asked for, on a real Slurm 24.11 that holds jobs to it (task/cgroup)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_verbs as verbs
from cluster import Cluster
from job import Job
from plans import ENV, make_plan
from slurm_room import Room, require
from toy_project import make_toy_project, toy_argv

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CONF = "TaskPlugin=task/cgroup\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n"
# In the place of the training: more than the job may have, in a rank of the real supervisor.
GREEDY = """
import time
from trainer.node.processes import in_rank
in_rank()
kept = bytearray(3 << 29)
for place in range(0, len(kept), 4096):
    kept[place] = 1
time.sleep(60)
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Cluster]:
    require("trixie")
    with tempfile.TemporaryDirectory(prefix="trainyard-") as name:
        folder = Path(name)
        folder.chmod(0o755)

        def before(cluster: Cluster) -> None:
            (cluster.dir / "cgroup.conf").write_text(CGROUP_CONF)

        with (
            Room.entered("trixie", folder / "room") as room,
            room.cluster(folder / "slurm", tracking="cgroup", more=CONF, before=before) as running,
        ):
            yield running


def test_a_run_that_needs_more_memory_than_it_has_is_told_how_much_to_ask_for(
    bed: Cluster, tmp_path: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_toy_project(tmp_path / "a project", "/usr/bin/python3")
    (project / "trainer" / "train.py").write_text(GREEDY)
    plan = make_plan(
        project_dir=str(project), device="cpu", data=str(records), name="toy", run_id="greedy",
        gpus=1, cpus=2, mem_gib=1, argv=toy_argv(project / "runs" / "greedy"), env=ENV,
    )  # fmt: skip
    job = Job(bed, plan)
    ended = bed.wait(job.id)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "1:0")  # for Slurm, since a rank was killed
    assert "trainyard: the memory of the job ran out, and the kernel killed a process of it" in job.log
    assert verbs.status({"RUN": "greedy"}, bed.environ, project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"job    {job.id} OUT_OF_MEMORY \(exit code 1\) on n1, .*", lines[1])
    assert lines[-1] == "next   make resume RUN=greedy MEM=2 (it had MEM=1, GiB a node)"
