"""The promises of test_preemption.py and test_sweep.py that a newer Slurm may break, on the newer Slurms themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_verbs as verbs
from cluster import Cluster
from job import Job
from plans import ENV, make_plan
from programs import until
from slurm_room import Room, require
from toy_project import make_toy_project, read_losses, toy_argv, toy_losses
from toy_sweep import toy_sweep

from launcher.records import read_run
from slurm.cluster.sbatch import rehearse
from slurm.render import render, run_dir

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PARTITIONS = "PartitionName=cancel Nodes=n[1-2] PriorityTier=1 PreemptMode=CANCEL GraceTime=0\n"


@pytest.fixture(scope="module", params=["trixie", "sid"])
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    require(request.param)
    with Room.entered(request.param, tmp_path_factory.mktemp(request.param)) as entered:
        yield entered


@pytest.fixture(scope="module")
def newer(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with room.cluster(tmp_path_factory.mktemp("slurm"), more=PARTITIONS) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_toy_project(tmp_path / "it's a toy", "/usr/bin/python3")


@pytest.fixture
def start(newer: Cluster, project: Path, records: Path) -> Callable[..., Job]:
    def run(run_id: str, *, max_steps: int = 100, **request: Any) -> Job:
        values: dict[str, Any] = {
            "project_dir": str(project), "device": "cpu", "data": str(records), "name": "toy",
            "run_id": run_id, "gpus": 1, "cpus": 2, "mem_gib": 1, **request,
        }  # fmt: skip
        argv = toy_argv(run_dir(make_plan(**values).spec), step_s=0.1, max_steps=max_steps)
        return Job(newer, make_plan(argv=argv, env=ENV, **values))

    return run


def test_it_is_the_version_that_is_asked_for(room: Room, newer: Cluster, project: Path) -> None:
    said = newer.run("sbatch", "--version").stdout  # "slurm 24.11.5"; Debian may say "slurm-wlm"
    version = [int(part) for part in re.findall(r"[0-9]+", said)[:2]]
    assert version == [24, 11] if room.suite == "trixie" else version >= [26, 5]
    assert re.match(r"could start at ", rehearse(render(make_plan(project_dir=str(project), mem_gib=1)), newer.environ))


def test_a_run_that_is_told_to_stop_goes_on_and_status_and_logs_say_so(
    newer: Cluster, start: Callable[..., Job], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = start("stopped")

    def said(verb: str) -> list[str]:
        assert getattr(verbs, verb)({"RUN": "stopped"}, newer.environ, project) == 0
        return capsys.readouterr().out.splitlines()

    job.until("step 7\n")
    assert said("status")[1].startswith(f"job    {job.id} RUNNING on n1, ")
    newer.run("scancel", "--signal=USR1", job.id)
    job.until_requeued()
    until(lambda: said("status")[1].startswith(f"job    {job.id} PENDING"))
    ended = job.run_on()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), job.log
    assert "asked to stop by SIGUSR1" in job.log
    assert job.steps == list(range(1, 101))
    assert read_losses(job.run_dir) == toy_losses()
    assert said("status")[1].startswith(f"job    {job.id} COMPLETED on n")
    logs = [line for line in said("logs") if line.startswith("step ")]
    assert logs == [f"step {step}" for step in range(1, 101)]


def test_preempted_by_requeueing_or_by_cancelling_it_is_put_back_and_loses_no_step(
    newer: Cluster, start: Callable[..., Job]
) -> None:
    jobs = [start("requeued", cpus=64), start("cancelled", cpus=64, partition="cancel")]
    for job in jobs:
        job.until("step 7\n")
    newer.run("sbatch", "-p", "high", "-N2", "-c64", "-o", "/dev/null", "--wrap", "sleep 2")
    for job in jobs:
        job.until_requeued()
    for job in jobs:
        ended = job.run_on()
        # 24.11 would requeue the first once more; told not to, it calls it preempted, with an exit code of 0.
        assert ended["JobState"] in ("COMPLETED", "PREEMPTED")
        assert (ended["ExitCode"], ended["Restarts"]) == ("0:0", "1"), job.log
        assert job.steps == list(range(1, 101))
        assert read_losses(job.run_dir) == toy_losses()


def test_cancelled_it_is_not_put_back_and_of_an_array_one_member_is_requeued_alone(
    newer: Cluster, start: Callable[..., Job], project: Path, records: Path
) -> None:
    array = verbs.submit_sweep(toy_sweep(project, records, count=3, parallel=3), newer.environ)
    job = start("mine", partition="cancel")
    folders = [project / "runs" / f"toys-{index}" for index in range(3)]
    assert [read_run(folder).job_ids for folder in folders] == [(f"{array}_{index}",) for index in range(3)]

    def log(index: int) -> str:
        path = folders[index] / "logs" / f"slurm-{array}_{index}.log"
        return path.read_text() if path.exists() else ""

    until(lambda: "step 5\n" in log(1), lambda: log(1))
    # By its own number: scancel of 26.05 goes on signalling a member that it is told of by its array's.
    newer.run("scancel", "--signal=USR1", newer.job(f"{array}_1")["JobId"])
    until(lambda: "step 5\n" in log(2), lambda: log(2))
    job.until("step 7\n")
    for run_id in ("mine", "toys-2"):
        assert verbs.cancel({"RUN": run_id}, newer.environ, project) == 0
    (project / "go").touch()
    job.until("stopped at step")
    until(lambda: newer.job(f"{array}_1")["Restarts"] == "1", lambda: log(1))
    ended = [newer.wait(f"{array}_0"), newer.start_again(f"{array}_1", ended=True), newer.wait(f"{array}_2"), job.state]
    assert [(one["JobState"], one["Restarts"]) for one in ended] == [
        ("COMPLETED", "0"), ("COMPLETED", "1"), ("CANCELLED", "0"), ("CANCELLED", "0"),
    ]  # fmt: skip
    assert [read_losses(folder) for folder in folders[:2]] == [toy_losses(40), toy_losses(41)]
    assert "going on from step" in log(1) and "going on" not in log(0) + log(2)
    assert (job.run_dir / "checkpoints" / f"step-{job.steps[-1]:06d}" / "manifest.json").is_file()


# In the supervisor's place: is told of the preemption, and ends by itself all the same, with the code that it is given.
ENDS = """
import os, pathlib, signal, sys, time
told = []
for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCONT):
    signal.signal(name, lambda *_: told.append(1))
