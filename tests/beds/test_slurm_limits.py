"""A real Slurm with accounting: its limits are named with the way out, and what a QOS lifts is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accounting
import pytest
from cluster import Cluster
from programs import Done, slurm, until
from slurm_room import Room, require
from slurm_roots import USER, USER_ID
from toy_job import TOY

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PARTITIONS = "PartitionName=short Nodes=n[1-2] PriorityTier=1 MaxTime=5\n"


# Of a second cluster of the same accounting: its name, its munge, which is the first one's, and who may use it.
BESIDE = "ClusterName=fast\nAuthInfo=socket={first}/munge/socket\n"
IN_BOTH = ("add cluster fast", "add account lab cluster=fast", f"add user {USER} account=lab cluster=fast")


@pytest.fixture(scope="module")
def services() -> accounting.Accounting:
    require("trixie")
    return accounting.Accounting()


@pytest.fixture(scope="module")
def room(services: accounting.Accounting) -> Iterator[Room]:
    with tempfile.TemporaryDirectory(prefix="trainyard-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Room.entered("trixie", folder / "room") as room:
            for program in accounting.PROGRAMS:
                room.program(program)
            room.program("sbatch", user=True)
            yield room


@pytest.fixture(scope="module")
def limited(room: Room, services: accounting.Accounting) -> Iterator[Cluster]:
    """Its sbatch is an ordinary user's: root is above most limits."""
    more = PARTITIONS + services.conf()
    with room.cluster(room.programs.parents[1] / "slurm", more=more, before=services.start) as running:
        yield running


@pytest.fixture
def fast(room: Room, limited: Cluster, services: accounting.Accounting) -> Iterator[Cluster]:
    """A second cluster, called so."""
    services.add(limited, IN_BOTH)
    more = services.conf().replace("{dir}", str(limited.dir)) + BESIDE.format(first=limited.dir)
    with room.cluster(room.programs.parents[1] / "fast", more=more) as running:
        until(lambda: limited.run("sinfo", "--clusters=fast", check=False).returncode == 0)
        yield running


@pytest.fixture
def project(limited: Cluster, checkout: Path, records: Path) -> Iterator[Path]:
    """The checkout where that user may read and write, with a toy for a trainer and a data folder."""
    folder = limited.dir.parent / "check out's"
    before = os.umask(0)
    for name in ("launch", "cpu"):
        python = checkout / ".venv" / name / "bin" / "python"
        python.write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
    (checkout / "trainer" / "supervise.py").write_text(TOY)
    shutil.copytree(checkout, folder)
    shutil.copytree(records, folder / "data")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER_ID, USER_ID)
    yield folder
    os.umask(before)
    until(lambda: not limited.run("squeue", "--noheader").stdout)  # a job that is cancelled may still write
    shutil.rmtree(folder)


def ask(cluster: Cluster, project: Path, *words: str) -> Done:
    return slurm(*words, cwd=project, **{**cluster.environ, "USER": USER})


def test_a_time_limit_that_the_default_qos_lifts_is_not_refused(limited: Cluster, project: Path) -> None:
    """The user's default QOS lifts the time limit of partitions; that of the other account does not."""
    words: Any = ("--device=cpu", "--gpus=1", "--data=data", "--partition=short", "--time=30m")
    for verb in ("check", "submit"):
        run = f"--run={verb}"
        done = ask(limited, project, verb, *words, run)
        assert (done.returncode, done.stderr) == (0, "")
        said = (
            "TIME=30m: partition short ends jobs after 5 minutes: try TIME=5m; your default QOS, long, lifts this limit"
        )
        assert said in " ".join(done.stdout.split())
        refused = ask(limited, project, verb, *words, f"{run}-2", "--account=plain")
        said = "trainyard: TIME=30m: partition short ends jobs after 5 minutes: try TIME=5m\n"
        assert (refused.returncode, refused.stderr) == (78, said)
    record = json.loads((project / "runs" / "submit" / "run.json").read_text())
    ended = limited.wait(record["job_ids"][0])
    assert (ended["JobState"], ended["QOS"], ended["UserId"]) == ("COMPLETED", "long", f"ada({USER_ID})")
    assert not (project / "runs" / "submit-2").exists()


