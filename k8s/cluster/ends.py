"""The end of a Job, which the run's ConfigMap keeps when the Job is gone. A Job is removed a week after its end, or
by hand; a finished run still counts as finished."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from k8s.cluster.kubectl import Object
from launcher.progress import Job
from trainer.files import parse_json
from trainer.text import shown

ENDS_KEY = "ends.json"  # in the ConfigMap, beside run.json
COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"
OUT_OF_MEMORY, DEADLINE = "OUT_OF_MEMORY", "DEADLINE"
EXIT_CODE = re.compile(r"exit code ([0-9]+)")  # as a podFailurePolicy's condition says it
PLAIN_REASONS = ("", "Error", "Completed")  # of a container: they say no more than its exit code
OOM_KILLED = "OOMKilled"
NOT_DISRUPTED = ("DisruptionTarget", "False")
TELLING_CONDITIONS = ("DisruptionTarget", "Ready", "PodScheduled")
"""Of a pod: the one that changed when it failed comes first. A node that refuses a pod leaves only the last."""
DEADLINE_EXCEEDED = "DeadlineExceeded"
MESSAGE_CHARS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a Job ended."""

    state: str
    at: str
    """The time in Kubernetes' form: 2026-11-25T02:00:00Z."""
    reason: str = ""
    exit_code: int = 0
    """Exit code of the container that failed last; also 0 when it is unknown."""

    def remembered(self, job_id: str) -> Job:
        """The job, when the cluster has forgotten it."""
        said = [self.reason, f"at {self.at}, its Job is gone"]
        reason = ", ".join(filter(None, said))
        return Job(job_id=job_id, state=self.state, ended=True, reason=reason, exit_code=self.exit_code)


def see_end(job: Object, pods: Sequence[Object]) -> End | None:
    """How a Job ended; None while it has not ended. `pods` are its own pods."""
    conditions = job.get("status", {}).get("conditions", [])
    held = {condition["type"]: condition for condition in conditions if condition["status"] == "True"}
    if done := held.get("Complete"):
        return End(state=COMPLETED, at=done.get("lastTransitionTime", ""))
    if failed := held.get("Failed"):
        last = last_failure(pods)
        code = last.exit_code
        if told := EXIT_CODE.search(failed.get("message", "")):
            code = int(told[1])  # of the pod that decided: its peers were stopped after it
        state = OUT_OF_MEMORY if last.reason == OOM_KILLED else FAILED
        state = DEADLINE if failed.get("reason") == DEADLINE_EXCEEDED else state
        reason = ", ".join(filter(None, (failed.get("reason", ""), last.reason)))
        return End(state=state, at=failed.get("lastTransitionTime", ""), reason=reason, exit_code=code)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """How a pod failed."""

    exit_code: int = 0
    reason: str = ""
    """The reason beyond the exit code: OOMKilled, Evicted and why, PreemptionByScheduler, ..."""
    at: str = ""

    @property
    def text(self) -> str:
        return ", ".join(filter(None, (self.reason, f"exit code {self.exit_code}" if self.exit_code else "")))


def last_failure(pods: Sequence[Object]) -> Failure:
    """The failure of the pod that failed last; an empty Failure when none failed."""
    found = []
    for pod in (pod for pod in pods if pod["status"].get("phase") == "Failed"):
        whole = _reason_of(pod)
        states = [status.get("state", {}).get("terminated") for status in pod["status"].get("containerStatuses", [])]
        for ended in [state for state in states if state] or [{}]:
            reason = whole or str(ended.get("reason", ""))
            reason = "" if reason in PLAIN_REASONS else reason
            at = str(ended.get("finishedAt") or "") or _failed_at(pod)
            found.append(Failure(exit_code=int(ended.get("exitCode", 0)), reason=reason, at=at))
    return max(found, key=lambda failure: failure.at, default=Failure())


def _failed_at(pod: Object) -> str:
    """When a pod failed of whose container nobody saw the end, as its conditions tell; nothing where none does."""
    held = [part for part in pod["status"].get("conditions", []) if (part["type"], part["status"]) != NOT_DISRUPTED]
    at = {part["type"]: part.get("lastTransitionTime") for part in held}
    return str(next(filter(None, map(at.get, TELLING_CONDITIONS)), ""))


def _reason_of(pod: Object) -> str:
    """The cluster's reason for ending a pod; "" for a pod that ended by itself."""
    status = pod["status"]
    if reason := str(status.get("reason", "")):
        return f"{reason}: {status['message']}"[:MESSAGE_CHARS] if status.get("message") else reason
    for condition in status.get("conditions", []):
        if (condition["type"], condition["status"]) == ("DisruptionTarget", "True"):
            return str(condition.get("reason", ""))
    return ""


def left_behind(pod: Object) -> str:
    """The termination message of a pod's first container; "" when it left none."""
    states = [status.get("state", {}) for status in pod["status"].get("containerStatuses", [])[:1]]
    return str(states[0].get("terminated", {}).get("message", "")) if states else ""


def read_ends(text: str) -> dict[str, End]:
    """The ends by job id. Raises ValueError or TypeError for a text that `ends_text` did not write."""
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
