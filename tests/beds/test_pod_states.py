"""How a run stands on Kubernetes, in one line and one next command: each state is provoked. The real kubectl asks the
tests' API server, and its Job controller makes and ends the pods as a control plane 1.36 did."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_server import KUEUE, RESOURCES, Key, Object, Refused
from checkouts import make_checkout
from job_controller import JobController
from kube import IMAGE, Cluster

pytestmark = pytest.mark.slow

DAY_S = 24 * 3600
GRACE_S = 120
EVICTED = 'Usage of EmptyDir volume "tmp" exceeds the limit "50Gi".'
QUOTA = 'pods "x" is forbidden: exceeded quota: gpu, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8'
PRIORITY = 'pods "x" is forbidden: no PriorityClass with name urgent was found'
NO_ROOM = (
    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: "
    "2 No preemption victims found for incoming pod."
)
NO_MATCH = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
UNBOUND = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
NO_CLAIM = '0/2 nodes are available: persistentvolumeclaim "trainyard" not found.'
PULL = 'Back-off pulling image "registry.example.org/trainyard:0.1.0": ErrImagePull: not found'


RUN = "mine"
JOB = f"gemma-3-4b-it-{RUN}"


@dataclass
class Bed:
    """A cluster, and a run on it."""

    cluster: Cluster
    submitted: Mapping[Key, Object]
    """What the cluster has after a plain submit, before its controllers have seen it."""
    controller: JobController

    def submit(self, *words: str) -> None:
        if words:
            done = self.cluster.k8s("submit", *IMAGE, "--run", RUN, *words)
            assert done.returncode == 0, done.stderr
        else:
            self.cluster.server.objects |= copy.deepcopy(self.submitted)
        self.controller.step()

    def placed(self) -> str:
        """The name of its pod, which waits for its container."""
        self.controller.starts = False
        self.submit()
        return self.pod

    @property
    def pod(self) -> str:
        """The name of its newest pod."""
        return str(self.controller.pods(JOB)[-1]["metadata"]["name"])

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.cluster.objects("jobs")[JOB])

    def fail(self, times: int, code: int, reason: str = "", **more: Any) -> None:
        for _ in range(times):
            if not self.controller.live(JOB):
                self.controller.pass_time(600)
            self.controller.end_pod(self.pod, code, reason, **more)

    def queued(self, reason: str, message: str) -> None:
        """As Kueue's webhook and its controller leave a Job that may not start."""
        self.cluster.server.resources = (*RESOURCES, *KUEUE)
        self.cluster.put("localqueues", "night", {"spec": {"clusterQueue": "x"}})
        self.submit("--queue", "night")
        job = self.cluster.objects("jobs")[JOB]
        job["spec"]["suspend"] = True
        condition = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
        labels = {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]}
        self.cluster.put("workloads", "w", {"metadata": {"labels": labels}, "status": {"conditions": [condition]}})
        self.controller.step()

    def status(self) -> tuple[str, str]:
        """(its last job's line without the name, the command to type)."""
        done = self.cluster.k8s("status", "--run", RUN)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        (job,) = [line for line in lines if line.startswith("job ")]
        return job.removeprefix(f"job    {JOB} "), lines[-1].removeprefix("next   ")


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Key, Object]]:
    """A checkout, and the objects that a submit from it makes."""
    folder = tmp_path_factory.mktemp("states")
    make_checkout(folder / "checkout")
    with Cluster.started(folder / "checkout", folder / "cluster") as cluster:
        done = cluster.k8s("submit", *IMAGE, "--run", RUN)
        assert done.returncode == 0, done.stderr
        return folder / "checkout", cluster.server.objects


@pytest.fixture
def on(submitted: tuple[Path, dict[Key, Object]], tmp_path: Path) -> Iterator[Bed]:
    checkout, objects = submitted
    with Cluster.started(checkout, tmp_path / "cluster") as cluster:
        yield Bed(cluster, objects, JobController(server=cluster.server, now=time.time()))


def no_room(on: Bed) -> None:
    on.controller.no_room = NO_ROOM
    on.submit()


def no_node_of_the_kind(on: Bed) -> None:
    on.controller.no_room = NO_MATCH
    on.submit()


def claim_unbound(on: Bed) -> None:
    on.controller.no_room = UNBOUND
    on.submit()


def claim_gone(on: Bed) -> None:
    on.controller.no_room = NO_CLAIM
    on.submit()


def starting(on: Bed) -> None:
    on.placed()


def image_missing(on: Bed) -> None:
    on.controller.hold(on.placed(), "ImagePullBackOff", PULL)


def secret_missing(on: Bed) -> None:
    on.controller.hold(on.placed(), "CreateContainerConfigError", 'secret "pull" not found')


