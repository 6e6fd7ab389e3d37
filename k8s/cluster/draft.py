"""`make site TO=k8s`: a first k8s/site.yaml from this cluster's nodes, claims and queues. Certain values are ready
for use; values that only a person knows are comments."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8s.cluster.kubectl import QUEUES, Kubectl, KubectlError, Object, name_of
from k8s.manifest.claim import WIDE
from k8s.manifest.pod import DEFAULT_CLAIM, GPU
from k8s.manifest.site_values import GPUS, SLICE_RESOURCE
from launcher.scheduler import Scheduler, Words
from planner.request.variables import parse_given
from planner.values import GPU_GIB, NO_BF16
from trainer.outcome import FINISHED, ConfigError
from trainer.text import format_table, printable_lines

PART_OF_A_CARD = re.compile(r"-MIG-|-SHARED$")  # a slice of a card, or a card that others use at the same time
PRODUCT, MEMORY = f"{GPU}.product", f"{GPU}.memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """One kind of GPU, as a node offers it."""

    resource: str
    product: str
    """The label of GPU Feature Discovery; empty without one."""
    memory: str
    """The label's MiB; empty without one."""
    count: str

    @property
    def is_whole(self) -> bool:
        return self.resource == GPU and self._labelled and not PART_OF_A_CARD.search(self.product)

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice of a card that has its own resource, which one run has for itself."""
        return self.resource.startswith(SLICE_RESOURCE) and self._labelled and not self.product.endswith("-SHARED")

    @property
    def gib(self) -> float:
        return math.ceil(int(self.memory) / 1024) if self.is_slice else sold_gib(int(self.memory))

    @property
    def _labelled(self) -> bool:
        return bool(self.product) and self.memory.isdecimal()


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
    offers = _offers(nodes)
    if not offers:
        return [f"# No node offers {GPU} here: is NVIDIA's device plugin or operator installed?"]
    rows = [("product", "MiB", "GPUs a node", "nodes")]
    rows += [(it.product or it.resource, it.memory or "-", it.count, str(number)) for it, number in offers.items()]
    named = _named([it for it in offers if it.is_whole or it.is_slice])
    usable = {name: it for name, it in named.items() if gpu_name(it.product) not in NO_BF16}
    slices = {name: it for name, it in usable.items() if it.is_slice}
    cards = [it for it in offers if it.resource == GPU]
    labelled = not cards or any(it.memory for it in cards)  # else a run without GPU_TYPE would find no node
    return [
        *(f"#   {line}" for line in format_table(rows).splitlines()),
        *_by_hand(list(offers)),
        *(f"# {name}: no bfloat16, which training needs" for name in named if name not in usable),
        *(["gpu_feature_discovery: true"] if named and labelled else []),
        *(["gpu_types:"] if usable else []),
        *(f"  {name}: {it.gib:g}" for name, it in usable.items()),
        *(["gpu_resources:  # slices of cards (MIG), one for a run"] if slices else []),
        *(f"  {name}: {it.resource}" for name, it in slices.items()),
        *(["gpu_selectors:"] if usable else []),
        *(line for name, it in usable.items() for line in (f"  {name}:", f"    {it.resource}.product: {it.product}")),
    ]


def _offers(nodes: Sequence[Object]) -> Counter[Offer]:
    """The kinds of GPUs, each with the number of its nodes."""
    found: Counter[Offer] = Counter()
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        for resource, count in sorted(node["status"].get("allocatable", {}).items()):
            if count != "0" and (resource == GPU or GPUS.fullmatch(resource)):
                product, memory = (labels.get(f"{resource}.{what}", "") for what in ("product", "memory"))
                found[Offer(resource=resource, product=product, memory=memory, count=count)] += 1
    return found


def _named(offers: Sequence[Offer]) -> dict[str, Offer]:
    """The offers by a name for GPU_TYPE. One product has one name, and the smallest of its sizes."""
    named: dict[str, Offer] = {}
    for it in sorted(offers, key=lambda it: (it.resource, it.product, int(it.memory))):
        card = it.product.partition("-MIG-")[0]
        size = f"-{it.resource.removeprefix(SLICE_RESOURCE)}" if it.is_slice else ""
        short = f"{gpu_name(card)}{size}"
        if named.setdefault(short, it).product != it.product:
            named.setdefault(f"{full_name(card)}{size}", it)
    return named


def _by_hand(offers: Sequence[Offer]) -> list[str]:
    """What a person must say, because no label says it."""
    cards = [it for it in offers if it.resource == GPU]
    others = sorted({it.resource for it in offers if it.resource != GPU and not it.is_slice})
    lines = [
        f"# {resource} is offered without a label that says how much memory a run gets: say gpu_types and "
        "gpu_resources by hand."
        for resource in others
    ]
    if cards and not any(it.is_whole for it in cards):
        lines.append("# No whole GPU with labels of GPU Feature Discovery: say gpu_types and gpu_selectors by hand.")
    return lines


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
