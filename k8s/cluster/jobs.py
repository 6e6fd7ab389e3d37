"""A Job and its pods as a line of status, with Slurm's words for the states of jobs (launcher/states.py)."""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from k8s.cluster.ends import MESSAGE_CHARS, OOM_KILLED, OUT_OF_MEMORY, End, Failure, last_failure, see_end
from k8s.cluster.kubectl import Object, name_of
from k8s.cluster.placing import advice_on_placing, advice_on_size, unscheduled, without_preemption
from k8s.manifest.objects import QUEUE_LABEL, SLOT_LABEL
from launcher.progress import GONE, RUNNING, Job

PENDING, SUSPENDED, NODE_FAIL = "PENDING", "SUSPENDED", "NODE_FAIL"
ENDING = "COMPLETING"  # Slurm's word for a job whose processes are ending or have ended
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_UID = "kueue.x-k8s.io/job-uid"
UNSEEN = "deleted, and nobody saw how it ended"
STARTING = ("ContainerCreating", "PodInitializing")  # the reason of every pod while it starts
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ErrImageInspect")
NO_PULL_SECRET = "FailedToRetrieveImagePullSecret"
PULL_SECRETS = (
    "kubectl --namespace {namespace} get secrets (image_pull_secrets: in the site file names one that is not there)"
)
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
# The Job controller waits before it replaces a pod, also for failures that do not count.
BACK_OFF_S, MOST_BACK_OFF_S = 10, 600
LATE_S = 15
# A drained or preempted pod is removed with all that it could tell.
NO_POD = "it has no pod now: after an end Kubernetes waits up to 10 minutes before the next one"
OVERDUE_S = 30
"""Seconds after its grace period at which a pod that is still there shows that its node does not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """Objects beside Jobs and pods; each is empty when it was not asked for, or this user may not read it."""

    workloads: Sequence[Object] = ()
    """Kueue's workloads, which say why a Job is not started."""
    events: Sequence[Object] = ()
    """Warnings."""
    nodes: Sequence[Object] = ()


NOTHING = Around()


def see_job(
    job_id: str,
    job: Object | None,
    pods: Sequence[Object],
    *,
    limit_min: int,
    mem_gib: int,
    now: float,
    kept: End | None = None,
    around: Around = NOTHING,
) -> Job:
    """The state of the Job; `job` is None when the cluster has forgotten it, and `kept` is then what is known of its
    end."""
    memory = "{again} " + f"MEM={-(-mem_gib * 3 // 2)} (more than the {mem_gib} GiB of every pod that was killed)"
    if job is None:
        if not kept:
            return Job(job_id=job_id, state=GONE, ended=True, reason=UNSEEN)
        seen = kept.remembered(job_id)
        return replace(seen, advice=memory) if kept.state == OUT_OF_MEMORY else seen
    if end := see_end(job, pods):
        advice = memory if end.state == OUT_OF_MEMORY else ""
        state, reason = end.state, end.reason
        return Job(job_id=job_id, state=state, ended=True, reason=reason, exit_code=end.exit_code, advice=advice)
    waits = Job(job_id=job_id, state=PENDING, ended=False)
    live = [pod for pod in pods if is_live(pod)]
    if job["spec"].get("suspend") and not live:
        return _suspended(waits, job, around)
    if lost := next((pod for pod in live if _is_lost(pod, around.nodes, now)), None):
        return _lost(waits, lost)
    if live and all("deletionTimestamp" in pod["metadata"] for pod in live):
        return replace(waits, state=ENDING, reason="it was told to end, and saves")
    running = [pod for pod in live if pod["status"]["phase"] == "Running"]
    failure = last_failure(pods)
    if not live and any(pod["status"].get("phase") == "Succeeded" for pod in pods):
        return replace(waits, state=ENDING)  # the Job's own condition follows a moment later
    if not live:
        return _between(waits, job, pods, failure, around, memory, now)
    if len(running) < len(live):
        return _not_started(waits, next(pod for pod in live if pod not in running), around)
    done = sum(pod["status"].get("phase") == "Succeeded" for pod in pods)
    if len(live) < (expected := job["spec"].get("parallelism", 1)) - done:
        said = _news_of(job, around.events) or failure.text
        reason = f"{len(live)} of {expected} pods run, and wait for the others{f': {said}' if said else ''}"
        return replace(waits, reason=reason)
    began = max(_seconds(pod["status"]["startTime"]) for pod in running)
    return Job(
        job_id=job_id,
        state=RUNNING,
        ended=False,
        reason=f"again, after {failure.text}" if failure.text else "",
        nodes=",".join(dict.fromkeys(pod["spec"].get("nodeName", "?") for pod in running)),
        elapsed=_clock(now - began),
        limit=_clock(limit_min * 60),
    )


