"""Plan -> objects in the cluster. The order is the promise: what can be refused is refused before anything is applied,
the API server's own judgement included (a dry run), and when it refuses all the same nothing stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate_configs.job import JobSpec
from accelerate_configs.runs import cli
from k8s.kubectl import Kubectl, KubectlError
from k8s.manifest import object_names
from k8s.pod import DEFAULT_CLAIM
from k8s.request import WIDE, Decided, decide, make_claim, refuse_narrow_claim
from trainer.outcome import FINISHED, ConfigError

Given = Mapping[str, str]


def submit(given: Given, environ: Given, project_dir: Path) -> int:
    decided = decide(given, environ, project_dir, run_suffix=cli.fresh_suffix())
    kubectl = Kubectl(environ=environ, namespace=decided.plan.spec.namespace)
    start(kubectl, [decided], decided.render())
    return cli.print_submitted(decided.plan, follow_up(decided, given))


def start(kubectl: Kubectl, runs: Sequence[Decided], text: str) -> None:
    """Apply `text`, the manifest of new runs that share a claim: all of it or nothing.

    Raises:
        ConfigError: a run is there already, or the claim will not do.
        KubectlError: the cluster refused.
    """
    for spec in (run.plan.spec for run in runs):
        if kubectl.get("configmap", object_names(spec).run):
            raise ConfigError(f"RUN={spec.run_id} exists in this namespace: give another RUN, or none for a new one")
    rehearse(kubectl, *runs, text=text)
    try:
        kubectl.run("apply", "--filename", "-", text=text)
    except KubectlError:
        kubectl.run("delete", "--filename", "-", "--ignore-not-found", "--wait=false", text=text)
        raise


def check(given: Given, environ: Given, project_dir: Path) -> int:
    decided = decide(given, environ, project_dir, run_suffix=cli.fresh_suffix())
    said = rehearse(Kubectl(environ=environ), decided, text=decided.render())
    print("\n".join(f"kubectl  {line}" for line in said.splitlines()))
    return FINISHED


def ready(given: Given, environ: Given, project_dir: Path) -> int:
    """Pods bring their own environment; what launches is enough here."""
    decide(given, environ, project_dir, run_suffix=cli.fresh_suffix()).render()
    print("launch")
    return FINISHED


def rehearse(kubectl: Kubectl, decided: Decided, *others: Decided, text: str) -> str:
    """What the API server would do with `text`, the manifest of a run, or of several that share its claim.

    Raises:
        ConfigError: the claim will not do.
        KubectlError: the cluster would refuse.
    """
    spec = decided.plan.spec
    kubectl = replace(kubectl, namespace=spec.namespace or kubectl.namespace)
    access = _check_claim(kubectl, spec)
    for note in decided.notes:
        cli.say(note)
    if others and access and WIDE not in access:
        cli.say(
            f"claim {spec.pvc or DEFAULT_CLAIM} is {', '.join(access)}: only what is on one node can run at once; "
            f"a {WIDE} one serves all"
        )
    return kubectl.run("apply", "--dry-run=server", "--filename", "-", text=text)


def _check_claim(kubectl: Kubectl, spec: JobSpec) -> Sequence[str]:
    """Its access modes, none where one may not look. Raises ConfigError when it will not do."""
    name = spec.pvc or DEFAULT_CLAIM
    try:
        found = kubectl.get("persistentvolumeclaim", name)
    except KubectlError:
        return ()  # not everyone may look at claims; the pod will tell
    if found is None:
        raise ConfigError(
            f"PVC={name}: no such claim in the namespace: {make_claim(spec, name)} prints one for kubectl apply -f -"
        )
    access = [str(mode) for mode in found["spec"]["accessModes"]]
    refuse_narrow_claim(spec, access, "as the cluster says")
    return access


def follow_up(decided: Decided, given: Given, *, attempt: int = 1) -> str:
    spec = decided.plan.spec
    job_id = object_names(spec, attempt=attempt).job
    where, there = (f" in {spec.namespace}", f" -n {spec.namespace}") if spec.namespace else ("", "")
    return "\n".join(
        [
            f"job id  {job_id}{where}",
            f"run id  {spec.run_id}",
            f"result  {spec.run_dir}/adapter in claim {spec.pvc or DEFAULT_CLAIM} when it is done",
            "",
            *cli.follow_up(words(given, spec.run_id), cancel=f"kubectl{there} delete job {job_id}"),
        ]
    )


def words(given: Given, run_id: str) -> str:
    return f"TO=k8s {cli.command_words(given, run_id, ('NAMESPACE', 'SITE'))}"
