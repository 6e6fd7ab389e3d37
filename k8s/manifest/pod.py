"""Plan -> the pod for one node: one container, with the supervisor as its first process. It satisfies the
`restricted` Pod Security Standard. Only named places are writable, and whatever must outlive a pod is in the claim,
because an emptyDir would lose the checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k8s.manifest.site import Cluster
from launcher.image import CACHE_DIR, DATA_DIR, RUNS_DIR, SUPERVISE, TMP_DIR, UID, WORK_DIR
from planner.job import JobSpec
from planner.memory.estimate import processes_gib
from planner.plan import Plan
from trainer.files import RECORD_ENV, RECORD_NAME
from trainer.node.stop import LEAD_ENV, LIMIT_ENV, stop_lead_s
from trainer.text import GIB

CONTAINER = "trainer"
DEFAULT_CLAIM = "trainyard"
MODELS_DIR = f"{WORK_DIR}/models"
CONFIG_DIR = "/etc/trainyard"
SETTINGS_KEY = "settings.yaml"  # its name in the ConfigMap; in the pod it has the path that CONFIG_FILE names
MASTER_PORT = 29500
SECRET_ENV = ("HF_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY")
NVIDIA = "nvidia.com/"
GPU = f"{NVIDIA}gpu"
LEAST_GRACE_S = 30
# Folders of the claim by their place in the pod. Downloaded models stay in the claim; compiled files stay on the
# node, since compilers lock and rename in ways that are slow on shared file systems.
CLAIM_MOUNTS: dict[str, tuple[str, bool]] = {
    RUNS_DIR: ("runs", False),
    DATA_DIR: ("data", True),
    MODELS_DIR: ("models", True),
    f"{CACHE_DIR}/huggingface": ("huggingface", False),
}
# Batches on their way from the loaders: 4 workers that are 2 batches ahead; NCCL's rings come on top.
LOADED_BATCHES = 4 * 2
NCCL_BYTES = 256 * 1024**2
PATCH_BYTES = 14 * 14 * 3 * 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The names of a run's objects."""

    run: str
    """Name of the ConfigMap, and of the Service where several nodes meet: one of each for all attempts."""
    job: str
    """Name of the Job; a resumed run gets another Job."""