def is_live(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running")


def first_pods(pods: Sequence[Object]) -> list[Object]:
    """The pods of the first node, which reports for the run."""
    return [pod for pod in pods if pod["metadata"].get("annotations", {}).get(INDEX, "0") == "0"]


def pods_of(job_id: str, pods: Sequence[Object]) -> list[Object]:
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") == job_id]


def waits_for_kueue(job: Object) -> bool:
    return bool(job["spec"].get("suspend")) and QUEUE_LABEL in job["metadata"].get("labels", {})


def lost_pod(pods: Sequence[Object], nodes: Sequence[Object], now: float) -> Object | None:
    """A pod whose node does not answer, so that its Job waits for it for ever; None when there is none."""
    return next((pod for pod in pods if is_live(pod) and _is_lost(pod, nodes, now)), None)


def way_out(pod: Object) -> str:
    """The command for a pod whose node does not answer."""
    node, namespace = pod["spec"].get("nodeName", "?"), pod["metadata"].get("namespace", "default")
    forced = f"kubectl --namespace {namespace} delete pod {name_of(pod)} --force"
    return (
        f"once node {node} is surely off, {forced} (or an administrator: kubectl taint nodes {node} {OUT_OF_SERVICE})"
    )


def _is_lost(pod: Object, nodes: Sequence[Object], now: float) -> bool:
    until = pod["metadata"].get("deletionTimestamp")  # this time includes the grace period
    if (until and now > _seconds(until) + OVERDUE_S) or pod["status"].get("reason") == "NodeLost":
        return True
    mine = [node for node in nodes if name_of(node) == pod["spec"].get("nodeName")]
    return any(
        condition["type"] == "Ready" and condition["status"] != "True"
        for node in mine
        for condition in node.get("status", {}).get("conditions", [])
    )


def _lost(waits: Job, pod: Object) -> Job:
    node = pod["spec"].get("nodeName", "?")
    reason = f"node {node} does not answer, and pod {name_of(pod)} is not replaced before that is settled"
    return replace(waits, state=NODE_FAIL, reason=reason, nodes=node, advice=way_out(pod))


def _suspended(waits: Job, job: Object, around: Around) -> Job:
    if not waits_for_kueue(job):
        namespace = job["metadata"].get("namespace", "default")
        patch = """'{"spec":{"suspend":false}}'"""
        command = f"kubectl --namespace {namespace} patch job {waits.job_id} --type merge --patch {patch}"
        return replace(waits, state=SUSPENDED, reason="suspended", advice=f"{command} (starts it)")
    queue = job["metadata"]["labels"][QUEUE_LABEL]
    for workload in around.workloads:
        if workload["metadata"].get("labels", {}).get(JOB_UID) == job["metadata"].get("uid", ""):
            for condition in workload.get("status", {}).get("conditions", []):
                if (condition["type"], condition["status"]) == ("QuotaReserved", "False"):
                    reason = f"queue {queue}: {condition.get('message', '')}"[:MESSAGE_CHARS]
                    wrong = condition.get("reason") == "Inadmissible"
                    other = "make cancel {words}, then {again} QUEUE=... (this queue does not take it)"
                    return replace(waits, reason=reason, advice=other if wrong else "")
    return replace(waits, reason=f"queue {queue} has not started it")


def _between(
    waits: Job, job: Object, pods: Sequence[Object], failure: Failure, around: Around, memory: str, now: float
) -> Job:
    """The state when there is no pod: the next attempt has not begun, or no pod can be made."""
    news = _news_of(job, around.events, since=failure.at)
    if news.startswith("FailedCreate"):
        change = "make cancel {words}, then make submit with what is allowed (or wait, where others use it up now)"
        return replace(waits, reason=news, advice=change)
    failed = sum(pod["status"].get("phase") == "Failed" for pod in pods)
    if not failed:
        return replace(waits, reason=news or NO_POD)
    reason = f"attempt {failed} ended: {failure.text or 'it failed'}"
    if failure.at:
        failed_at = _seconds(failure.at)
        next_at = failed_at + min(BACK_OFF_S * 2 ** min(failed - 1, 10), MOST_BACK_OFF_S)
        # Pods that were removed lengthen the wait too, and cannot be counted here.
        last_at = failed_at + MOST_BACK_OFF_S
        if now <= next_at + LATE_S:
            reason += f"; the next one comes at about {_time_of_day(next_at)} UTC"
        elif now <= last_at + LATE_S:
            reason += f"; the next one comes by {_time_of_day(last_at)} UTC"
        else:
            reason += f"; the next one should have come by {_time_of_day(last_at)} UTC"
    advice = f"make cancel {{words}}, then {memory}" if failure.reason == OOM_KILLED else ""
    return replace(waits, reason=reason, advice=advice)


def _not_started(waits: Job, pod: Object, around: Around) -> Job:
    """Why a pod does not run yet, in the cluster's words."""
    namespace = pod["metadata"].get("namespace", "default")
    for status in pod["status"].get("containerStatuses", []):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason", STARTING[0]) not in STARTING:
            said = ": ".join(filter(None, (str(waiting["reason"]), str(waiting.get("message", "")))))[:MESSAGE_CHARS]
            image = "make cancel {words}, then make submit with an IMAGE= that the cluster can pull"
            describe = f"kubectl --namespace {namespace} describe pod {name_of(pod)} (says it whole)"
            pulls = waiting["reason"] in IMAGE_REASONS
            if pulls and (secret := _news_of(pod, around.events, of=NO_PULL_SECRET)):
                return replace(waits, reason=secret, advice=PULL_SECRETS.format(namespace=namespace))
            return replace(waits, reason=said, advice=image if pulls else describe)
    if condition := unscheduled(pod):
        said = f"{condition.get('reason', '')}: {condition.get('message', '')}"
        if SLOT_LABEL in pod["metadata"].get("labels", {}) and "anti-affinity" in said:
            return replace(waits, reason="waits until a member of its sweep has ended: PARALLEL run at once")
        shown = without_preemption(said)[: 2 * MESSAGE_CHARS]
        advice = advice_on_size(pod, around.nodes) or advice_on_placing(said, namespace)
        return replace(waits, reason=shown, advice=advice)
    return replace(waits, reason=_news_of(pod, around.events))


def _news_of(content: Object, events: Sequence[Object], *, since: str = "", of: str = "") -> str:
    """The newest warning about an object: FailedCreate, FailedMount, FailedAttachVolume, ...; or the newest `of` one
    kind."""
    uid = content.get("metadata", {}).get("uid", "-")
    about = [event for event in events if event.get("involvedObject", {}).get("uid") == uid and _time_of(event) > since]
    about = [event for event in about if of in ("", event.get("reason"))]
    if not about:
        return ""
    last = max(about, key=_time_of)
    return f"{last.get('reason', '')}: {last.get('message', '')}"[: 2 * MESSAGE_CHARS]


def _time_of(event: Object) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, times), ""))


def _seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def _time_of_day(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
