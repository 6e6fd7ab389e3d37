"""What a control plane's Job controller and scheduler do to the objects of api_server.py, at a clock of their own.

    controller = JobController(server)
    controller.step()                            # makes pods, counts ends, ends Jobs, removes those that were kept long
    controller.end_pod("j-0", 137, "OOMKilled")  # as the kubelet tells it
    controller.pass_time(10)

The rules are those of the documentation of Jobs, as a control plane 1.36 carried them out: podFailurePolicy in its
order, backoffLimit and backoffLimitPerIndex, podReplacementPolicy Failed, the wait of 10 s that doubles to 10 minutes
after failures that do not count too, completions and indexes, suspend, activeDeadlineSeconds,
ttlSecondsAfterFinished, and a Warning event for a pod that may not be made. Of the scheduler it has node names,
required anti-affinity over all nodes, and `no_room`, a reason why no node takes a pod. A kubelet's part (images,
mounts, signals, logs) is the test's, which tells it with `hold`, `warn`, `tell_to_end`, `end_pod` and `lose_node`.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from api_server import ApiServer, Object, Refused

BACK_OFF_S, MOST_BACK_OFF_S = 10, 600
JOB_NAME, INDEX = "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index"
ENDED = ("Failed", "Succeeded")


@dataclass(kw_only=True)
class JobController:
    """One control loop over all Jobs of the server."""

    server: ApiServer
    now: float = 1795564800.0  # 2026-11-25T00:00:00Z
    nodes: tuple[str, ...] = ("gpu-1", "gpu-2")
    no_room: str = ""
    """The scheduler's reason why it places no pod; empty where there is room."""
    starts: bool = True
    """Whether a placed pod runs at once; if not, its container is being made."""
    with_kubelet: bool = False
    """Whether something ends the pods that are deleted; if not, they are gone at once."""
    back_off_s: float = BACK_OFF_S
    """The first wait; the longest is sixty times as long."""
    ends: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    """By name of a Job, when its pods ended and whether they failed."""
    made: int = 0
    counted: dict[str, str] = field(default_factory=dict)
    """By name of an ended pod, how it was counted: Succeeded, Count, Ignore, FailJob or FailIndex."""

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    def step(self) -> None:
        with self.server.lock:
            for (plural, namespace, name), job in list(self.server.objects.items()):
                if plural == "jobs":
                    self._sync(namespace, name, job)
            self._collect()
            self._schedule()

    def pods(self, job: str, namespace: str = "default") -> list[Object]:
        """The pods of a Job, oldest first."""
        found = [pod for pod in self.server.named("pods", namespace).values() if _labels(pod).get(JOB_NAME) == job]
        return sorted(found, key=lambda pod: int(pod["metadata"]["name"].rpartition("-")[2]))

    def live(self, job: str) -> list[Object]:
        return [pod for pod in self.pods(job) if pod["status"]["phase"] not in ENDED]

    def hold(self, name: str, reason: str, message: str) -> None:
        """A placed pod's container does not start, and the kubelet says why."""
        waiting = {"reason": reason, "message": message}
        status = {"phase": "Pending", "containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}]}
        self.server.named("pods")[name]["status"] = status

    def warn(self, about: Object, reason: str, message: str) -> None:
        """A Warning event about a pod or a Job."""
        metadata = about["metadata"]
        event = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": self._stamp()}
        whom = {"kind": about["kind"], "name": metadata["name"], "uid": metadata["uid"]}
        self.made += 1
        name = f"{metadata['name']}.{self.made}"
        self.server.add("events", name, {**event, "involvedObject": whom}, metadata["namespace"])

    def tell_to_end(self, name: str, grace_s: float) -> None:
        """Somebody deletes a running pod, or drains its node: it ends by itself within the grace period."""
        self.server.named("pods")[name]["metadata"]["deletionTimestamp"] = self._stamp(grace_s)

    def end_pod(
        self, name: str, code: int, reason: str = "", *, disrupted: str = "", message: str = "", evicted: str = ""
    ) -> None:
        """End a pod's container; `disrupted` is the reason of its DisruptionTarget, `message` its termination
        message, `evicted` what the kubelet says of a pod that it has evicted."""
        pod = self.server.named("pods")[name]
        state = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message}
        pod["status"] |= {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "trainer", "state": {"terminated": {**state, "finishedAt": self._stamp()}}}],
        }
        if disrupted:
            pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": disrupted}]
        if evicted:
            pod["status"] |= {"reason": "Evicted", "message": evicted}
        self.step()

    def lose_node(self, node: str) -> None:
        """Make a node silent: it is not ready, and its pods are marked for deletion without reacting to it."""
        unready = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
        self.server.add("nodes", node, {"status": unready})
        for pod in self.server.named("pods").values():
            if pod["spec"].get("nodeName") == node and pod["status"]["phase"] == "Running":
                pod["metadata"]["deletionTimestamp"] = self._stamp()

    def condition(self, job: str) -> str:
        """Complete, or the reason of the Job's failure; empty while it goes on."""
        for condition in self.server.named("jobs")[job].get("status", {}).get("conditions", []):
            return str(condition["reason"] or condition["type"])
        return ""

    def _sync(self, namespace: str, name: str, job: Object) -> None:
        spec, status = job["spec"], job.setdefault("status", {})
        if conditions := status.get("conditions"):
            kept_s = spec.get("ttlSecondsAfterFinished")
            if kept_s is not None and self.now >= _seconds(conditions[0]["lastTransitionTime"]) + kept_s:
                self._remove(namespace, name)
            return
        pods = self.pods(name, namespace)
        for pod in pods:
            if pod["status"]["phase"] in ENDED and pod["metadata"]["name"] not in self.counted:
                self._count(job, pod)
        pods = self._without_settled(pods)
        if status.get("conditions"):
            return
        if spec.get("suspend"):
            self._delete([pod for pod in pods if pod["status"]["phase"] not in ENDED])
            return
        status.setdefault("startTime", self._stamp())
        limit_s = spec.get("activeDeadlineSeconds")
        if limit_s is not None and self.now >= _seconds(status["startTime"]) + limit_s:
            self._fail(job, "DeadlineExceeded", "Job was active longer than specified deadline")
            return
        done = {_index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        wanted = spec.get("completions", 1)
        lost = {_index(pod) for pod in pods if self.counted.get(pod["metadata"]["name"]) == "FailIndex"}
        if len(done) >= wanted:
            status["conditions"] = [self._condition("Complete", "", "")]
        elif len(done | lost) >= wanted:
            self._fail(job, "FailedIndexes", "Job has failed indexes")
        elif self.now >= self._not_before(name):
            busy = {_index(pod) for pod in pods if pod["status"]["phase"] not in ENDED}
            free = [index for index in range(wanted) if index not in busy | done | lost]
            for index in free[: max(0, spec.get("parallelism", 1) - len(busy))]:
                self._make(namespace, name, job, index)

    def _count(self, job: Object, pod: Object) -> None:
        spec, name = job["spec"], pod["metadata"]["name"]
        failed_now = pod["status"]["phase"] == "Failed"
        self.ends.setdefault(job["metadata"]["name"], []).append((_ended_at(pod), failed_now))
        action = "Succeeded" if pod["status"]["phase"] == "Succeeded" else "Count"
        rule = -1
        if action == "Count":
            rule, action = next(_matching(spec.get("podFailurePolicy", {}).get("rules", []), pod), (-1, "Count"))
        failed = job["status"].get("failed", 0) + (action == "Count")
        job["status"]["failed"] = failed
        if action == "Count" and "backoffLimitPerIndex" in spec:
            mine = [p for p in self.pods(job["metadata"]["name"]) if _index(p) == _index(pod)]
            used = sum(self.counted.get(p["metadata"]["name"]) == "Count" for p in mine)
            action = "FailIndex" if used >= spec["backoffLimitPerIndex"] else "Count"
        self.counted[name] = action
        if action == "FailJob":
            code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
            where = f"Container trainer for pod {pod['metadata']['namespace']}/{name}"
            self._fail(
                job, "PodFailurePolicy", f"{where} failed with exit code {code} matching FailJob rule at index {rule}"
            )
        elif "backoffLimitPerIndex" not in spec and failed > spec.get("backoffLimit", 6):
            self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _without_settled(self, pods: list[Object]) -> list[Object]:
        """Remove pods that were deleted and have ended, which the controller had to count first."""
        settled = [pod for pod in pods if "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] in ENDED]
        self._remove_pods(settled)
        return [pod for pod in pods if pod not in settled]

    def _collect(self) -> None:
        """Delete pods whose Job is gone, as the garbage collector does."""
        for (plural, namespace, _), pod in list(self.server.objects.items()):
            job = _labels(pod).get(JOB_NAME, "")
            if plural == "pods" and job and ("jobs", namespace, job) not in self.server.objects:
                (self._remove_pods if pod["status"]["phase"] in ENDED else self._delete)([pod])

    def _not_before(self, name: str) -> float:
        """The time from which the next pod may be made: a wait that doubles with every failure since the last
        success."""
        ends = self.ends.get(name, [])
        failures = 0
        for _, failed in sorted(ends):
            failures = failures + 1 if failed else 0
        if not failures:
            return 0.0
        most = MOST_BACK_OFF_S / BACK_OFF_S
        return max(at for at, _ in ends) + self.back_off_s * min(2 ** (failures - 1), most)

    def _make(self, namespace: str, name: str, job: Object, index: int) -> None:
        template = job["spec"]["template"]
        self.made += 1
        try:
            if refused := self.server.refusals.get("POST pods"):
                raise refused
        except Refused as error:
            self.warn(job, "FailedCreate", f"Error creating: {error}")
            return
        metadata = template.get("metadata", {})
        indexed = job["spec"].get("completionMode") == "Indexed"
        made = {
            "labels": {**metadata.get("labels", {}), JOB_NAME: name},
            "annotations": {**metadata.get("annotations", {}), **({INDEX: str(index)} if indexed else {})},
        }
        pod = {"metadata": made, "spec": dict(template["spec"]), "status": {"phase": "Pending"}}
        self.server.add("pods", f"{name}-{self.made}", pod, namespace)

    def _schedule(self) -> None:
        for (plural, _, name), pod in list(self.server.objects.items()):
            if plural != "pods" or pod["status"]["phase"] != "Pending" or "nodeName" in pod["spec"]:
                continue
            count = len(self.nodes)
            apart = f"0/{count} nodes are available: {count} node(s) didn't match pod anti-affinity rules."
            if said := self.no_room or apart * self._kept_apart(pod):
                why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
                pod["status"]["conditions"] = [why]
                continue
            pod["spec"]["nodeName"] = self.nodes[int(name.rpartition("-")[2]) % count]
            pod["status"] = {"phase": "Running", "startTime": self._stamp()}
            if not self.starts:
                self.hold(name, "ContainerCreating", "")

    def _kept_apart(self, pod: Object) -> bool:
        affinity = pod["spec"].get("affinity", {}).get("podAntiAffinity", {})
        others = [
            _labels(other)
            for other in self.server.named("pods", pod["metadata"]["namespace"]).values()
            if "nodeName" in other["spec"] and other["status"]["phase"] not in ENDED
        ]
        return any(
            _selects(term["labelSelector"], labels)
            for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
            for labels in others
        )

    def _fail(self, job: Object, reason: str, message: str) -> None:
        job["status"]["conditions"] = [self._condition("Failed", reason, message)]
        self._delete(self.live(job["metadata"]["name"]))

    def _condition(self, kind: str, reason: str, message: str) -> Object:
        at = self._stamp()
        return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}

    def _delete(self, pods: list[Object]) -> None:
        if not self.with_kubelet:
            self._remove_pods(pods)
            return
        for pod in pods:
            grace_s = pod["spec"]["terminationGracePeriodSeconds"]
            pod["metadata"].setdefault("deletionTimestamp", self._stamp(grace_s))

    def _remove_pods(self, pods: list[Object]) -> None:
        for pod in pods:
            del self.server.objects["pods", pod["metadata"]["namespace"], pod["metadata"]["name"]]

    def _remove(self, namespace: str, name: str) -> None:
        self._remove_pods(self.pods(name, namespace))
        del self.server.objects["jobs", namespace, name]

    def _stamp(self, later_s: float = 0) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now + later_s))


def _matching(rules: list[Mapping[str, Any]], pod: Object) -> Iterator[tuple[int, str]]:
    conditions = {c["type"] for c in pod["status"].get("conditions", []) if c["status"] == "True"}
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    for index, rule in enumerate(rules):
        patterns = [pattern["type"] for pattern in rule.get("onPodConditions", [])]
        codes = rule.get("onExitCodes")
        if conditions & set(patterns) or (codes and (code in codes["values"]) == (codes["operator"] == "In")):
            yield index, str(rule["action"])


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        (labels.get(term["key"]) in term["values"]) == (term["operator"] == "In")
        for term in selector.get("matchExpressions", [])
    )


def _labels(content: Object) -> dict[str, str]:
    return dict(content["metadata"].get("labels", {}))


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(INDEX, 0))


def _ended_at(pod: Object) -> float:
    return _seconds(pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"])


def _seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