def pod_spec(plan: Plan, cluster: Cluster, names: Names, *, apart: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The pod of each node; `apart` is the affinity that keeps it from other pods."""
    spec = plan.spec
    resources = _resources(plan, cluster)
    content: dict[str, Any] = {
        "restartPolicy": "Never",  # a failed pod stays for inspection, and podFailurePolicy requires it
        "terminationGracePeriodSeconds": max(LEAST_GRACE_S, stop_lead_s(spec.resources.time_limit_min)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": cluster.priority_class,
        "runtimeClassName": cluster.runtime_class,
        "schedulerName": cluster.scheduler_name,
        "serviceAccountName": cluster.service_account,
        "imagePullSecrets": [{"name": secret} for secret in cluster.image_pull_secrets],
        "subdomain": names.run if spec.resources.nodes > 1 else None,
        "securityContext": {
            "runAsNonRoot": True,
            **_user(cluster),
            "fsGroupChangePolicy": "OnRootMismatch",  # do not change every checkpoint at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {**cluster.node_selector, **cluster.gpu_selectors.get(spec.resources.gpu_type or "", {})},
        "affinity": {**_affinity(plan, cluster), **(apart or {})},
        "tolerations": [*_gpu_tolerations(plan, cluster), *cluster.tolerations],
        "containers": [
            {
                "name": CONTAINER,
                "image": spec.container.image,
                # A digest never changes; a tag may have been moved since the node pulled it.
                "imagePullPolicy": "IfNotPresent" if "@" in (spec.container.image or "") else "Always",
                "workingDir": WORK_DIR,
                "command": list(SUPERVISE),
                "args": [unexpanded(word) for word in plan.launch.words()],
                "env": _environment(plan, cluster, names),
                "resources": {"requests": resources, "limits": resources},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": _mounts(plan, cluster),
            }
        ],
        "volumes": _volumes(plan, cluster, names),
        **cluster.pod,
    }
    return {key: value for key, value in content.items() if value not in (None, [], {})}


def unexpanded(text: str) -> str:
    """`text`, escaped so that it arrives unchanged: in arguments and values Kubernetes expands $(NAME), and $$ means
    $."""
    return text.replace("$", "$$")


def mounted(path: str, cluster: Cluster) -> bool:
    """Whether a path of the request lies in a mounted place; relative paths start in the image's working directory."""
    return _mount_of(path, cluster) is not None


def writable(path: str, cluster: Cluster) -> bool:
    """Whether a path lies in a mounted place that pods may write to."""
    return _mount_of(path, cluster) in places_to_write(cluster)


def places_to_write(cluster: Cluster) -> list[str]:
    return [mount for mount, read_only in _places(cluster).items() if not read_only]


def _mount_of(path: str, cluster: Cluster) -> str | None:
    """The innermost mounted place that contains the path; None when there is none."""
    place = os.path.normpath(os.path.join(WORK_DIR, path))
    holding = [mount for mount in _places(cluster) if place == mount or place.startswith(f"{mount}/")]
    return max(holding, key=len, default=None)


def _places(cluster: Cluster) -> dict[str, bool]:
    """The places for paths of a request, and whether each is read-only."""
    own = {mount: CLAIM_MOUNTS[mount][1] for mount in (RUNS_DIR, DATA_DIR, MODELS_DIR)}
    return own | {volume.mount: volume.read_only for volume in cluster.volumes}


def shm_gib(plan: Plan) -> int:
    """GiB of shared memory: batches between loaders and ranks, and NCCL's buffers, for every GPU of the node."""
    spec = plan.spec
    picture = spec.shape.vision_patches * PATCH_BYTES
    batch = plan.chosen.micro_batch_size * spec.records.images_per_sample * picture
    return -(-max(1, spec.resources.gpus) * (LOADED_BATCHES * batch + NCCL_BYTES) // GIB)


def gpu_resource(spec: JobSpec, cluster: Cluster) -> str:
    """The resource by which a pod asks for its GPUs."""
    return cluster.gpu_resources.get(spec.resources.gpu_type or "", GPU)


def claim_name(spec: JobSpec) -> str:
    """The claim that holds runs, data and models."""
    return spec.kubernetes.pvc or DEFAULT_CLAIM


def least_mem_gib(plan: Plan) -> int:
    """GiB that a pod must have: /dev/shm counts as its memory, beside a process for every GPU."""
    return shm_gib(plan) + processes_gib(plan.spec)


def _user(cluster: Cluster) -> dict[str, int]:
    """The user of the processes, and the owner of the claim's files."""
    if cluster.run_as_user == "none":
        return {}  # OpenShift refuses a uid outside the namespace's range, and assigns one from it
    user = int(cluster.run_as_user or UID)
    return {"runAsUser": user, "runAsGroup": user, "fsGroup": user}


def _resources(plan: Plan, cluster: Cluster) -> dict[str, str]:
    """Requests that are also the limits: Kubernetes then takes nothing back from a training pod, and GPUs allow only
    this. All are text, as the server keeps them; kubectl would treat a number as a change at every repeated apply."""
    spec = plan.spec
    gpus = {gpu_resource(spec, cluster): str(spec.resources.gpus)} if spec.resources.device == "cuda" else {}
    disk = {"ephemeral-storage": f"{cluster.ephemeral_storage}Gi"} if cluster.ephemeral_storage else {}
    own = {"cpu": str(spec.resources.cpus), "memory": f"{spec.resources.mem_gib}Gi"}
    return {**own, **gpus, **disk, **cluster.resources}


def _gpu_tolerations(plan: Plan, cluster: Cluster) -> list[dict[str, str]]:
    """NVIDIA's taint, which nodes of slices have too, and that of the resource."""
    if plan.spec.resources.device != "cuda":
        return []
    keys = dict.fromkeys((GPU, gpu_resource(plan.spec, cluster)))
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def _affinity(plan: Plan, cluster: Cluster) -> dict[str, Any]:
    """Selects nodes whose GPUs have the planned usable memory, since a card of 40 GiB reports 39538 MiB. Only NVIDIA's
    labels say it."""
    resource = gpu_resource(plan.spec, cluster)
    if not cluster.gpu_feature_discovery or plan.spec.resources.device != "cuda" or not resource.startswith(NVIDIA):
        return {}
    least = plan.chosen.usable_bytes // 1024**2 - 1
    # A shared GPU may have another resource, but its labels keep the old name.
    label = f"{resource.removesuffix('.shared')}.memory"
    term = {"key": label, "operator": "Gt", "values": [str(least)]}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
        }
    }


