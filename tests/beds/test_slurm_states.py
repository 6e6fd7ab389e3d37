"""How a run stands on a real Slurm with accounting, in one line and one next command: each state is provoked."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accounting
import pytest
import slurm_verbs as verbs
from cluster import Cluster
from plans import make_plan
from programs import until
from slurm_room import Room, require
from slurm_roots import USER
from toy_job import toy_project
from toy_sweep import toy_sweep

from launcher.records import run_record, write_record
from slurm.render import run_dir

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# Decides at once, and lets a job wait for what it may never get, as clusters do that are not told otherwise.
CONF = """\
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PartitionName=short Nodes=n[1-2] PriorityTier=1 MaxTime=5
PartitionName=off Nodes=n[1-2] State=DOWN
PartitionName=closed Nodes=n[1-2]
PartitionName=lean Nodes=n[1-2] MaxMemPerNode=500
PartitionName=killing Nodes=n[1-2] PreemptMode=CANCEL GraceTime=0
"""
LIMITS = (
    "add qos one set maxjobsperuser=1",
    "add qos brief set maxwall=00:10:00",
    "add account small set grptres=cpu=1",
    f"add user {USER} account=small qos=normal",
    "add account tiny",
    f"add user {USER} account=tiny qos=normal maxtresperjob=cpu=1",
    f"modify user {USER} where account=lab set qos=normal,long,one,brief",
)
# Ends as it is told when somebody writes a code into the file.
TOY = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
(folder / "runs").touch()
while not (folder / "go").exists() or not (folder / "go").read_text():
    time.sleep(0.1)
code = (folder / "go").read_text()
pathlib.Path(os.environ["TRAINYARD_STATUS_FILE"]).write_text(code)
sys.exit(int(code))
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Cluster]:
    """Its sbatch is an ordinary user's: root is above most limits."""
    require("trixie")
    services = accounting.Accounting()
    with tempfile.TemporaryDirectory(prefix="trainyard-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Room.entered("trixie", folder / "room") as room:
            for program in accounting.PROGRAMS:
                room.program(program)
            room.program("sbatch", user=True)

            def before(cluster: Cluster) -> None:
                services.start(cluster)
                services.add(cluster, LIMITS)

            with room.cluster(folder / "slurm", more=CONF + services.conf(), before=before) as running:
                yield running


@dataclass
class Bed:
    """The cluster, and runs on it."""

    cluster: Cluster
    project: Path
    run_id: str
    job_id: str = ""

    def submit(self, run_id: str = "", **request: Any) -> str:
        values = {"device": "cpu", "gpus": 0, "cpus": 1, "mem_gib": 1, "time_limit_min": 10, "name": "toy", **request}
        plan = make_plan(project_dir=str(self.project), data="data", run_id=run_id or self.run_id, **values)
        self.job_id = verbs.submit(plan, self.cluster.environ).job_id
        return self.job_id

    def started(self, **request: Any) -> str:
        self.submit(**request)
        until(lambda: (self.folder / "runs").exists(), lambda: self.cluster.job(self.job_id))
        return self.job_id

    @property
    def folder(self) -> Path:
        return self.project / "runs" / self.run_id

    def full(self) -> None:
        """Another job has both nodes."""
        full = ("--parsable", "--exclusive", "-N2", "--mem=0", "--chdir=/tmp", "-o/dev/null", "--wrap=sleep 100")
        job_id = self.cluster.run("sbatch", *full).stdout.strip()
        until(lambda: self.cluster.job(job_id)["JobState"] == "RUNNING")

    def shown(self) -> str:
        """What Slurm itself says of the job, in its queue and in its accounting."""
        queue, accounting = ("scontrol", "-o", "show", "job"), ("sacct", "-PX", "-oState,NodeList,ExitCode", "-j")
        done = [self.cluster.run(*words, self.job_id, check=False) for words in (queue, accounting)]
        return "\n".join(one.stdout + one.stderr for one in done)

    def takes_both_nodes(self) -> str:
        """A job of a higher partition, for a second: its number."""
        whole = ("-p", "high", "-N2", "-c64", "-o", "/dev/null", "--chdir=/tmp", "--wrap", "sleep 1")
        return self.cluster.run("sbatch", "--parsable", *whole).stdout.strip()

    def control(self, *words: str) -> None:
        self.cluster.run("scontrol", *words)

    def ends(self, code: int) -> None:
        self.started()
        (self.folder / "go").write_text(str(code))
        self.cluster.wait(self.job_id)


@pytest.fixture
def on(bed: Cluster, request: pytest.FixtureRequest) -> Iterator[Bed]:
    before = os.umask(0)
    project = toy_project(Path(tempfile.mkdtemp(dir=bed.dir.parent)) / "a project")
    project.parent.chmod(0o777)
    (project / ".venv" / "cpu" / "bin" / "python").write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
    (project / "trainer" / "supervise.py").write_text(TOY)
    name = request.node.callspec.params["name"]
    yield Bed(bed, project, "toys-1" if name == "sweeps-turn" else name)
    bed.run("scancel", f"--user={USER}", check=False)
    for node in ("n1", "n2"):
        bed.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    bed.run("scontrol", "delete", "reservationname=later", check=False)
    bed.run("scontrol", "update", "partitionname=closed", "allowqos=ALL", check=False)
    bed.wait_for_all()
    bed.wait_for_nodes()  # a node that was lost takes jobs again only once its slurmd has answered
    os.umask(before)
    shutil.rmtree(project.parent)


def resources(on: Bed) -> None:
    on.full()
    on.submit()


def priority(on: Bed) -> None:
    on.full()
    on.submit("first")
    on.submit()


def qos_jobs(on: Bed) -> None:
    on.submit("first", qos="one")
    on.submit(qos="one")


def account_cpus(on: Bed) -> None:
    on.submit("first", account="small")
    on.submit(account="small")


def account_cpus_per_job(on: Bed) -> None:
    on.submit(account="tiny", cpus=2)


def qos_closed(on: Bed) -> None:
    """sbatch itself would refuse it: the partition has changed since."""
    on.submit(partition="closed", qos="normal", extra_flags=("--hold",))
    on.control("update", "partitionname=closed", "allowqos=long")
    on.control("release", on.job_id)


def sweeps_turn(on: Bed) -> None:
    sweep = toy_sweep(on.project, on.project / "data", count=2, parallel=1, mem_gib=1, time_limit_min=10)
    on.job_id = f"{verbs.submit_sweep(sweep, on.cluster.environ)}_1"


def qos_time(on: Bed) -> None:
    on.submit(qos="brief", time_limit_min=30)


def drained(on: Bed) -> None:
    on.control("update", "nodename=n2", "state=drain", "reason=test")
    on.submit(extra_flags=("--nodelist=n2",))


def reserved(on: Bed) -> None:
    when = ("starttime=now+2minutes", "duration=60", f"users={USER}", "nodes=n[1-2]")
    on.control("create", "reservation", "reservationname=later", "flags=maint", *when)
    on.submit()


def reservation_to_come(on: Bed) -> None:
    when = ("starttime=now+60minutes", "duration=60", f"users={USER}", "nodes=n[1-2]")
    on.control("create", "reservation", "reservationname=later", *when)
    on.submit(reservation="later")


def partition_time(on: Bed) -> None:
    on.submit(partition="short", account="small")


def partition_memory(on: Bed) -> None:
    on.submit(partition="lean")


def partition_down(on: Bed) -> None:
    on.submit(partition="off")


def dependency(on: Bed) -> None:
    first = on.submit("first", extra_flags=("--hold",))
    on.submit(extra_flags=(f"--dependency=afterok:{first}",))


def dependency_failed(on: Bed) -> None:
    first = on.submit("first", extra_flags=("--hold",))
    on.submit(extra_flags=(f"--dependency=afterok:{first}",))
    on.cluster.run("scancel", first)


def begin_time(on: Bed) -> None:
    on.submit(extra_flags=("--begin=now+60minutes",))


def held_by_user(on: Bed) -> None:
    on.submit(extra_flags=("--hold",))


def held_by_admin(on: Bed) -> None:
    on.full()
    on.control("hold", on.submit())


def requeued_and_held(on: Bed) -> None:
    on.control("requeuehold", on.started())


def preempted(on: Bed) -> None:
    on.started()
    other = on.takes_both_nodes()
    (on.folder / "go").touch()
    until(lambda: on.cluster.job(on.job_id)["JobState"] == "PENDING", lambda: on.cluster.job(on.job_id))
    on.cluster.wait(other)  # cancelled while it starts, it would keep its nodes for minutes


def preempted_for_good(on: Bed) -> None:
    on.started(partition="killing")
    other = on.takes_both_nodes()
    on.cluster.wait(other)
    on.cluster.until(lambda: on.cluster.run("scontrol", "show", "job", on.job_id, check=False).returncode, "forgetting")


def running(on: Bed) -> None:
    on.started()


def node_lost(on: Bed) -> None:
    on.control("update", f"jobid={on.started()}", "requeue=0")
    on.control("update", f"nodename={on.cluster.job(on.job_id)['NodeList']}", "state=down", "reason=test")


def cancelled_before(on: Bed) -> None:
    on.submit(extra_flags=("--hold",))
    verbs.cancel({"RUN": on.run_id}, on.cluster.environ, on.project)


def cancelled_after(on: Bed) -> None:
    on.started()
    verbs.cancel({"RUN": on.run_id}, on.cluster.environ, on.project)
    on.cluster.wait(on.job_id)


def refused(on: Bed) -> None:
    on.ends(78)


def failed(on: Bed) -> None:
    on.ends(1)


def finished(on: Bed) -> None:
    on.ends(0)
    (on.folder / "metrics.json").write_text('{"history": []}')
    (on.folder / "report.html").touch()


def only_accounting_knows(on: Bed) -> None:
    on.ends(1)
    on.cluster.until(lambda: on.cluster.run("scontrol", "show", "job", on.job_id, check=False).returncode, "forgetting")


def nobody_knows(on: Bed) -> None:
    on.folder.mkdir(parents=True)
    plan = make_plan(project_dir=str(on.project), run_id=on.run_id)
    on.job_id = "999999"
    write_record(Path(run_dir(plan.spec)), {**run_record(plan), "job_ids": [on.job_id]})


FOLLOW = "make logs {words} (follows it; make cancel {words} ends it)"
READ = "make logs {words} (what happened), then {again}"
GO_ON = "{again} (goes on from its newest checkpoint)"
HELD = "scontrol release {job} (it is held and does not start by itself; make cancel {words} ends it)"
ANEW = "make cancel {{words}}, then {{again}} {} (as it is, it never starts)"
# What is provoked, what the job's line says after its number, what stands next.
STATES: list[tuple[Callable[[Bed], None], str, str]] = [
    (resources, r"PENDING \(Resources: waits until enough nodes are free\)", FOLLOW),
    (priority, r"PENDING \(Priority: other jobs come before it\)", FOLLOW),
    (qos_jobs, r"PENDING \(QOSMaxJobsPerUserLimit: as many of your jobs run as the QOS allows\)", FOLLOW),
    (account_cpus, r"PENDING \(AssocGrpCpuLimit: the jobs of the account use all that it allows\)", FOLLOW),
    (
        account_cpus_per_job,
        r"PENDING \(AssocMaxCpuPerJobLimit: it asks for more than the account allows a job\)",
        "make cancel {words}, then {again} ACCOUNT=... or make submit with less (as it is, it never starts)",
    ),
    (
        qos_closed,
        r"PENDING \(Job's QOS not permitted to use this partition \(.*\): the QOS may not be used there\)",
        ANEW.format("QOS=..."),
    ),
    (sweeps_turn, r"PENDING \(JobArrayTaskLimit: as many members of the sweep run as PARALLEL says\)", FOLLOW),
    (
        qos_time,
        r"PENDING \(QOSMaxWallDurationPerJobLimit: TIME is above what the QOS allows\)",
        ANEW.format("TIME=..."),
    ),
    (drained, r"PENDING \(ReqNodeNotAvail, .*: nodes that it needs are down, drained or reserved\)", FOLLOW),
    (
        reserved,
        r"PENDING \(ReqNodeNotAvail, Reserved for maintenance: its nodes are reserved before it could end\)",
        "make cancel {words}, then {again} TIME=... (a shorter one may end before the reservation begins)",
    ),
    (reservation_to_come, r"PENDING \(Reservation: waits for its reservation to begin\)", FOLLOW),
    (partition_time, r"PENDING \(PartitionTimeLimit: TIME is above the partition's limit\)", ANEW.format("TIME=...")),
    (
        partition_memory,
        r"PENDING \(MaxMemPerLimit: MEM is above what the partition allows a node or a CPU\)",
        ANEW.format("MEM=... or PARTITION=..."),
    ),
    (partition_down, r"PENDING \(PartitionDown: the partition starts no jobs now\)", FOLLOW),
    (dependency, r"PENDING \(Dependency: waits for the job that it depends on\)", FOLLOW),
    (
        dependency_failed,
        r"PENDING \(DependencyNeverSatisfied: the job that it depends on did not end as it had to\)",
        ANEW.format("EXTRA_FLAGS=none"),
    ),
    (begin_time, r"PENDING \(BeginTime: waits for its begin time, two minutes after a requeue\)", FOLLOW),
    (held_by_user, r"PENDING \(JobHeldUser: held by you\)", HELD),
    (
        held_by_admin,
        r"PENDING \(JobHeldAdmin: held by the administrator\)",
        "scontrol release {job} (the administrator types it; make cancel {words} ends it)",
    ),
    (requeued_and_held, r"(PENDING|REQUEUE_HOLD) \(job requeued in held state: held by Slurm, since .*\)", HELD),
    (preempted, r"PENDING \(BeginTime: waits for its begin time, two minutes after a requeue\)", FOLLOW),
    (preempted_for_good, r"PREEMPTED on n1, .*", GO_ON),
    (running, r"RUNNING on n1, 0:[0-9]{2} of 10:00", FOLLOW),
    (node_lost, r"NODE_FAIL .*", GO_ON),
    (cancelled_before, r"CANCELLED.*", GO_ON),
    (cancelled_after, r"CANCELLED.* on n1, .*", GO_ON),
    (
        refused,
        r"FAILED \(exit code 78\) on n1, .*",
        "make logs {words} (the request is wrong: it says how), then make submit with another",
    ),
    (failed, r"FAILED \(exit code 1\) on n1, .*", READ),
    (finished, r"COMPLETED on n1, .*", "look at {folder}/report.html"),
    (only_accounting_knows, r"FAILED \(exit code 1\) on n1, .*", READ),
    (nobody_knows, r"GONE \(not in squeue\)", READ),
]  # fmt: skip


def line_and_next(on: Bed, capsys: pytest.CaptureFixture[str], environ: dict[str, str]) -> tuple[str, str]:
    capsys.readouterr()
    assert verbs.status({"RUN": on.run_id}, environ, on.project) == 0
    lines = capsys.readouterr().out.splitlines()
    (job,) = [line.removeprefix(f"job    {on.job_id} ") for line in lines if line.startswith("job ")]
    return job, lines[-1].removeprefix("next   ")


@pytest.mark.parametrize(
    ("name", "provoke", "said", "then"),
    [pytest.param(state[0].__name__.replace("_", "-"), *state, id=state[0].__name__) for state in STATES],
)
def test_a_state_is_explained_in_one_line_with_one_next_command(
    name: str, provoke: Callable[[Bed], None], said: str, then: str, on: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    provoke(on)
    run = f"RUN={on.run_id}"
    words = {"words": run, "again": f"make resume {run}", "job": on.job_id, "folder": on.folder}
    seen: list[tuple[str, str]] = [("", "")]

    def is_said() -> bool:
        seen[0] = line_and_next(on, capsys, on.cluster.environ)
        return bool(re.fullmatch(said, seen[0][0]))

    until(is_said, lambda: f"{seen[0]}\n{on.shown()}")
    assert seen[0][1] == then.format(**words)
