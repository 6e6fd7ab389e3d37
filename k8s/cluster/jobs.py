"""A Job and its pods as a line of status; and how it ended, which the run's ConfigMap keeps when the Job is gone.

A Job is removed a week after its end, or by hand; a finished run stays finished all the same.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from k8s.cluster.kubectl import Object
from k8s.manifest.objects import QUEUE_LABEL
from launcher.progress import GONE, Job
from trainer.files import parse_json
from trainer.text import shown

ENDS_KEY = "ends.json"  # in the ConfigMap, beside run.json
COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"
ENDING = "COMPLETING"  # as Slurm calls a job whose processes have ended and which has not
EXIT_CODE = re.compile(r"exit code ([0-9]+)")  # as a podFailurePolicy's condition says it
PLAIN_REASONS = ("", "Error", "Completed")  # of a container: they say no more than its exit code
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_UID = "kueue.x-k8s.io/job-uid"
REASON_CHARS = 120
UNSEEN = "deleted, and nobody saw how it ended"


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a Job ended."""

    state: str
    at: str
    """As Kubernetes writes a time: 2026-11-25T02:00:00Z."""
    reason: str = ""
    exit_code: int = 0
    """Exit code of the container that failed last; 0 also where nothing says it."""

    def remembered(self, job_id: str) -> Job:
        """The job, when the cluster has forgotten it."""
        said = [self.reason, f"at {self.at}, its Job is gone"]
        reason = ", ".join(filter(None, said))
        return Job(job_id=job_id, state=self.state, ended=True, reason=reason, exit_code=self.exit_code)


def see_end(job: Object, pods: Sequence[Object]) -> End | None:
    """None while it has not ended. `pods` are its own."""
    conditions = job.get("status", {}).get("conditions", [])
    held = {condition["type"]: condition for condition in conditions if condition["status"] == "True"}
    if done := held.get("Complete"):
        return End(state=COMPLETED, at=done.get("lastTransitionTime", ""))
    if failed := held.get("Failed"):
        code, why = _last_failure(pods)
        if told := EXIT_CODE.search(failed.get("message", "")):
            code = int(told[1])  # of the pod that decided: its peers were stopped after it
        reason = ", ".join(filter(None, (failed.get("reason", ""), why)))
        return End(state=FAILED, at=failed.get("lastTransitionTime", ""), reason=reason, exit_code=code)
    return None


def _last_failure(pods: Sequence[Object]) -> tuple[int, str]:
    """(exit code, reason beyond it) of the pod that failed last: OOMKilled, Evicted, ..."""
    found = [(0, "", "")]
    for pod in (pod for pod in pods if pod["status"].get("phase") == "Failed"):
        whole = str(pod["status"].get("reason", ""))
        states = [status.get("state", {}).get("terminated") for status in pod["status"].get("containerStatuses", [])]
        for ended in filter(None, states or [{}]):
            reason = whole or str(ended.get("reason", ""))
            found.append((int(ended.get("exitCode", 0)), reason, str(ended.get("finishedAt", ""))))
    code, reason, _ = max(found, key=lambda failure: failure[2])
    return code, "" if reason in PLAIN_REASONS else reason


def left_behind(pod: Object) -> str:
    """What its first container wrote to its termination log before it ended; nothing where it did not."""
    states = [status.get("state", {}) for status in pod["status"].get("containerStatuses", [])[:1]]
    return str(states[0].get("terminated", {}).get("message", "")) if states else ""


def read_ends(text: str) -> dict[str, End]:
    """By job. Raises ValueError or TypeError when it is not what `ends_text` wrote."""
    kept = parse_json(text)
    if not isinstance(kept, dict) or not all(isinstance(end, dict) for end in kept.values()):
        raise TypeError("an end takes an object for every job")
    kinds = {field.name: {"int": int, "str": str}[str(field.type)] for field in fields(End)}
    for end in kept.values():
        if odd := [name for name, value in end.items() if type(value) is not kinds.get(name)]:
            raise TypeError(f"{odd[0]} of an end is {shown(str(end[odd[0]]))}")
        if not 0 <= end.get("exit_code", 0) < 1 << 31:
            raise ValueError(f"exit_code of an end is {shown(str(end['exit_code']))}")
    return {str(job_id): End(**end) for job_id, end in kept.items()}


def ends_text(ends: Mapping[str, End]) -> str:
    return json.dumps({job_id: asdict(end) for job_id, end in ends.items()}, indent=1) + "\n"


def is_live(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running")


def first_pods(pods: Sequence[Object]) -> list[Object]:
    """Those of the first node, which speaks for the run."""
    return [pod for pod in pods if pod["metadata"].get("annotations", {}).get(INDEX, "0") == "0"]


def pods_of(job_id: str, pods: Sequence[Object]) -> list[Object]:
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") == job_id]


def see_job(
    job_id: str,
    job: Object | None,
    pods: Sequence[Object],
    *,
    limit_min: int,
    now: float,
    kept: End | None = None,
    workloads: Sequence[Object] = (),
) -> Job:
    """A Job and its pods in the words that Slurm has for jobs; `job` is None when the cluster has forgotten it.

    Then `kept` is what is known of its end. `workloads` are Kueue's, which say why a job is not started.
    """
    if job is None:
        return kept.remembered(job_id) if kept else Job(job_id=job_id, state=GONE, ended=True, reason=UNSEEN)
    if end := see_end(job, pods):
        return Job(job_id=job_id, state=end.state, ended=True, reason=end.reason, exit_code=end.exit_code)
    if job["spec"].get("suspend"):
        return Job(job_id=job_id, state="QUEUED", ended=False, reason=_why_queued(job, workloads) or "suspended")
    live = [pod for pod in pods if is_live(pod)]
    running = [pod for pod in live if pod["status"]["phase"] == "Running"]
    if not live and any(pod["status"].get("phase") == "Succeeded" for pod in pods):
        return Job(job_id=job_id, state=ENDING, ended=False)  # the Job's own word comes a moment later
    if not live or len(running) < len(live):
        return Job(job_id=job_id, state="PENDING", ended=False, reason=_why([p for p in live if p not in running]))
    began = max(_seconds(pod["status"]["startTime"]) for pod in running)
    return Job(
        job_id=job_id,
        state="RUNNING",
        ended=False,
        nodes=",".join(dict.fromkeys(pod["spec"].get("nodeName", "?") for pod in running)),
        elapsed=_clock(now - began),
        limit=_clock(limit_min * 60),
    )


def waits_for_kueue(job: Object) -> bool:
    return bool(job["spec"].get("suspend")) and QUEUE_LABEL in job["metadata"].get("labels", {})


def _why_queued(job: Object, workloads: Sequence[Object]) -> str:
    """Why Kueue does not start it yet, in its words."""
    for workload in workloads:
        if workload["metadata"].get("labels", {}).get(JOB_UID) == job["metadata"].get("uid", ""):
            for condition in workload.get("status", {}).get("conditions", []):
                if (condition["type"], condition["status"]) == ("QuotaReserved", "False"):
                    return str(condition.get("message", ""))[:REASON_CHARS]
    return ""


def _why(pending: Sequence[Object]) -> str:
    """Why a pod does not run yet, in the cluster's words."""
    for pod in pending:
        for status in pod["status"].get("containerStatuses", []):
            if reason := status.get("state", {}).get("waiting", {}).get("reason"):
                return str(reason)
        for condition in pod["status"].get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason', '')}: {condition.get('message', '')}"[:REASON_CHARS]
    return ""


def _seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
