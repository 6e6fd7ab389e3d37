"""The scheduler's reasons why no node takes a pod, and the command to type where waiting seldom changes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from k8s.cluster.kubectl import Object
from k8s.cluster.quantity import amount
from k8s.manifest.pod import CONTAINER

INSUFFICIENT = "Insufficient "
# What follows is why no other pod can make room. Newer schedulers first say why no claim of a device can, for example
# "no new claims to deallocate".
PREEMPTION = re.compile(r"(?:(?<=\.) [a-z ]+,)? preemption: ")
# Patterns of reasons about the pod's claim.
CLAIM = (
    ("unbound.* PersistentVolumeClaim", "{kubectl} describe persistentvolumeclaims (says why the claim is not bound)"),
    (
        "persistentvolumeclaim .* (not found|is being deleted)",
        "{kubectl} get persistentvolumeclaims (make claim SIZE=... prints one that is missing)",
    ),
    ("ReadWriteOncePod access mode", "{kubectl} describe persistentvolumeclaims (Used By: the pod that has the claim)"),
)
# Patterns of reasons that stay as they are when other jobs end. Each may hold for some of the nodes; the first of them
# is what the nodes lack that fit best.
LASTING = (
    (
        r"node\(s\) (?:had volume node affinity conflict|didn't match PersistentVolume's node affinity)",
        "kubectl describe persistentvolumes (the nodes that fit the run are not where the claim's disk is)",
    ),
    (
        # Kubernetes itself sets the taints with this prefix, and takes them away again. Newer versions name no taint.
        r"node\(s\) had untolerated taint(?:\(s\))?(?: \{(?!node\.kubernetes\.io/).*)?",
        "kubectl describe nodes (the run does not tolerate their taints: tolerations: in the site file)",
    ),
    (
        r"node\(s\) didn't match Pod's node affinity/selector",
        "kubectl get nodes --show-labels (no node has the labels that the run asks for: the site file names them)",
    ),
)


def without_preemption(said: str) -> str:
    """The scheduler's message up to where it says why no other pod can make room."""
    return PREEMPTION.split(said, maxsplit=1)[0]


def unscheduled(pod: Object) -> Object | None:
    """The condition in which the scheduler says why no node takes a pod; None for a pod that a node has taken, or
    that the scheduler has not looked at."""
    conditions = pod["status"].get("conditions", [])
    return next((one for one in conditions if (one["type"], one["status"]) == ("PodScheduled", "False")), None)


def lacks_room(pod: Object) -> bool:
    """Whether the scheduler says of a pod that nodes have too little of something left."""
    return INSUFFICIENT in (unscheduled(pod) or {}).get("message", "")


def advice_on_size(pod: Object, nodes: Sequence[Object]) -> str:
    """The command to type where no node of the cluster is as large as the pod; "" otherwise, or without `nodes`."""
    if not nodes or not lacks_room(pod):
        return ""
    # Webhooks of a cluster put containers of their own beside the trainer's.
    ours: Object = next((one for one in pod["spec"].get("containers", []) if one.get("name") == CONTAINER), {})
    for resource, asked in ours.get("resources", {}).get("limits", {}).items():
        offered = [str(node["status"].get("allocatable", {}).get(resource, "0")) for node in nodes]
        most = max(offered, key=amount)
        if amount(most) < amount(asked):
            less = f"no node that is there has {asked} of {resource}, the largest has {most}"
            return f"make cancel {{words}}, then make submit with less a node ({less})"
    return ""


def advice_on_placing(said: str, namespace: str) -> str:
    """The command to type; "" where the pod waits for other jobs, as it does while one node lacks room alone."""
    for pattern, command in CLAIM:
        if re.search(pattern, said):
            return command.format(kubectl=f"kubectl --namespace {namespace}")
    nodes = re.search(r"nodes are available: (.*?)\.?$", without_preemption(said))
    reasons = re.findall(r"[0-9]+ (.+?)(?=, [0-9]+ |$)", nodes[1]) if nodes else []
    held = [[command for pattern, command in LASTING if re.fullmatch(pattern, reason)] for reason in reasons]
    commands = [command for _, command in LASTING if [command] in held]
    return commands[0] if commands and all(held) else ""