print("step 1", flush=True)
while not told:
    time.sleep(0.1)
code = os.environ["TOY_EXIT"]
from trainer.progress_file import write_end
write_end(pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1]), int(code), "", time.time(), began=0)
pathlib.Path(os.environ["TRAINYARD_STATUS_FILE"]).write_text(code)
sys.exit(int(code))
"""


def test_a_job_that_ends_by_itself_while_it_is_preempted_has_ended(
    newer: Cluster, project: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """24.11 would requeue it: one that is done would train again, one that is wrong or crashes would do so for ever."""
    supervise = project / "trainer" / "supervise.py"
    supervise.unlink()
    supervise.write_text(ENDS)
    jobs = {
        code: Job(
            newer,
            make_plan(
                project_dir=str(project), device="cpu", data=str(records), name="toy", run_id=f"ends-{code}",
                gpus=1, cpus=2, mem_gib=1, env=(("TOY_EXIT", code),),
            ),
        )
        for code in ("0", "1", "78")
    }  # fmt: skip
    for job in jobs.values():
        job.until("step 1\n")
    newer.run("sbatch", "-p", "high", "-N2", "-c64", "-o", "/dev/null", "--wrap", "sleep 2")
    ended = {code: newer.wait(job.id) for code, job in jobs.items()}
    for code, job in ended.items():
        # 24.11 calls it preempted then, with an exit code of 0; how it ended stands in progress.json.
        own = ("COMPLETED" if code == "0" else "FAILED", f"{code}:0")
        assert (job["JobState"], job["ExitCode"]) in (own, ("PREEMPTED", "0:0"))
        assert job["Restarts"] == "0"
        assert verbs.status({"RUN": f"ends-{code}"}, newer.environ, project) == 0
        assert f"job    {jobs[code].id} {own[0]} (" in capsys.readouterr().out.replace(" on n", " (on n")
