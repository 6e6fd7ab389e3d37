"""The claim that holds runs: its manifest, and the refusal of an unsuitable one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k8s.manifest import objects
from k8s.manifest.pod import DEFAULT_CLAIM, claim_name
from k8s.manifest.site import find_site, read_cluster
from launcher.scheduler import Scheduler, Words
from planner.job import JobSpec
from planner.request.variables import parse_given
from trainer.outcome import FINISHED, ConfigError

WIDE = "ReadWriteMany"


def claim(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `claim`."""
    print(claim_text(given, environ, project_dir), end="")
    return FINISHED


def claim_text(given: Words, environ: Words, project_dir: Path) -> str:
    """The manifest of the claim. Raises ConfigError without SIZE, or for a variable that does not concern it."""
    takes = ("SIZE", "PVC", "NODES", "NAMESPACE", "SITE")
    if odd := [name for name in given if name not in takes]:
        raise ConfigError(f"only {', '.join(takes)} count here, leave it out", name=odd[0], given=given[odd[0]])
    if "SIZE" not in given:
        raise ConfigError("claim: how large? make claim SIZE=200Gi")
    site = find_site(given, project_dir, environ)
    asked = parse_given({**{k: v for k, v in site.texts.items() if k in takes}, **given})
    cluster = read_cluster(site, given)
    return objects.claim(
        asked.pvc or DEFAULT_CLAIM,
        size=str(asked.size),
        access=WIDE if (asked.nodes or 1) > 1 else cluster.pvc_access or "ReadWriteOnce",
        namespace=asked.namespace,
        storage_class=cluster.storage_class,
    )


def refuse_narrow_claim(spec: JobSpec, access: Sequence[str], where: str) -> None:
    """Raises ConfigError when several nodes would share a claim that only one node can mount."""
    if spec.resources.nodes > 1 and WIDE not in access:
        name = claim_name(spec)
        raise ConfigError(
            f"claim {name} is {', '.join(access)} ({where}), which one node can mount",
            name="NODES",
            given=spec.resources.nodes,
            advice=f"PVC= another that is {WIDE} ({make_claim(spec, f'{name}-wide')}), or NODES=1",
        )


def make_claim(spec: JobSpec, name: str) -> str:
    """The command that prints a claim for this request."""
    wide = f" NODES={spec.resources.nodes}" if spec.resources.nodes > 1 else ""
    where = f" NAMESPACE={spec.kubernetes.namespace}" if spec.kubernetes.namespace else ""
    return f"make claim TO=k8s{where} PVC={name}{wide} SIZE=200Gi"
