"""What `status` says of a Job in every state that a cluster can bring it to: one line, and one command to type next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from k8s.cluster.ends import ENDS_KEY, End, ends_text, read_ends, see_end
from k8s.cluster.jobs import Around, see_job
from launcher.progress import GONE, RunStatus, status_text
from launcher.states import BY_WORD, EXIT_CODES

Object = dict[str, Any]
EVICTED = "The node was low on resource: ephemeral-storage"
NOW = 1795564800.0 + 3723  # 2026-11-25T01:02:03Z
FOLLOW = "make logs RUN=r (follows it; make cancel RUN=r ends it)"
READ = "make logs RUN=r (what happened), then make resume RUN=r"
MEMORY = "make resume RUN=r MEM=96 (more than the 64 GiB of every pod that was killed)"
LOOK = "open the report"
LOST = (
    "once node a is surely off, kubectl --namespace vision delete pod p --force (or an administrator: "
    "kubectl taint nodes a node.kubernetes.io/out-of-service=nodeshutdown:NoExecute)"
)
STUCK = "make cancel RUN=r, then make submit with what is allowed (or wait, where others use it up now)"


def job(*, nodes: int = 1, suspend: bool = False, queue: str = "", **status: Any) -> Object:
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    metadata = {"name": "j", "namespace": "vision", "uid": "job-1", "labels": labels}
    return {"metadata": metadata, "spec": {"suspend": suspend, "parallelism": nodes}, "status": status}


def ended(kind: str, reason: str = "", message: str = "") -> Object:
    condition = {"type": kind, "status": "True", "reason": reason, "message": message}
    return job(conditions=[{**condition, "lastTransitionTime": "2026-11-25T01:00:00Z"}])


def pod(phase: str, *, deleted: str = "", uid: str = "pod-1", node: str = "a", **status: Any) -> Object:
    going = {"deletionTimestamp": deleted} if deleted else {}
    metadata = {"name": "p", "namespace": "vision", "uid": uid, **going}
    started = {"startTime": "2026-11-25T00:00:00Z"} if phase != "Pending" else {}
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase, **started, **status}}


def failed(code: int, reason: str = "Error", at: str = "01:02:00", **status: Any) -> Object:
    state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": f"2026-11-25T{at}Z"}}
    return pod("Failed", containerStatuses=[{"state": state}], **status)


def waiting(reason: str, message: str) -> Object:
    return pod("Pending", containerStatuses=[{"state": {"waiting": {"reason": reason, "message": message}}}])


def unscheduled(message: str, reason: str = "Unschedulable") -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod("Pending", conditions=[condition])


def disrupted(reason: str, code: int) -> Object:
    return failed(code, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": reason}])


def unseen(**status: Any) -> Object:
    """A pod of whose container nobody saw the end, as the pod collector writes it."""
    state = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None}
    return pod("Failed", containerStatuses=[{"state": {"terminated": state}}], **status)


def changed_at(kind: str, at: str, status: str = "True") -> Object:
    return {"type": kind, "status": status, "reason": "x", "lastTransitionTime": f"2026-11-25T{at}Z"}


def evicted_waiting(at: str) -> Object:
    making = [{"state": {"waiting": {"reason": "ContainerCreating"}}}]
    conditions = [changed_at("PodScheduled", "01:01:00"), changed_at("DisruptionTarget", at)]
    return pod("Failed", reason="Evicted", message=EVICTED, containerStatuses=making, conditions=conditions)


def warning(uid: str, reason: str, message: str, at: str = "01:01:00") -> Around:
    event = {"reason": reason, "message": message, "lastTimestamp": f"2026-11-25T{at}Z"}
    older = {"reason": "Older", "message": "not this", "lastTimestamp": "2026-11-24T01:01:00Z"}
    return Around(events=[{**one, "involvedObject": {"uid": uid}} for one in (event, older)])


def queued(reason: str, message: str) -> Around:
    condition = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
    labels = {"kueue.x-k8s.io/job-uid": "job-1"}
    return Around(workloads=[{"metadata": {"labels": labels}, "status": {"conditions": [condition]}}])


SICK = Around(nodes=[{"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}])
LIMITS = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
LARGE = {"containers": [{"name": "mesh"}, {"name": "trainer", "resources": {"limits": LIMITS}}]}
SIZES = [
    {"metadata": {"name": name}, "status": {"allocatable": {"cpu": "31850m", "memory": "263844396Ki", **gpus}}}
    for name, gpus in (("a", {"nvidia.com/gpu": "4"}), ("b", {}))
]
TAINTED = "1 node(s) had untolerated taint {nvidia.com/gpu: present}"
SELECTOR = "didn't match Pod's node affinity/selector"
ZONE = "2 node(s) had volume node affinity conflict"
NEWER_ZONE = "didn't match PersistentVolume's node affinity"
PREEMPTION = "preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling."
NEWER_PREEMPTION = f"no new claims to deallocate, {PREEMPTION}"
SECRET = "Unable to retrieve some image pull secrets (pull); attempting to pull the image may not succeed."
QUOTA = 'Error creating: pods "j-x" is forbidden: exceeded quota: gpu, requested: requests.nvidia.com/gpu=4'
STATES: dict[str, tuple[Object | None, Sequence[Object], Around, str, str]] = {
    "no node has room": (
        *(job(), [unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")], Around()),
        *("PENDING (Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.)", FOLLOW),
    ),
    "the nodes with its labels are not where the disk is": (
        *(job(), [unscheduled(f"0/5 nodes are available: {TAINTED}, 2 node(s) {SELECTOR}, {ZONE}. {PREEMPTION}")]),
        Around(),
        f"PENDING (Unschedulable: 0/5 nodes are available: {TAINTED}, 2 node(s) {SELECTOR}, {ZONE}.)",
        "kubectl describe persistentvolumes (the nodes that fit the run are not where the claim's disk is)",
    ),
    "the nodes with its labels have a taint": (
        *(job(), [unscheduled(f"0/3 nodes are available: {TAINTED}, 2 node(s) {SELECTOR}. {PREEMPTION}")], Around()),
        f"PENDING (Unschedulable: 0/3 nodes are available: {TAINTED}, 2 node(s) {SELECTOR}.)",
        "kubectl describe nodes (the run does not tolerate their taints: tolerations: in the site file)",
    ),
    "a node of the kind is full": (
        *(job(), [unscheduled(f"0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) {SELECTOR}.")]),
        Around(),
        f"PENDING (Unschedulable: 0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) {SELECTOR}.)",
        FOLLOW,
    ),
    "a node is not ready": (
        *(job(), [unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/x: }.")]),
        Around(),
        "PENDING (Unschedulable: 0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/x: }.)",
        FOLLOW,
    ),
    "its nodes have a taint that a newer scheduler does not name": (
        *(job(), [unscheduled(f"0/1 nodes are available: 1 node(s) had untolerated taint(s). {NEWER_PREEMPTION}")]),
        *(Around(), "PENDING (Unschedulable: 0/1 nodes are available: 1 node(s) had untolerated taint(s).)"),
        "kubectl describe nodes (the run does not tolerate their taints: tolerations: in the site file)",
    ),
    "the disk is in another zone, in a newer scheduler's words": (
        *(job(), [unscheduled(f"0/2 nodes are available: 2 node(s) {NEWER_ZONE}. {NEWER_PREEMPTION}")], Around()),
        f"PENDING (Unschedulable: 0/2 nodes are available: 2 node(s) {NEWER_ZONE}.)",
        "kubectl describe persistentvolumes (the nodes that fit the run are not where the claim's disk is)",
    ),
    "a newer scheduler finds no node with its labels": (
        *(job(), [unscheduled(f"0/3 nodes are available: 3 node(s) {SELECTOR}. {NEWER_PREEMPTION}")], Around()),
        f"PENDING (Unschedulable: 0/3 nodes are available: 3 node(s) {SELECTOR}.)",
        "kubectl get nodes --show-labels (no node has the labels that the run asks for: the site file names them)",
    ),
    "the secret for the image is missing": (
        *(job(), [waiting("ImagePullBackOff", "x")], warning("pod-1", "FailedToRetrieveImagePullSecret", SECRET)),
        f"PENDING (FailedToRetrieveImagePullSecret: {SECRET})",
        "kubectl --namespace vision get secrets (image_pull_secrets: in the site file names one that is not there)",
    ),
    "no node is as large": (
        *(job(), [{**unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), "spec": LARGE}]),
        *(Around(nodes=SIZES), "PENDING (Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu.)"),
        "make cancel RUN=r, then make submit with less a node (no node that is there has 8 of nvidia.com/gpu, the "
        "largest has 4)",
    ),
    "the claim is not bound": (
        *(job(), [unscheduled("pod has unbound immediate PersistentVolumeClaims.")], Around()),
        "PENDING (Unschedulable: pod has unbound immediate PersistentVolumeClaims.)",
        "kubectl --namespace vision describe persistentvolumeclaims (says why the claim is not bound)",
    ),
    "the image cannot be pulled": (
        *(job(), [waiting("ImagePullBackOff", 'Back-off pulling image "x:1"')], Around()),
        'PENDING (ImagePullBackOff: Back-off pulling image "x:1")',
        "make cancel RUN=r, then make submit with an IMAGE= that the cluster can pull",
    ),
    "the container cannot be made": (
        *(job(), [waiting("CreateContainerConfigError", 'configmap "j" not found')], Around()),
        'PENDING (CreateContainerConfigError: configmap "j" not found)',
        "kubectl --namespace vision describe pod p (says it whole)",
    ),
    "a volume cannot be mounted": (
        *(job(), [waiting("ContainerCreating", "")], warning("pod-1", "FailedAttachVolume", "Multi-Attach error")),
        *("PENDING (FailedAttachVolume: Multi-Attach error)", FOLLOW),
    ),
    "the pod starts": (job(), [waiting("ContainerCreating", "")], Around(), "PENDING", FOLLOW),
    "the quota has no room": (
        *(job(), [], warning("job-1", "FailedCreate", QUOTA), f"PENDING (FailedCreate: {QUOTA})", STUCK),
    ),
    "the queue has no room": (
        *(job(suspend=True, queue="night"), [], queued("Pending", "insufficient unused quota")),
        *("PENDING (queue night: insufficient unused quota)", FOLLOW),
    ),
    "the queue is not there": (
        *(job(suspend=True, queue="nihgt"), [], queued("Inadmissible", "LocalQueue nihgt doesn't exist")),
        "PENDING (queue nihgt: LocalQueue nihgt doesn't exist)",
        "make cancel RUN=r, then make resume RUN=r QUEUE=... (this queue does not take it)",
    ),
    "suspended by hand": (
        *(job(suspend=True), [], Around(), "SUSPENDED (suspended)"),
        """kubectl --namespace vision patch job j --type merge --patch '{"spec":{"suspend":false}}' (starts it)""",
    ),
    "trains": (job(), [pod("Running")], Around(), "RUNNING on a, 1:02:03 of 30:00", FOLLOW),
    "trains again": (
        *(job(), [failed(137, "OOMKilled"), pod("Running")], Around()),
        *("RUNNING (again, after OOMKilled, exit code 137) on a, 1:02:03 of 30:00", FOLLOW),
    ),
    "one of two pods is missing": (
        *(job(nodes=2), [pod("Running")], warning("job-1", "FailedCreate", "exceeded quota")),
        *("PENDING (1 of 2 pods run, and wait for the others: FailedCreate: exceeded quota)", FOLLOW),
    ),
    "drained, and saves": (
        *(job(), [pod("Running", deleted="2026-11-25T01:03:00Z")], Around()),
        *("COMPLETING (it was told to end, and saves)", FOLLOW),
    ),
    "preempted": (
        *(job(), [disrupted("PreemptionByScheduler", 75)], Around()),
        "PENDING (attempt 1 ended: PreemptionByScheduler, exit code 75; the next one comes at about 01:02:10 UTC)",
        FOLLOW,
    ),
    "evicted by its node": (
        *(job(), [{**failed(137), "status": {**failed(137)["status"], "reason": "Evicted", "message": EVICTED}}]),
        Around(),
        f"PENDING (attempt 1 ended: Evicted: {EVICTED}, exit code 137; the next one comes at about 01:02:10 UTC)",
        FOLLOW,
    ),
    "nobody saw how its container ended": (
        *(job(), [unseen(conditions=[changed_at("Ready", "01:02:00", "False")])], Around()),
        "PENDING (attempt 1 ended: ContainerStatusUnknown, exit code 137; the next one comes at about 01:02:10 UTC)",
        FOLLOW,
    ),
    "nobody saw how its container ended, nor when": (
        *(job(), [unseen(conditions=[{**changed_at("Ready", "", "False"), "lastTransitionTime": None}])], Around()),
        *("PENDING (attempt 1 ended: ContainerStatusUnknown, exit code 137)", FOLLOW),
    ),
    "refused by its node": (
        *(job(), [pod("Failed", reason="OutOfcpu", message="Pod was rejected: no CPU")], Around()),
        *("PENDING (attempt 1 ended: OutOfcpu: Pod was rejected: no CPU)", FOLLOW),
    ),
    "evicted before its container was made": (
        *(job(), [failed(1, at="01:00:00"), evicted_waiting("01:02:00")], Around()),
        f"PENDING (attempt 2 ended: Evicted: {EVICTED}; the next one comes at about 01:02:20 UTC)",
        FOLLOW,
    ),
    "failed with retries left": (
        *(job(), [failed(1, at="01:00:00"), failed(1), failed(1, at="01:01:00")], Around()),
        *("PENDING (attempt 3 ended: exit code 1; the next one comes at about 01:02:40 UTC)", FOLLOW),
    ),
    "failed, and the next attempt is late": (
        *(job(), [failed(1, at="01:00:00")], Around()),
        *("PENDING (attempt 1 ended: exit code 1; the next one comes by 01:10:00 UTC)", FOLLOW),
    ),
    "failed, and the next attempt should be there": (
        *(job(), [failed(1, at="00:40:00")], Around()),
        *("PENDING (attempt 1 ended: exit code 1; the next one should have come by 00:50:00 UTC)", FOLLOW),
    ),
    "out of memory, with retries left": (
        *(job(), [failed(137, "OOMKilled")], Around()),
        "PENDING (attempt 1 ended: OOMKilled, exit code 137; the next one comes at about 01:02:10 UTC)",
        f"make cancel RUN=r, then {MEMORY}",
    ),
    "node lost, noticed": (
        *(job(), [pod("Running")], SICK),
        "NODE_FAIL (node a does not answer, and pod p is not replaced before that is settled) on a",
        LOST,
    ),
    "node lost, pod told to end long ago": (
        *(job(), [pod("Running", deleted="2026-11-25T01:00:00Z")], Around()),
        "NODE_FAIL (node a does not answer, and pod p is not replaced before that is settled) on a",
        LOST,
    ),
    "pods have ended well": (job(), [pod("Succeeded")], Around(), "COMPLETING", FOLLOW),
    "finished": (ended("Complete"), [pod("Succeeded")], Around(), "COMPLETED", LOOK),
    "refused": (
        *(ended("Failed", "PodFailurePolicy", "Container trainer failed with exit code 78"), [failed(78)], Around()),
        "FAILED (PodFailurePolicy, exit code 78)",
        "make logs RUN=r (the request is wrong: it says how), then make submit with another",
    ),
    "failed": (
        *(ended("Failed", "BackoffLimitExceeded"), [failed(1)], Around()),
        *("FAILED (BackoffLimitExceeded, exit code 1)", READ),
    ),
    "out of memory": (
        *(ended("Failed", "BackoffLimitExceeded"), [failed(137, "OOMKilled")], Around()),
        *("OUT_OF_MEMORY (BackoffLimitExceeded, OOMKilled, exit code 137)", MEMORY),
    ),
    "deadline": (
        *(ended("Failed", "DeadlineExceeded"), [failed(137)], Around()),
        "DEADLINE (DeadlineExceeded, exit code 137)",
        "make resume RUN=r (goes on from its newest checkpoint)",
    ),
    "gone": (None, [], Around(), "GONE (deleted, and nobody saw how it ended)", READ),
}


def said(seen: Any) -> tuple[str, str]:
    """(the job's line without its name, the command to type next)."""
    done = seen.state == "COMPLETED"
    run = RunStatus(run_id="r", jobs=[seen], progress=None, place="claim", made=(), finished=done, report_advice=LOOK)
    lines = dict(line.split(maxsplit=1) for line in status_text(run, "RUN=r", NOW).splitlines())
    return lines["job"].removeprefix("j "), lines["next"]


@pytest.mark.parametrize("name", STATES)
def test_every_state_is_one_line_and_one_command(name: str) -> None:
    content, pods, around, line, command = STATES[name]
    seen = see_job("j", content, pods, limit_min=30, mem_gib=64, now=NOW, around=around)
    assert said(seen) == (line, command)
    assert seen.state in BY_WORD
    assert len(line) < 300


@pytest.mark.parametrize(
    ("kept", "line", "command"),
    [
        (End(state="COMPLETED", at="T"), "COMPLETED (at T, its Job is gone)", LOOK),
        (
            End(state="CANCELLED", at="T"),
            "CANCELLED (at T, its Job is gone)",
            "make resume RUN=r (goes on from its newest checkpoint)",
        ),
        (
            End(state="OUT_OF_MEMORY", at="T", exit_code=137),
            "OUT_OF_MEMORY (at T, its Job is gone, exit code 137)",
            MEMORY,
        ),
    ],
)
def test_how_it_ended_is_known_when_the_job_is_gone(kept: End, line: str, command: str) -> None:
    seen = see_job("j", None, [], limit_min=30, mem_gib=64, now=NOW, kept=read_ends(ends_text({"j": kept}))["j"])
    assert said(seen) == (line, command)


def test_a_failure_that_a_pod_of_before_had_in_making_says_nothing_of_the_next_attempt() -> None:
    """The quota had room again, a pod was made, and failed."""
    older = warning("job-1", "FailedCreate", QUOTA, at="00:30:00")
    seen = see_job("j", job(), [failed(1)], limit_min=30, mem_gib=64, now=NOW, around=older)
    assert seen.reason == "attempt 1 ended: exit code 1; the next one comes at about 01:02:10 UTC"


def test_the_wait_for_the_next_attempt_doubles_to_ten_minutes() -> None:
    seen = see_job("j", job(), [failed(1)] * 12, limit_min=30, mem_gib=64, now=NOW)
    assert seen.reason == "attempt 12 ended: exit code 1; the next one comes at about 01:12:00 UTC"


def test_a_pod_that_failed_while_others_decided_is_not_the_reason() -> None:
    told = ended("Failed", "PodFailurePolicy", "Container trainer for pod x failed with exit code 78 matching a rule")
    end = see_end(told, [failed(78, at="01:00:01"), failed(137, at="01:00:02")])
    assert end == End(state="FAILED", at="2026-11-25T01:00:00Z", reason="PodFailurePolicy", exit_code=78)


def test_a_failure_without_a_time_is_not_the_last_one() -> None:
    last = see_end(ended("Failed", "BackoffLimitExceeded"), [unseen(), failed(1), unseen()])
    assert last == End(state="FAILED", at="2026-11-25T01:00:00Z", reason="BackoffLimitExceeded", exit_code=1)


def test_the_exit_codes_are_those_of_the_supervisor() -> None:
    assert [code.code for code in EXIT_CODES] == [0, 75, 78, 1]
    assert (ENDS_KEY, GONE) == ("ends.json", "GONE")