def _environment(plan: Plan, cluster: Cluster, names: Names) -> list[dict[str, Any]]:
    spec = plan.spec
    values = {
        "PYTHONUNBUFFERED": "1",
        LIMIT_ENV: str(spec.resources.time_limit_min * 60),
        LEAD_ENV: str(stop_lead_s(spec.resources.time_limit_min)),
        RECORD_ENV: f"{CONFIG_DIR}/{RECORD_NAME}",
        **({"USER": CONTAINER} if cluster.run_as_user else {}),  # the image's list of users has no name for that uid
        **dict(plan.env),
    }
    if spec.resources.nodes > 1:
        # The first pod's name in the Service, which resolves it before the pod is ready.
        values |= {"MASTER_ADDR": f"{names.job}-0.{names.run}", "MASTER_PORT": str(MASTER_PORT)}
    secrets = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": cluster.secret, "key": key, "optional": True}}}
        for key in SECRET_ENV
    ]
    return [*({"name": key, "value": unexpanded(values[key])} for key in sorted(values)), *secrets]


def _mounts(plan: Plan, cluster: Cluster) -> list[dict[str, Any]]:
    config_file = plan.spec.training.config_file
    claim = [
        {"name": "claim", "mountPath": path, "subPath": folder, **({"readOnly": True} if read_only else {})}
        for path, (folder, read_only) in CLAIM_MOUNTS.items()
    ]
    settings = {
        "name": "config",
        "mountPath": os.path.normpath(os.path.join(WORK_DIR, config_file or "")),
        "subPath": SETTINGS_KEY,
        "readOnly": True,
    }
    extra = [
        {"name": f"extra-{i}", "mountPath": volume.mount, **({"readOnly": True} if volume.read_only else {})}
        for i, volume in enumerate(cluster.volumes)
    ]
    return [
        {"name": "cache", "mountPath": CACHE_DIR},  # before the mounts inside it
        *claim,
        {"name": "tmp", "mountPath": TMP_DIR},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        *([settings] if config_file else []),
        *extra,
    ]


def _volumes(plan: Plan, cluster: Cluster, names: Names) -> list[dict[str, Any]]:
    def claim(volume: str, claim: str, read_only: bool = False) -> dict[str, Any]:
        source = {"claimName": claim, **({"readOnly": True} if read_only else {})}
        return {"name": volume, "persistentVolumeClaim": source}

    disk = {"sizeLimit": f"{cluster.ephemeral_storage}Gi"} if cluster.ephemeral_storage else {}
    return [
        claim("claim", claim_name(plan.spec)),
        # With a limit, a pod that fills the node's disk is evicted alone, and no other pod in its place.
        {"name": "cache", "emptyDir": disk},
        {"name": "tmp", "emptyDir": disk},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm_gib(plan)}Gi"}},
        {"name": "config", "configMap": {"name": names.run}},
        *(claim(f"extra-{i}", v.claim, v.read_only) for i, v in enumerate(cluster.volumes)),
    ]