def volume_elsewhere(on: Bed) -> None:
    on.placed()
    said = 'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node'
    on.controller.warn(on.controller.pods(JOB)[-1], "FailedAttachVolume", said)


def over_quota(on: Bed) -> None:
    on.cluster.server.refusals["POST pods"] = Refused(403, "Forbidden", QUOTA)
    on.submit()


def no_priority_class(on: Bed) -> None:
    on.cluster.server.refusals["POST pods"] = Refused(403, "Forbidden", PRIORITY)
    on.submit()


def queue_full(on: Bed) -> None:
    on.queued("Pending", "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu")


def queue_stopped(on: Bed) -> None:
    on.queued("Inadmissible", "LocalQueue night is inactive")


def suspended(on: Bed) -> None:
    on.submit()
    on.spec["spec"]["suspend"] = True
    on.controller.step()


def running(on: Bed) -> None:
    on.submit()


def one_of_two(on: Bed) -> None:
    on.cluster.put("persistentvolumeclaims", "trainyard", {"spec": {"accessModes": ["ReadWriteMany"]}})
    on.submit("--gpus", "1", "--nodes", "2")
    on.controller.end_pod(on.pod, 1)


def drained_and_saving(on: Bed) -> None:
    on.submit()
    on.controller.tell_to_end(on.pod, GRACE_S)


def drained(on: Bed) -> None:
    """The same for a preempted one: the pod is deleted, and gone when it has ended."""
    drained_and_saving(on)
    on.fail(1, 75, disrupted="EvictionByEvictionAPI")


def evicted(on: Bed) -> None:
    on.submit()
    on.fail(1, 137, disrupted="TerminationByKubelet", evicted=EVICTED)


def evicted_often(on: Bed) -> None:
    """The supervisor counts in the claim and gives up."""
    on.submit()
    on.fail(9, 137, disrupted="TerminationByKubelet", evicted=EVICTED)
    on.fail(4, 1)


def failed_once(on: Bed) -> None:
    on.submit()
    on.fail(1, 1)


def out_of_memory_once(on: Bed) -> None:
    on.submit()
    on.fail(1, 137, "OOMKilled")


def running_again(on: Bed) -> None:
    out_of_memory_once(on)
    on.controller.pass_time(10)


def node_lost(on: Bed) -> None:
    on.submit()
    on.controller.lose_node(on.controller.pods(JOB)[-1]["spec"]["nodeName"])


def out_of_memory(on: Bed) -> None:
    on.submit()
    on.fail(4, 137, "OOMKilled")


def failed(on: Bed) -> None:
    on.submit()
    on.fail(4, 1)


def refused(on: Bed) -> None:
    on.submit()
    on.fail(1, 78)


def deadline(on: Bed) -> None:
    on.submit()
    on.spec["spec"]["activeDeadlineSeconds"] = 60
    on.controller.pass_time(60)


def cancelled(on: Bed) -> None:
    on.submit()
    assert on.cluster.k8s("cancel", "--run", RUN).returncode == 0


def finished(on: Bed) -> None:
    on.submit()
    on.controller.end_pod(on.pod, 0)


def finished_and_removed(on: Bed) -> None:
    finished(on)
    on.status()
    on.controller.pass_time(7 * DAY_S)


def removed_unseen(on: Bed) -> None:
    finished(on)
    on.controller.pass_time(7 * DAY_S)


