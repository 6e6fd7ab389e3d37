"""What the cluster says, through kubectl: objects found by their labels, a Job and its pods as a line of status."""

from __future__ import annotations

import calendar
import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate_configs.runs.progress import Job
from k8s.manifest import INSTANCE, MANAGER
from k8s.pod import CONTAINER
from trainer.outcome import ConfigError, SchedulerError
from trainer.text import shown

Object = Mapping[str, Any]
OURS = f"app.kubernetes.io/managed-by={MANAGER}"
INDEX = "batch.kubernetes.io/job-completion-index"
GONE = "GONE"
NOISE = re.compile(r"[EWI][0-9]{4} ")  # what kubectl's libraries log, before it says the same in words


class KubectlError(SchedulerError):
    """kubectl's own words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubectl:
    """kubectl in one namespace: the one asked for, or that of its context."""

    environ: Mapping[str, str]
    namespace: str | None = None

    def run(self, *arguments: str, text: str | None = None) -> str:
        """Its stdout. Raises ConfigError without kubectl, KubectlError with its words when it fails."""
        done = subprocess.run(
            self.command(*arguments),
            env=dict(self.environ),
            input=text or "",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            lines = [line for line in (done.stderr or done.stdout).splitlines() if not NOISE.match(line)]
            said = " ".join(" ".join(lines).split()) or f"exit code {done.returncode}"
            raise KubectlError(f"kubectl {arguments[0]} failed: {said}")
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        """The argument list. Raises ConfigError without kubectl."""
        if not shutil.which("kubectl", path=self.environ.get("PATH")):
            raise ConfigError("no kubectl on PATH: make render TO=k8s prints the manifest without it")
        return ["kubectl", *(["--namespace", self.namespace] if self.namespace else []), *arguments]

    def find(self, kind: str, run_id: str | None = None) -> list[Object]:
        """The run's objects of a kind, or all runs', oldest first."""
        selector = OURS + (f",{INSTANCE}={run_id}" if run_id else "")
        items = self.items(kind, "--selector", selector)
        return sorted(items, key=lambda item: (item["metadata"].get("creationTimestamp", ""), name_of(item)))

    def items(self, kind: str, *options: str) -> list[Object]:
        return list(_read(self.run("get", kind, *options, "--output", "json"), "items")["items"])

    def get(self, kind: str, name: str) -> Object | None:
        said = self.run("get", kind, name, "--ignore-not-found", "--output", "json")
        return _read(said, "metadata") if said.strip() else None

    def log(self, pod: Object, lines: int) -> str:
        """The end of a pod's log; nothing where there is none yet."""
        try:
            return self.run("logs", name_of(pod), "--container", CONTAINER, f"--tail={lines}")
        except KubectlError:
            return ""


def _read(said: str, holding: str) -> Object:
    """What `kubectl get` says. Raises KubectlError when that is not the JSON asked for."""
    try:
        found: Object = json.loads(said)
        found[holding]
    except (ValueError, KeyError, TypeError):
        first = shown(said.partition("\n")[0])
        raise KubectlError(f"kubectl get said {first}, which is not the JSON asked for") from None
    return found


def name_of(item: Object) -> str:
    return str(item["metadata"]["name"])


def is_live(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running")


def first_pods(pods: Sequence[Object]) -> list[Object]:
    """Those of the first node, which speaks for the run."""
    return [pod for pod in pods if pod["metadata"].get("annotations", {}).get(INDEX, "0") == "0"]


def pods_of(job_id: str, pods: Sequence[Object]) -> list[Object]:
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") == job_id]


def see_job(job_id: str, job: Object | None, pods: Sequence[Object], *, limit_min: int, now: float) -> Job:
    """A Job and its pods in the words that Slurm has for jobs; `job` is None when the cluster has forgotten it."""
    if job is None:
        return Job(job_id=job_id, state=GONE, ended=True, reason="deleted")
    conditions = job.get("status", {}).get("conditions", [])
    held = {condition["type"]: condition for condition in conditions if condition["status"] == "True"}
    if "Complete" in held:
        return Job(job_id=job_id, state="COMPLETED", ended=True)
    if "Failed" in held:
        return Job(job_id=job_id, state="FAILED", ended=True, reason=held["Failed"].get("reason", ""))
    if job["spec"].get("suspend"):
        return Job(job_id=job_id, state="QUEUED", ended=False, reason="suspended")
    live = [pod for pod in pods if is_live(pod)]
    running = [pod for pod in live if pod["status"]["phase"] == "Running"]
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


def _why(pending: Sequence[Object]) -> str:
    """Why a pod does not run yet, in the cluster's words."""
    for pod in pending:
        for status in pod["status"].get("containerStatuses", []):
            if reason := status.get("state", {}).get("waiting", {}).get("reason"):
                return str(reason)
        for condition in pod["status"].get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason', '')}: {condition.get('message', '')}"[:120]
    return ""


def _seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
