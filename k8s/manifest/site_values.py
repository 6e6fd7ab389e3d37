"""The values that each Kubernetes-only key of the site file takes, so that the API server never refuses a manifest
for a mistake in that file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.request.scheduler_values import NULLS
from trainer.text import known_are, shown

ACCESS_MODES = ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NAME = re.compile(rf"(?=.{{1,253}}$){SUBDOMAIN}")
LABEL_KEY = re.compile(rf"((?=[^/]{{1,253}}/){SUBDOMAIN}/)?[A-Za-z0-9]([-_.A-Za-z0-9]{{0,61}}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
# First folders of mounts that would hide files of the image or the run.
RESERVED = (
    *("bin", "cache", "dev", "etc", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"),
    "workspace",
)
OUR_LABELS = ("app.kubernetes.io/", "batch.kubernetes.io/", "kueue.x-k8s.io/", "trainyard-")
SET_LABELS = ("controller-uid", "job-name")
MOST_UID = 2**31 - 1
SAID_OTHERWISE = {
    **{"cpu": "CPUS", "memory": "MEM", "nvidia.com/gpu": "GPUS", "ephemeral-storage": "ephemeral_storage:"}
}
SLICE_RESOURCE = "nvidia.com/mig-"  # how the resources of slices of cards begin, where a node offers several sizes
# GPUs by another name than nvidia.com/gpu. gpu.intel.com/i915_monitoring and its like are none.
GPUS = re.compile(rf"({re.escape(SLICE_RESOURCE)}|nvidia\.com/gpu\.).*|(amd|intel|gpu\.intel)\.com/(gpu|i915|xe)")
# Fields of a pod that `pod:` takes; the API server checks their content in its dry run.
POD_FIELDS = (
    *("dnsConfig", "dnsPolicy", "hostAliases", "hostUsers", "os", "overhead", "preemptionPolicy", "readinessGates"),
    *("schedulingGates", "setHostnameAsFQDN", "topologySpreadConstraints"),
)
WHOLE_FIELDS = ("maxSkew", "minDomains")
YES_OR_NO_FIELDS = ("hostUsers", "setHostnameAsFQDN")
SAID_BY_KEY = {
    **{"nodeSelector": "node_selector:", "tolerations": "tolerations:", "imagePullSecrets": "image_pull_secrets:"},
    **{"priorityClassName": "priority_class:", "runtimeClassName": "runtime_class:", "volumes": "volumes:"},
    **{"schedulerName": "scheduler_name:", "serviceAccountName": "service_account:", "securityContext": "run_as_user:"},
}
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
TOLERATED_S = "tolerationSeconds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """Another claim of the cluster that is mounted too."""

    claim: str
    mount: str
    read_only: bool


class Wrong(Exception):
    """A wrong value; its text is what the key takes."""


def _name(content: object) -> str:
    if isinstance(content, str) and content.lower() in NULLS:
        raise Wrong(f"{shown(content)} is no name: give one, or remove the line")
    if isinstance(content, str) and NAME.fullmatch(content):
        return content
    # The value is not repeated: it may be a token, put in place of the name of its Secret.
    raise Wrong("takes the name of an object in the cluster: a-z, 0-9, - and .")


def _names(content: object) -> tuple[str, ...]:
    return tuple(_name(part) for part in (content if isinstance(content, list) else [content]))


def _choice(*allowed: str) -> Callable[[object], str]:
    def check(content: object) -> str:
        if isinstance(content, str) and content in allowed:
            return content
        raise Wrong(f"takes one of {', '.join(allowed)}, got {shown(str(content))}")

    return check


def _yes_or_no(content: object) -> bool:
    return _choice("true", "false")(content) == "true"


def _pairs(values: re.Pattern[str] | None) -> Callable[[object], dict[str, str]]:
    """A check for lines of `label: value`; with `values` None any printable text is a value."""

    def check(content: object) -> dict[str, str]:
        if not isinstance(content, dict):
            raise Wrong("takes lines of `label: value`")
        for key, value in content.items():
            if not isinstance(key, str) or not LABEL_KEY.fullmatch(key):
                raise Wrong(f"{shown(str(key))} is no label: example.org/name")
            if not isinstance(value, str) or not (values.fullmatch(value) if values else value.isprintable()):
                raise Wrong(f"{key} takes at most 63 letters, digits and -_." if values else f"{key} takes one line")
        return dict(content)

    return check


def _selectors(content: object) -> dict[str, dict[str, str]]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise Wrong("takes a mapping of labels for every GPU type")
    return {str(key): _pairs(LABEL_VALUE)(labels) for key, labels in content.items()}


def _tolerations(content: object) -> tuple[dict[str, Any], ...]:
    allowed = ("key", "operator", "value", "effect", TOLERATED_S)
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Wrong(f"takes a list of mappings with {', '.join(allowed)}")
    # To Kubernetes an empty value is as good as none.
    parts = [{key: text for key, text in part.items() if text != ""} for part in content]
    for part in parts:
        if odd := [key for key in part if key not in allowed]:
            raise Wrong(f"unknown {shown(str(odd[0]))}: known are {', '.join(allowed)}")
        if not LABEL_KEY.fullmatch(str(part.get("key", ""))) and ("key" in part or part.get("operator") != "Exists"):
            raise Wrong("each has the key of a taint; without a key, operator: Exists tolerates all taints")
        _choice("Exists", "Equal")(part.get("operator", "Equal"))
        _choice(*EFFECTS)(part.get("effect", "NoSchedule"))
        if "value" in part and part.get("operator") == "Exists":
            raise Wrong("a value goes with operator Equal, and none with Exists")
        if not LABEL_VALUE.fullmatch(str(part.get("value", ""))):
            raise Wrong("a value takes at most 63 letters, digits and -_.")
        if TOLERATED_S in part and part.get("effect") != "NoExecute":
            raise Wrong(f"{TOLERATED_S} goes with effect NoExecute")
        if not re.fullmatch(r"-?[0-9]{1,9}", str(part.get(TOLERATED_S, "0"))):
            raise Wrong(f"{TOLERATED_S} takes a whole number")
    return tuple({**part, **({TOLERATED_S: int(part[TOLERATED_S])} if TOLERATED_S in part else {})} for part in parts)


def _volumes(content: object) -> tuple[Volume, ...]:
    found = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict) or not {"claim", "mount"} <= set(part) <= {"claim", "mount", "read_only"}:
            raise Wrong("takes a list of mappings with claim, mount and, if you like, read_only: true")
        if not isinstance(part["mount"], str) or not MOUNT.fullmatch(part["mount"]):
            raise Wrong("mount takes an absolute path: /datasets")
        if part["mount"].split("/")[1] in RESERVED:
            raise Wrong(f"mount {part['mount']} would hide what the image or the run has there: take another")
        read_only = _yes_or_no(part.get("read_only", "true"))
        found.append(Volume(claim=_name(part["claim"]), mount=part["mount"], read_only=read_only))
    if len({volume.mount for volume in found}) < len(found):
        raise Wrong("two of them have the same mount")
    return tuple(found)


def _pod_labels(content: object) -> dict[str, str]:
    labels = _pairs(LABEL_VALUE)(content)
    if ours := [key for key in labels if key in SET_LABELS or key.startswith(OUR_LABELS)]:
        raise Wrong(f"{ours[0]} is set by trainyard or the cluster: take another label")
    return labels


def _resources(content: object) -> dict[str, str]:
    if not isinstance(content, dict):
        raise Wrong("takes lines of `resource: number`, such as `rdma/hca: 1`")
    for name, amount in content.items():
        if name in SAID_OTHERWISE:
            raise Wrong(f"{name} is said by {SAID_OTHERWISE[name]}")
        if GPUS.fullmatch(str(name)):
            raise Wrong(f"{name} would come beside nvidia.com/gpu: gpu_resources: says which GPU_TYPE it is")
        if not isinstance(name, str) or "/" not in name or not LABEL_KEY.fullmatch(name):
            raise Wrong(f"{shown(str(name))} is no extended resource: example.org/name")
        if "kubernetes.io/" in name or name.startswith("requests."):
            raise Wrong(
                f"{name} is a name that Kubernetes keeps for itself: give an extended resource, example.org/name"
            )
        if not isinstance(amount, str) or not re.fullmatch(r"[1-9][0-9]{0,5}", amount):
            raise Wrong(f"{name} takes a whole number")
    return dict(content)


def _gpu_resources(content: object) -> dict[str, str]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise Wrong("takes lines of `GPU type: resource`, such as `a100-3g: nvidia.com/mig-3g.40gb`")
    for kind, name in content.items():
        if not isinstance(name, str) or "/" not in name or not LABEL_KEY.fullmatch(name):
            raise Wrong(f"{kind} takes a resource of the nodes, such as nvidia.com/mig-3g.40gb or amd.com/gpu")
    return dict(content)


def _gib(content: object) -> int:
    if isinstance(content, str) and re.fullmatch(r"[1-9][0-9]{0,4}", content):
        return int(content)
    raise Wrong("takes whole GiB, such as 50")


def _user(content: object) -> int | str:
    if content == "none":
        return "none"
    if isinstance(content, str) and re.fullmatch(r"[1-9][0-9]{0,9}", content) and int(content) <= MOST_UID:
        return int(content)
    raise Wrong(f"takes a uid above 0, at most {MOST_UID}, or none where the cluster gives one, as OpenShift does")


def _pod(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise Wrong("takes a mapping of a pod's fields")
    for key in content:
        if key in SAID_BY_KEY:
            raise Wrong(f"{key} is said by {SAID_BY_KEY[key]}")
        if key not in POD_FIELDS:
            raise Wrong(f"{shown(str(key))} is not taken{known_are(str(key), POD_FIELDS)}")
    return {key: _typed(key, part) for key, part in content.items()}


def _typed(key: str, content: Any) -> Any:
    """Values of the API server's types: the file is read as text, but some fields are numbers or true."""
    if isinstance(content, dict):
        return {name: _typed(name, part) for name, part in content.items()}
    if isinstance(content, list):
        return [_typed(key, part) for part in content]
    if not isinstance(content, str) or not content.isprintable():
        raise Wrong(f"{key} takes one line")
    if key in WHOLE_FIELDS:
        if not re.fullmatch(r"[0-9]{1,9}", content):
            raise Wrong(f"{key} takes a whole number")
        return int(content)
    return _yes_or_no(content) if key in YES_OR_NO_FIELDS else content


CHECKS: dict[str, Callable[[object], object]] = {
    "pvc_access": _choice(*ACCESS_MODES),
    "secret": _name,
    "priority_class": _name,
    "gpu_feature_discovery": _yes_or_no,
    "gpu_selectors": _selectors,
    "gpu_resources": _gpu_resources,
    "node_selector": _pairs(LABEL_VALUE),
    "tolerations": _tolerations,
    "image_pull_secrets": _names,
    "annotations": _pairs(None),
    "volumes": _volumes,
    "labels": _pod_labels,
    "runtime_class": _name,
    "scheduler_name": _name,
    "service_account": _name,
    "storage_class": _name,
    "resources": _resources,
    "ephemeral_storage": _gib,
    "run_as_user": _user,
    "pod": _pod,
}
