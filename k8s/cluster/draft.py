"""`make site TO=k8s`: a first k8s/site.yaml from this cluster's nodes, claims and queues. Certain values are ready
for use; values that only a person knows are comments."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k8s.cluster.kubectl import QUEUES, Kubectl, KubectlError, Object, name_of
from k8s.manifest.claim import WIDE
from k8s.manifest.pod import DEFAULT_CLAIM, GPU, SLICE
from launcher.scheduler import Scheduler, Words
from planner.request.variables import parse_given
from planner.values import GPU_GIB, NO_BF16
from trainer.outcome import FINISHED, ConfigError
from trainer.text import format_table, printable_lines

PART_OF_A_CARD = re.compile(r"-MIG-|-SHARED$")  # a slice of a card, or a card that others use at the same time
PRODUCT, MEMORY = f"{GPU}.product", f"{GPU}.memory"


def site(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `site`."""
    if odd := [name for name in given if name != "NAMESPACE"]:
        raise ConfigError(f"{odd[0]}: site takes NAMESPACE only: make site TO=k8s > k8s/site.yaml")
    print(ask(Kubectl(environ=environ, namespace=parse_given(given).namespace)), end="")
    return FINISHED


def ask(kubectl: Kubectl) -> str:
    """The text of the file for this cluster. Raises ConfigError without kubectl, KubectlError when it fails."""
    nodes = kubectl.items("nodes")
    claims, queues = (_maybe(kubectl, kind) for kind in ("persistentvolumeclaims", QUEUES))
    return draft(nodes, claims, queues)


def draft(nodes: Sequence[Object], claims: Sequence[Object], queues: Sequence[Object]) -> str:
    blocks = [
        [
            "# Drafted by `make site TO=k8s`: read it through before using it. All keys: k8s/site.example.yaml.",
            "# image: registry.example.org/team/trainyard:0.1.0  # where you pushed what make image built",
        ],
        _gpus(nodes),
        _claims(claims),
        _queues(queues),
    ]
    return printable_lines("\n\n".join("\n".join(block) for block in blocks) + "\n")


def gpu_name(product: str) -> str:
    """NVIDIA-A100-SXM4-80GB -> a100: the longest word of the product that is a known card, else the whole product."""
    words = re.split(r"[^a-z0-9]+", product.lower())
    joined = [*words, *("".join(pair) for pair in itertools.pairwise(words))]
    known = [word for word in joined if word in GPU_GIB or word in NO_BF16]
    return max(known, key=len, default=full_name(product))


def full_name(product: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", product.lower()))


def sold_gib(reported_mib: int) -> float:
    """The nominal GiB of a card that reports this many MiB: 39538 -> 40."""
    return min((size for size in set(GPU_GIB.values()) if size * 1024 >= reported_mib), default=reported_mib / 1024)


def _gpus(nodes: Sequence[Object]) -> list[str]:
    found: dict[tuple[str, str, str], int] = {}
    for node in nodes:
        count = node["status"].get("allocatable", {}).get(GPU, "0")
        labels = node["metadata"].get("labels", {})
        if count != "0":
            key = (labels.get(PRODUCT, ""), labels.get(MEMORY, ""), count)
            found[key] = found.get(key, 0) + 1
    slices = _slices(nodes)
    if not found and not slices:
        return ["# No node offers nvidia.com/gpu here: is NVIDIA's device plugin or operator installed?"]
    rows = [("product", "MiB", "GPUs a node", "nodes")]
    rows += [(product or "-", mib or "-", gpus, str(number)) for (product, mib, gpus), number in found.items()]
    rows += [(resource, f"{mib}", "-", "-") for resource, mib in slices.values()]
    lines = [f"#   {line}" for line in format_table(rows).splitlines()]
    named: dict[str, tuple[str, int]] = {}
    for product, mib, _ in sorted(found):
        if product and mib.isdigit() and not PART_OF_A_CARD.search(product):
            short = gpu_name(product)
            taken = named.get(short, (product, 0))[0] != product
            named[full_name(product) if taken else short] = (product, int(mib))
    if not named and not slices:
        return [*lines, "# No whole GPU with labels of GPU Feature Discovery: say gpu_types and gpu_selectors by hand."]
    usable = {name: it for name, it in named.items() if gpu_name(it[0]) not in NO_BF16}
    old = [f"# {name}: no bfloat16, which training needs" for name in named if name not in usable]
    return [
        *lines,
        *old,
        "gpu_feature_discovery: true",
        *(["gpu_types:"] if usable or slices else []),
        *(f"  {name}: {sold_gib(mib):g}" for name, (_, mib) in usable.items()),
        *(f"  {name}: {math.ceil(mib / 1024)}" for name, (_, mib) in slices.items()),
        *(["gpu_resources:  # slices of cards (MIG), one for a run"] if slices else []),
        *(f"  {name}: {resource}" for name, (resource, _) in slices.items()),
        *(["gpu_selectors:"] if usable else []),
        *(line for name, (product, _) in usable.items() for line in (f"  {name}:", f"    {PRODUCT}: {product}")),
    ]


def _slices(nodes: Sequence[Object]) -> dict[str, tuple[str, int]]:
    """(resource, MiB) of the slices of cards that nodes offer, by a name for GPU_TYPE."""
    found = {}
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        for resource, count in sorted(node["status"].get("allocatable", {}).items()):
            mib = labels.get(f"{resource}.memory", "")
            if resource.startswith(SLICE) and count != "0" and mib.isdigit():
                card = gpu_name(PART_OF_A_CARD.split(labels.get(f"{resource}.product", "gpu"))[0])
                found[f"{card}-{resource.removeprefix(SLICE)}"] = (resource, int(mib))
    return found


def _claims(claims: Sequence[Object]) -> list[str]:
    modes = {name_of(claim): claim["spec"].get("accessModes", []) for claim in claims}
    lines = [f"#   {name}: {', '.join(access)}" for name, access in modes.items()]
    heading = ["# Claims in this namespace:", *lines] if lines else ["# No claim in this namespace yet."]
    if DEFAULT_CLAIM in modes:
        return [*heading, f"pvc_access: {WIDE if WIDE in modes[DEFAULT_CLAIM] else modes[DEFAULT_CLAIM][0]}"]
    return [
        *heading,
        f"# pvc: {next(iter(modes), DEFAULT_CLAIM)}  # or make claim TO=k8s SIZE=200Gi | kubectl apply -f -",
    ]


def _queues(queues: Sequence[Object]) -> list[str]:
    names = [name_of(queue) for queue in queues]
    said = f"Kueue has {', '.join(names)} here" if names else "no queue of Kueue here"
    return [f"# queue: {names[0] if names else 'team-a'}  # {said}"]


def _maybe(kubectl: Kubectl, kind: str) -> list[Object]:
    """The objects of this kind; an empty list when the cluster has no such kind, or this user may not list it."""
    try:
        return kubectl.items(kind)
    except KubectlError:
        return []
