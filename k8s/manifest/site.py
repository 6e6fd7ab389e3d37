"""The site file on Kubernetes: `k8s/site.yaml`, or the file that SITE names; SITE=none for none. It holds variables
of the request, as on Slurm, and keys that only pods have (CLUSTER_KEYS). This file checks every key and every part of
a nested value, so that the API server never refuses a manifest for a mistake in the site file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k8s.manifest.site_values import CHECKS, Volume, Wrong
from planner.job import JobSpec
from planner.request.site import Site, read_site
from planner.request.variables import parse_given, site_keys
from planner.values import expand_home
from trainer.outcome import ConfigError
from trainer.text import known_are

DEFAULT_SITE = "k8s/site.yaml"
DEFAULT_SECRET = "trainyard"
SITE_KEYS = site_keys("k8s")
CLUSTER_KEYS = (
    *("pvc_access", "secret", "priority_class", "gpu_feature_discovery", "gpu_selectors", "gpu_resources"),
    *("node_selector", "tolerations", "image_pull_secrets", "annotations", "volumes", "labels", "runtime_class"),
    *("scheduler_name", "service_account", "storage_class", "resources", "ephemeral_storage", "run_as_user", "pod"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The options of pods that are not part of a request; all defaults without a site file."""

    pvc_access: str | None = None
    """Access mode of the claim `pvc` in the site file; None when it is not known."""
    secret: str = DEFAULT_SECRET
    """Name of the Secret with HF_TOKEN and WANDB_API_KEY, which need not exist."""
    priority_class: str | None = None
    gpu_feature_discovery: bool = False
    gpu_gib: Mapping[str, float] = field(default_factory=dict)
    """GiB of one GPU by GPU_TYPE."""
    gpu_selectors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Node labels by GPU_TYPE."""
    gpu_resources: Mapping[str, str] = field(default_factory=dict)
    """The resource that a node offers by GPU_TYPE, where it is not nvidia.com/gpu: nvidia.com/mig-3g.40gb, ..."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the pods, beside Trainyard's own."""
    runtime_class: str | None = None
    scheduler_name: str | None = None
    service_account: str | None = None
    storage_class: str | None = None
    """Storage class of a claim that `make claim` prints."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Resources of each pod beside CPUs, memory and GPUs: rdma/hca, vpc.amazonaws.com/efa, ..."""
    ephemeral_storage: int | None = None
    """GiB of the node's disk for /tmp, /cache and the container's log; None: no limit."""
    run_as_user: int | str | None = None
    """Uid and group of the pods; "none": the cluster assigns them, as OpenShift does; None: those of the image."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the pod."""


def find_site(given: Mapping[str, str], project_dir: Path, environ: Mapping[str, str]) -> Site:
    """The site's defaults; an empty Site when there is no file.

    Raises:
        ConfigError: SITE names a file that does not exist, or the file has a mistake.
    """
    asked = parse_given({name: text for name, text in given.items() if name == "SITE"}).site
    source = asked or DEFAULT_SITE
    path = project_dir / expand_home(source, environ, name="SITE")
    if asked == "none" or (not asked and not path.exists()):
        return Site()
    return read_site(path, source=source, keys=SITE_KEYS, user="", nested=CLUSTER_KEYS)


def read_cluster(site: Site, given: Mapping[str, str]) -> Cluster:
    """The nested part of the site file. Raises ConfigError naming the file, the key and what it takes."""
    found: dict[str, Any] = {}
    for key, content in site.nested.items():
        try:
            found[key] = CHECKS[key](content)
        except Wrong as wrong:
            raise ConfigError(f"{site.source}: {key}: {wrong}") from None
    if "PVC" in given and given["PVC"] != site.texts.get("PVC"):
        found.pop("pvc_access", None)  # pvc_access describes the site's own claim
    return Cluster(gpu_gib=site.gpu_gib, **found)


def refuse_unknown_gpus(spec: JobSpec, site: Site, cluster: Cluster) -> None:
    """Raises ConfigError for a GPU that no node in the site file has. Does nothing when the file lists no GPUs."""
    resources = spec.resources
    known = tuple(dict.fromkeys([*site.gpu_gib, *cluster.gpu_selectors, *cluster.gpu_resources]))
    if resources.gpu_type and known and resources.gpu_type not in known:
        raise ConfigError(
            f"not in {site.source}{known_are(resources.gpu_type, known)}", name="GPU_TYPE", given=resources.gpu_type
        )
    largest = max(site.gpu_gib, key=lambda name: site.gpu_gib[name], default="")
    asked = resources.gpu_type or largest
    if resources.device == "cuda" and asked in site.gpu_gib and resources.vram_gib > site.gpu_gib[asked]:
        which = asked if asked == resources.gpu_type else f"the largest GPU, {asked},"
        raise ConfigError(
            f"{which} has {site.gpu_gib[asked]:g} GiB in {site.source}",
            name="VRAM",
            given=f"{resources.vram_gib:g}",
            advice="ask for at most that, or for more of them with GPUS=",
        )