def test_a_sweep_above_the_clusters_array_size_says_the_limit(limited: Cluster, project: Path) -> None:
    words = ("--device=cpu", "--data=data", "--run=s")
    done = ask(limited, project, "sweep", *words, "--grid=SEED=1,2,3,4,5,6")
    said = "6 members: this cluster has job arrays of at most 5 (MaxArraySize): make several sweeps of at most 5"
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"trainyard: {said}\n")
    assert not (project / "runs").exists() or not list((project / "runs").glob("s*"))
    done = ask(limited, project, "sweep", *words, "--grid=SEED=1,2,3,4,5")
    assert (done.returncode, done.stderr) == (0, "")
    ask(limited, project, "cancel", "--run=s")


def test_a_job_that_squeue_has_forgotten_is_known_from_accounting(limited: Cluster, project: Path) -> None:
    """MinJobAge is two seconds here."""
    done = ask(limited, project, "submit", "--device=cpu", "--data=data", "--run=old")
    assert (done.returncode, done.stderr) == (0, "")
    (job_id,) = json.loads((project / "runs" / "old" / "run.json").read_text())["job_ids"]
    limited.wait(job_id)
    limited.until(lambda: limited.run("scontrol", "show", "job", job_id, check=False).returncode, "forgetting")
    done = ask(limited, project, "status", "--run=old")
    assert done.stdout.splitlines()[1].startswith(f"job    {job_id} COMPLETED on n1")

    # The same while slurmdbd is away.
    conf = limited.dir / "away.conf"
    text = (limited.dir / "slurm.conf").read_text()
    conf.write_text(re.sub(r"AccountingStoragePort=\d+", "AccountingStoragePort=1", text))
    done = slurm("status", "--run=old", cwd=project, **{**limited.environ, "USER": USER, "SLURM_CONF": str(conf)})
    said = "GONE (not in squeue, sacct failed: Problem talking to the database: Connection refused)"
    assert done.stdout.splitlines()[1] == f"job    {job_id} {said}"


def test_a_refusal_of_slurms_says_what_to_do(limited: Cluster, project: Path) -> None:
    mine = "sacctmgr show assoc user=$USER format=account,partition,qos lists yours"
    for word, said in (
        ("--account=nosuch", f"Invalid account or account/partition combination specified: say ACCOUNT= ({mine})"),
        (
            "--constraint=nosuch",
            "Invalid feature specification: say another CONSTRAINT= (sinfo --format=%f lists the features)",
        ),
    ):
        done = ask(limited, project, "check", "--device=cpu", "--data=data", word)
        assert (done.returncode, done.stderr) == (
            1,
            f"trainyard: sbatch would refuse the job: allocation failure: {said}\n",
        )


def test_the_verbs_follow_a_job_to_another_cluster(limited: Cluster, fast: Cluster, project: Path) -> None:
    words = ("--device=cpu", "--data=data", "--cluster=fast")

    def submitted(*more: str) -> str:
        done = ask(limited, project, "submit", *words, *more)
        assert (done.returncode, done.stderr) == (0, "")
        run = more[0].removeprefix("--run=")
        (job_id,) = json.loads((project / "runs" / run / "run.json").read_text())["job_ids"]
        number, _, cluster = job_id.partition(";")
        assert (cluster, f"scancel --clusters=fast {number}" in done.stdout) == ("fast", True)
        return number

    assert ask(limited, project, "check", *words).stdout.startswith("sbatch  could start at ")
    number = submitted("--run=there")
    assert fast.wait(number)["JobState"] == "COMPLETED"
    done = ask(limited, project, "status", "--run=there")
    assert done.stdout.splitlines()[1].startswith(f"job    {number};fast COMPLETED on n1, ")
    assert "toy 0 speaks" in ask(limited, project, "logs", "--run=there").stdout

    held = submitted("--run=held", "--extra-flags=--hold --time-min=1")
    done = ask(limited, project, "status", "--run=held")
    assert f"scontrol --clusters=fast release {held} " in done.stdout.splitlines()[-1]
    done = ask(limited, project, "cancel", "--run=held")
    assert done.stdout.startswith(f"cancelled job {held};fast of run held; make resume RUN=held starts it again")
    assert fast.job(held)["JobState"] == "CANCELLED"
    done = ask(limited, project, "resume", "--run=held", "--cluster=none", "--extra-flags=none")
    assert (done.returncode, done.stderr) == (0, "")
    ids = json.loads((project / "runs" / "held" / "run.json").read_text())["job_ids"]
    assert ids[0] == f"{held};fast" and limited.wait(ids[1])["JobState"] == "COMPLETED"
    done = ask(limited, project, "check", *words[:-1], "--cluster=nosuch")
    assert (done.returncode, "nosuch" in done.stderr, done.stderr.count("\n")) == (1, True, 1)
