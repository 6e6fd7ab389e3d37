"""The site file on Kubernetes: `k8s/site.yaml`, or the one that SITE names; SITE=none for none.

Variables of the request as on Slurm, and beside them what only a pod can be told (CLUSTER_KEYS). Every key and every
part of a nested value is checked here: what is rendered is never refused by the API server for a slip in this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.job import JobSpec
from planner.request.scheduler_values import NULLS
from planner.request.site import Site, read_site
from planner.request.variables import parse_given, site_keys
from planner.values import expand_home
from trainer.outcome import ConfigError
from trainer.text import known_are, shown

DEFAULT_SITE = "k8s/site.yaml"
DEFAULT_SECRET = "trainyard"
SITE_KEYS = site_keys("k8s")
CLUSTER_KEYS = (
    *("pvc_access", "secret", "priority_class", "gpu_feature_discovery", "gpu_selectors", "node_selector"),
    *("tolerations", "image_pull_secrets", "annotations", "volumes"),
)
ACCESS_MODES = ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NAME = re.compile(rf"(?=.{{1,253}}$){SUBDOMAIN}")
LABEL_KEY = re.compile(rf"((?=[^/]{{1,253}}/){SUBDOMAIN}/)?[A-Za-z0-9]([-_.A-Za-z0-9]{{0,61}}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
# First folders of a mount that would hide what the image or the run has there.
RESERVED = (
    *("bin", "cache", "dev", "etc", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"),
    "workspace",
)
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A claim of the cluster's that is mounted besides."""

    claim: str
    mount: str
    read_only: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a pod is told beyond the request; without a site file, nothing."""

    pvc_access: str | None = None
    """Access mode of the claim `pvc` in the site file; None: not known."""
    secret: str = DEFAULT_SECRET
    """Name of the Secret with HF_TOKEN and WANDB_API_KEY, which need not exist."""
    priority_class: str | None = None
    gpu_feature_discovery: bool = False
    gpu_gib: Mapping[str, float] = field(default_factory=dict)
    """GiB of one GPU by GPU_TYPE."""
    gpu_selectors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Node labels by GPU_TYPE."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()


def find_site(given: Mapping[str, str], project_dir: Path, environ: Mapping[str, str]) -> Site:
    """The site's defaults, nothing where there is no file.

    Raises:
        ConfigError: SITE names a file that is not there, or the file is wrong.
    """
    asked = parse_given({name: text for name, text in given.items() if name == "SITE"}).site
    source = asked or DEFAULT_SITE
    path = project_dir / expand_home(source, environ)
    if asked == "none" or (not asked and not path.exists()):
        return Site()
    return read_site(path, source=source, keys=SITE_KEYS, user="", nested=CLUSTER_KEYS)


def read_cluster(site: Site, given: Mapping[str, str]) -> Cluster:
    """The nested half of the site file. Raises ConfigError naming the file, the key and what it takes."""
    found: dict[str, Any] = {}
    for key, content in site.nested.items():
        try:
            found[key] = CHECKS[key](content)
        except _Wrong as wrong:
            raise ConfigError(f"{site.source}: {key}: {wrong}") from None
    if "PVC" in given and given["PVC"] != site.texts.get("PVC"):
        found.pop("pvc_access", None)  # it describes the site's own claim
    return Cluster(gpu_gib=site.gpu_gib, **found)


def refuse_unknown_gpus(spec: JobSpec, site: Site, cluster: Cluster) -> None:
    """Raises ConfigError for a GPU that no node of the site file has. Says nothing where the file says nothing."""
    resources = spec.resources
    known = tuple(dict.fromkeys([*site.gpu_gib, *cluster.gpu_selectors]))
    if resources.gpu_type and known and resources.gpu_type not in known:
        raise ConfigError(f"GPU_TYPE={resources.gpu_type}: not in {site.source}{known_are(resources.gpu_type, known)}")
    largest = max(site.gpu_gib, key=lambda name: site.gpu_gib[name], default="")
    asked = resources.gpu_type if resources.gpu_type in site.gpu_gib else largest
    if resources.device == "cuda" and asked and resources.vram_gib > site.gpu_gib[asked]:
        which = asked if asked == resources.gpu_type else f"the largest GPU, {asked},"
        raise ConfigError(
            f"VRAM={resources.vram_gib:g}: {which} has {site.gpu_gib[asked]:g} GiB in {site.source}: "
            "ask for at most that, or for more of them with GPUS="
        )


class _Wrong(Exception):
    """What a nested value takes."""


def _name(content: object) -> str:
    if isinstance(content, str) and content.lower() in NULLS:
        raise _Wrong(f"{shown(content)} is no name: give one, or remove the line")
    if isinstance(content, str) and NAME.fullmatch(content):
        return content
    # Not said back: a token may have been put where the name of its Secret belongs.
    raise _Wrong("takes the name of an object in the cluster: a-z, 0-9, - and .")


def _names(content: object) -> tuple[str, ...]:
    return tuple(_name(part) for part in (content if isinstance(content, list) else [content]))


def _choice(*allowed: str) -> Callable[[object], str]:
    def check(content: object) -> str:
        if isinstance(content, str) and content in allowed:
            return content
        raise _Wrong(f"takes one of {', '.join(allowed)}, got {shown(str(content))}")

    return check


def _yes_or_no(content: object) -> bool:
    return _choice("true", "false")(content) == "true"


def _pairs(values: re.Pattern[str] | None) -> Callable[[object], dict[str, str]]:
    """label: value; where `values` is None any printable text."""

    def check(content: object) -> dict[str, str]:
        if not isinstance(content, dict):
            raise _Wrong("takes lines of `label: value`")
        for key, value in content.items():
            if not isinstance(key, str) or not LABEL_KEY.fullmatch(key):
                raise _Wrong(f"{shown(str(key))} is no label: example.org/name")
            if not isinstance(value, str) or not (values.fullmatch(value) if values else value.isprintable()):
                raise _Wrong(f"{key} takes at most 63 letters, digits and -_." if values else f"{key} takes one line")
        return dict(content)

    return check


def _selectors(content: object) -> dict[str, dict[str, str]]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise _Wrong("takes a mapping of labels for every GPU type")
    return {str(key): _pairs(LABEL_VALUE)(labels) for key, labels in content.items()}


def _tolerations(content: object) -> tuple[dict[str, str], ...]:
    allowed = ("key", "operator", "value", "effect")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise _Wrong(f"takes a list of mappings with {', '.join(allowed)}")
    for part in content:
        if odd := [key for key in part if key not in allowed]:
            raise _Wrong(f"unknown {shown(str(odd[0]))}: known are {', '.join(allowed)}")
        if not LABEL_KEY.fullmatch(str(part.get("key", ""))):
            raise _Wrong("each has the key of a taint")
        _choice("Exists", "Equal")(part.get("operator", "Equal"))
        _choice(*EFFECTS)(part.get("effect", "NoSchedule"))
        if ("value" in part) == (part.get("operator") == "Exists"):
            raise _Wrong("a value goes with operator Equal, and none with Exists")
        if not LABEL_VALUE.fullmatch(str(part.get("value", ""))):
            raise _Wrong("a value takes at most 63 letters, digits and -_.")
    return tuple(content)


def _volumes(content: object) -> tuple[Volume, ...]:
    found = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict) or not {"claim", "mount"} <= set(part) <= {"claim", "mount", "read_only"}:
            raise _Wrong("takes a list of mappings with claim, mount and, if you like, read_only: true")
        if not isinstance(part["mount"], str) or not MOUNT.fullmatch(part["mount"]):
            raise _Wrong("mount takes an absolute path: /datasets")
        if part["mount"].split("/")[1] in RESERVED:
            raise _Wrong(f"mount {part['mount']} would hide what the image or the run has there: take another")
        read_only = _yes_or_no(part.get("read_only", "true"))
        found.append(Volume(claim=_name(part["claim"]), mount=part["mount"], read_only=read_only))
    if len({volume.mount for volume in found}) < len(found):
        raise _Wrong("two of them have the same mount")
    return tuple(found)


CHECKS: dict[str, Callable[[object], object]] = {
    "pvc_access": _choice(*ACCESS_MODES),
    "secret": _name,
    "priority_class": _name,
    "gpu_feature_discovery": _yes_or_no,
    "gpu_selectors": _selectors,
    "node_selector": _pairs(LABEL_VALUE),
    "tolerations": _tolerations,
    "image_pull_secrets": _names,
    "annotations": _pairs(None),
    "volumes": _volumes,
}