FOLLOW = "make logs {words} (follows it; make cancel {words} ends it)"
READ = "make logs {words} (what happened), then {again}"
GO_ON = "{again} (goes on from its newest checkpoint)"
ALLOWED = "make cancel {words}, then make submit with what is allowed (or wait, where others use it up now)"
MEMORY = "{again} MEM=48 (more than the 32 GiB of every pod that was killed)"
LOST = (
    "once node {node} is surely off, kubectl --namespace default delete pod {pod} --force (or an administrator: "
    "kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute)"
)
UNSUSPEND = (
    "kubectl --namespace default patch job gemma-3-4b-it-mine --type merge --patch "
    """'{{"spec":{{"suspend":false}}}}' (starts it)"""
)
NEXT_COMES = r"the next one comes at about [0-9:]{8} UTC"
# What is provoked, what the job's line says after its name, what stands next.
STATES: list[tuple[Callable[[Bed], None], str, str]] = [
    (no_room, r"PENDING \(Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia\.com/gpu\.\)", FOLLOW),
    (
        no_node_of_the_kind,
        rf"PENDING \(Unschedulable: {re.escape(NO_MATCH)}\)",
        "kubectl get nodes --show-labels (no node has the labels that the run asks for: the site file names them)",
    ),
    (
        claim_unbound,
        rf"PENDING \(Unschedulable: {re.escape(UNBOUND)}\)",
        "kubectl --namespace default describe persistentvolumeclaims (says why the claim is not bound)",
    ),
    (
        claim_gone,
        rf"PENDING \(Unschedulable: {re.escape(NO_CLAIM)}\)",
        "kubectl --namespace default get persistentvolumeclaims (make claim SIZE=... prints one that is missing)",
    ),
    (starting, "PENDING", FOLLOW),
    (
        image_missing,
        rf"PENDING \(ImagePullBackOff: {re.escape(PULL)}\)",
        "make cancel {words}, then make submit with an IMAGE= that the cluster can pull",
    ),
    (
        secret_missing,
        r'PENDING \(CreateContainerConfigError: secret "pull" not found\)',
        "kubectl --namespace default describe pod {pod} (says it whole)",
    ),
    (volume_elsewhere, r"PENDING \(FailedAttachVolume: Multi-Attach error .*\)", FOLLOW),
    (over_quota, rf"PENDING \(FailedCreate: Error creating: {re.escape(QUOTA)}\)", ALLOWED),
    (no_priority_class, rf"PENDING \(FailedCreate: Error creating: {re.escape(PRIORITY)}\)", ALLOWED),
    (queue_full, r"PENDING \(queue night: couldn't assign flavors .*\)", FOLLOW),
    (
        queue_stopped,
        r"PENDING \(queue night: LocalQueue night is inactive\)",
        "make cancel {words}, then {again} QUEUE=... (this queue does not take it)",
    ),
    (suspended, r"SUSPENDED \(suspended\)", UNSUSPEND),
    (running, r"RUNNING on gpu-[12], [0-9]:[0-9]{2} of 12:00:00", FOLLOW),
    (one_of_two, r"PENDING \(1 of 2 pods run, and wait for the others: exit code 1\)", FOLLOW),
    (drained_and_saving, r"COMPLETING \(it was told to end, and saves\)", FOLLOW),
    (drained, r"PENDING \(it has no pod now: after an end Kubernetes waits up to 10 minutes .*\)", FOLLOW),
    (evicted, rf"PENDING \(attempt 1 ended: Evicted: {re.escape(EVICTED)}, exit code 137; {NEXT_COMES}\)", FOLLOW),
    (evicted_often, r"FAILED \(BackoffLimitExceeded, exit code 1\)", READ),
    (failed_once, rf"PENDING \(attempt 1 ended: exit code 1; {NEXT_COMES}\)", FOLLOW),
    (
        out_of_memory_once,
        rf"PENDING \(attempt 1 ended: OOMKilled, exit code 137; {NEXT_COMES}\)",
        f"make cancel {{words}}, then {MEMORY}",
    ),
    (running_again, r"RUNNING \(again, after OOMKilled, exit code 137\) on gpu-[12], .*", FOLLOW),
    (node_lost, r"NODE_FAIL \(node {node} does not answer, and pod {pod} is not replaced .*\) on {node}", LOST),
    (out_of_memory, r"OUT_OF_MEMORY \(BackoffLimitExceeded, OOMKilled, exit code 137\)", MEMORY),
    (failed, r"FAILED \(BackoffLimitExceeded, exit code 1\)", READ),
    (
        refused,
        r"FAILED \(PodFailurePolicy, exit code 78\)",
        "make logs {words} (the request is wrong: it says how), then make submit TO=k8s with another",
    ),
    (deadline, r"DEADLINE \(DeadlineExceeded\)", GO_ON),
    (cancelled, r"CANCELLED \(at [0-9TZ:-]*, its Job is gone\)", GO_ON),
    (finished, "COMPLETED", "mount the claim and open runs/mine/report.html"),
    (
        finished_and_removed,
        r"COMPLETED \(at [0-9TZ:-]*, its Job is gone\)",
        "mount the claim and open runs/mine/report.html",
    ),
    (removed_unseen, r"GONE \(deleted, and nobody saw how it ended\)", READ),
]  # fmt: skip


@pytest.mark.parametrize(("provoke", "said", "then"), [pytest.param(*state, id=state[0].__name__) for state in STATES])
def test_a_state_is_explained_in_one_line_with_one_next_command(
    provoke: Callable[[Bed], None], said: str, then: str, on: Bed
) -> None:
    provoke(on)
    words = f"TO=k8s RUN={RUN}"
    pods = on.controller.pods(JOB)
    pod, node = (pods[-1]["metadata"]["name"], pods[-1]["spec"].get("nodeName", "")) if pods else ("", "")
    line, command = on.status()
    assert re.fullmatch(said.replace("{pod}", pod).replace("{node}", node), line), line
    assert len(line) < 300
    assert command == then.format(words=words, again=f"make resume {words}", pod=pod, node=node)
