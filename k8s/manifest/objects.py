"""Plan -> the text of the manifest: ConfigMap, Job and, for several nodes, a headless Service. Pure: the same plan,
site file and settings give the same bytes. Dicts until the last line, no text templates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml.representer import SafeRepresenter

from k8s.manifest.pod import MASTER_PORT, SETTINGS_KEY, Names, pod_spec
from k8s.manifest.site import Cluster
from launcher.records import planned_record
from planner.job import JobSpec
from planner.plan import Plan
from trainer import __version__
from trainer.files import RECORD_NAME
from trainer.outcome import BAD_CONFIG, RUN_AGAIN

MANAGER = "trainyard"
INSTANCE = "app.kubernetes.io/instance"
PART_OF = "app.kubernetes.io/part-of"
SLOT_LABEL = "trainyard-slot"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# Failures of a pod (exit code 1) for each node: a lost node takes its peers with it, so each may be lost so many
# times.
RETRIES = 3
KEPT_S = 7 * 24 * 3600
# Length that leaves room in 63 characters for the suffixes of a run's name: --99 for a resumed Job, -1023 for its
# pods.
NAME_LIMIT = 63 - len("--99") - len("-1023")
# The end of a resumed Job's name, which no run's name may have: such a run would block it.
RESUMED = re.compile(r"--[0-9]+$")
# Words that both Kubernetes' YAML reader (1.1) and PyYAML read as text; every other word is quoted. The two differ on
# 1e-05 or y, and an argument that becomes a number is refused.
PLAIN = re.compile(r"-{0,2}[A-Za-z/][A-Za-z0-9_./-]*")
NOT_PLAIN = ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf")


def render(plan: Plan, cluster: Cluster, *, settings: str = "", job_ids: Sequence[str] = (), slot: str = "") -> str:
    """The whole manifest. `settings` is CONFIG_FILE's text, `job_ids` are the run's Jobs so far, oldest first.
    Members of a sweep with the same `slot` run one after another."""
    names = object_names(plan.spec, attempt=len(job_ids) + 1)
    objects = [
        config_map(plan, names, settings=settings, job_ids=(*job_ids, names.job), slot=slot),
        *([_service(plan.spec, names)] if plan.spec.resources.nodes > 1 else []),
        _job(plan, cluster, names, slot),
    ]
    return "---\n".join(_text(content) for content in objects)


def claim(name: str, *, size: str, access: str, namespace: str | None, storage_class: str | None = None) -> str:
    """The claim that holds runs, as a file of its own, so that deleting a job does not delete its data."""
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": MANAGER}}
    return _text(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {**metadata, **({"namespace": namespace} if namespace else {})},
            "spec": {
                "accessModes": [access],
                **({"storageClassName": storage_class} if storage_class else {}),
                "resources": {"requests": {"storage": size}},
            },
        }
    )


def object_names(spec: JobSpec, *, attempt: int = 1) -> Names:
    """Names that are unique for the run, and short enough for the host names of its pods."""
    run = spec.run_id if spec.run_id.startswith(spec.name) else f"{spec.name}-{spec.run_id}"
    if run[0].isdigit():
        run = f"run-{run}"  # a Service begins with a letter
    if len(run) > NAME_LIMIT or RESUMED.search(run):
        digest = hashlib.sha256(run.encode()).hexdigest()[:8]
        run = f"{run[: NAME_LIMIT - 9].rstrip('-')}-{digest}"
    return Names(run=run, job=run if attempt == 1 else f"{run}--{attempt}")


def labels(spec: JobSpec) -> dict[str, str]:
    """The labels by which all objects of a run are found."""
    return {
        "app.kubernetes.io/name": MANAGER,
        INSTANCE: spec.run_id,
        "app.kubernetes.io/component": "training",
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/version": __version__,
        **({PART_OF: spec.sweep} if spec.sweep else {}),
    }


def config_map(plan: Plan, names: Names, *, settings: str, job_ids: Sequence[str], slot: str = "") -> dict[str, Any]:
    """The ConfigMap with run.json, which stays when the Job is gone, and with the settings file."""
    record = {**planned_record(plan), "job_ids": list(job_ids)}
    rows = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    data = {RECORD_NAME: "{" + ",\n ".join(rows) + "}\n"}
    if plan.spec.training.config_file:
        data[SETTINGS_KEY] = settings
    metadata = _metadata(plan.spec, names.run, more=_slot_label(slot))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _service(spec: JobSpec, names: Names) -> dict[str, Any]:
    """A Service that names the pods before they are ready, because they find each other while they start."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec, names.run),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {key: value for key, value in labels(spec).items() if key in (SELECTED)},
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }


SELECTED = ("app.kubernetes.io/name", INSTANCE, "app.kubernetes.io/component")


def _slot_label(slot: str) -> dict[str, str]:
    return {SLOT_LABEL: slot} if slot else {}


def _job(plan: Plan, cluster: Cluster, names: Names, slot: str) -> dict[str, Any]:
    spec = plan.spec
    # Kueue suspends the Job itself, and starts it when there is room.
    queue = {QUEUE_LABEL: spec.kubernetes.queue} if spec.kubernetes.queue else {}
    indexed = {"completions": spec.resources.nodes, "parallelism": spec.resources.nodes, "completionMode": "Indexed"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(spec, names.job, more=queue, annotations=cluster.annotations),
        "spec": {
            **(indexed if spec.resources.nodes > 1 else {}),
            "backoffLimit": RETRIES * spec.resources.nodes,
            "podReplacementPolicy": "Failed",  # never two pods at one run's checkpoints
            "ttlSecondsAfterFinished": KEPT_S,
            "podFailurePolicy": {
                "rules": [
                    # Evicted, preempted, or its node drained: not the run's fault.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    _on_exit("Ignore", RUN_AGAIN),
                    _on_exit("FailJob", BAD_CONFIG),
                ]
            },
            "template": {
                "metadata": {
                    "labels": {**labels(spec), **cluster.labels, **_slot_label(slot)},
                    **({"annotations": dict(cluster.annotations)} if cluster.annotations else {}),
                },
                "spec": pod_spec(plan, cluster, names, apart=_apart(spec, slot)),
            },
        },
    }


def _apart(spec: JobSpec, slot: str) -> dict[str, Any]:
    """An affinity that keeps a pod waiting while another run of its slot has one. The domain is all nodes, whose
    kubelets all set that label. So the scheduler itself starts the next member, and Trainyard needs no running
    program and no role."""
    if not slot:
        return {}
    same = {SLOT_LABEL: slot, PART_OF: str(spec.sweep)}
    others = [{"key": INSTANCE, "operator": "NotIn", "values": [spec.run_id]}]  # its own peers are let in
    term = {"topologyKey": "kubernetes.io/os", "labelSelector": {"matchLabels": same, "matchExpressions": others}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _on_exit(action: str, code: int) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"operator": "In", "values": [code]}}


def _metadata(
    spec: JobSpec, name: str, *, more: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        **({"namespace": spec.kubernetes.namespace} if spec.kubernetes.namespace else {}),
        "labels": {**labels(spec), **(more or {})},
        **({"annotations": dict(annotations)} if annotations else {}),
    }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Uses PyYAML's C dumper if there is one, in half the time. Writes no anchors, since equal parts are equal by
    chance."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(dumper: SafeRepresenter, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"'
    if PLAIN.fullmatch(text) and text.lstrip("-").lower() not in NOT_PLAIN:
        style = ""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style or None)


_Dumper.add_representer(str, _string)


def _text(content: Mapping[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
