"""Asks the cluster what it would do with manifests before anything is made: dry runs of the objects and of a pod,
checks of the claim and the queue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from k8s.cluster.kubectl import QUEUES, Kubectl, KubectlError, Object, name_of, stream
from k8s.cluster.quantity import amount
from k8s.manifest.claim import WIDE, make_claim, refuse_narrow_claim
from k8s.manifest.objects import object_names
from k8s.manifest.pod import claim_name
from launcher import cli
from launcher.scheduler import Batch
from planner.job import JobSpec
from trainer.outcome import ConfigError
from trainer.text import known_are

DRY_RUN = ("create", "--dry-run=server", "--filename", "-")
NO_SUCH_KIND = "the server doesn't have a resource type"
NO_JOB_UID = "00000000-0000-4000-8000-000000000000"
"""Uid of the Job that a rehearsed pod belongs to, which is not made."""
MAY_NOT = "cannot create resource"  # a role's refusal; quotas and policies are Forbidden too
QUOTA = re.compile(r"exceeded quota: [^,]+, requested: (?P<asked>\S+), used: \S+, limited: (?P<limit>\S+)")


def rehearse(kubectl: Kubectl, batch: Batch, text: str, notes: Sequence[str]) -> str:
    """The API server's answer to a dry run of `text`, the manifests of the batch.

    Raises:
        ConfigError: the namespace, the claim or the queue is unsuitable, or a run exists already.
        KubectlError: the cluster would refuse.
    """
    spec = batch.spec
    kubectl = replace(kubectl, namespace=spec.kubernetes.namespace or kubectl.namespace)
    access = _access(kubectl, spec)
    pod = _first_pod(text)
    said = _rehearse_at_once(kubectl, text, pod)
    if said is not None:
        _check_claim(spec, access)
    else:  # each alone says which was refused
        said = _rehearse_objects(kubectl, batch, text)
        _check_claim(spec, access)
        _rehearse_pod(kubectl, pod)
    if spec.kubernetes.queue:
        _check_queue(kubectl, spec.kubernetes.queue)
    for note in notes:
        cli.say(note)
    if len(batch.plans) > 1 and access and WIDE not in access:
        cli.say(
            f"claim {claim_name(spec)} is {', '.join(access)}: only what is on one node can run at once; "
            f"a {WIDE} one serves all"
        )
    return said


def _rehearse_at_once(kubectl: Kubectl, text: str, pod: Object) -> str | None:
    """The answer about the objects of `text`, asked together with the `pod` in one call; None when the cluster refused
    any of them. Raises KubectlError when it did not answer."""
    between = "\n" if text.startswith("{") else "\n---\n"  # kubectl reads a stream of JSON, or one of YAML
    try:
        said = kubectl.run(*DRY_RUN, text=f"{text.rstrip()}{between}{stream([pod])}")
    except KubectlError as error:
        if not error.refused:
            raise
        return None
    return "".join(said.splitlines(keepends=True)[:-1])


def _rehearse_objects(kubectl: Kubectl, batch: Batch, text: str) -> str:
    try:
        return kubectl.run(*DRY_RUN, text=text)
    except KubectlError as error:
        if missing := re.search(r'namespaces "([^"]+)" not found', error.said):
            raise ConfigError(
                "the cluster has no such namespace",
                name="NAMESPACE",
                given=missing[1],
                advice="kubectl get namespaces lists them",
            ) from None
        refuse_if_taken(error, batch)
        raise


def _first_pod(text: str) -> Object:
    """A pod of the first Job. A Job's dry run does not check its pods, which a quota, a limit range or a priority class
    may refuse for ever."""
    job = next(content for content in yaml.safe_load_all(text) if content["kind"] == "Job")
    template, metadata = job["spec"]["template"], job["metadata"]
    where = {"namespace": metadata["namespace"]} if "namespace" in metadata else {}
    return {
        **{"apiVersion": "v1", "kind": "Pod"},
        "metadata": {"name": metadata["name"], **where, **_as_controlled(metadata["name"], template["metadata"])},
        "spec": template["spec"],
    }


def _rehearse_pod(kubectl: Kubectl, pod: Object) -> None:
    """Dry-run the pod alone. Raises KubectlError when no such pod could be made."""
    try:
        kubectl.run(*DRY_RUN, text=stream([pod]))
    except KubectlError as error:
        if MAY_NOT in error.said:
            cli.say("whether the cluster takes the pods could not be asked: your role may create Jobs and no pods")
        elif is_used_up(error.said):
            cli.say(f"there is no room in the quota now, so the job waits until others have ended: {error}")
        elif error.refused and error.reason != "AlreadyExists":
            raise KubectlError(
                f"the cluster takes the Job and would refuse its pods: {error}", said=error.said
            ) from None
        else:
            raise


def _as_controlled(job_name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's metadata as the Job controller would have it: many clusters refuse a pod that nothing controls."""
    of_the_job = {"job-name": job_name, "batch.kubernetes.io/job-name": job_name}
    of_the_job |= {"controller-uid": NO_JOB_UID, "batch.kubernetes.io/controller-uid": NO_JOB_UID}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job_name, "uid": NO_JOB_UID, "controller": True}
    return {**metadata, "labels": {**metadata.get("labels", {}), **of_the_job}, "ownerReferences": [owner]}


def is_used_up(said: str) -> bool:
    """Whether a quota refuses only because others use it: alone, the request would be within its limits."""
    found = QUOTA.search(said)
    if not found:
        return False
    asked, limit = (dict(part.split("=", 1) for part in found[name].split(",")) for name in ("asked", "limit"))
    return all(amount(asked[name]) <= amount(limit.get(name, "0")) for name in asked)


def _access(kubectl: Kubectl, spec: JobSpec) -> Sequence[str] | None:
    """The claim's access modes, empty when this user may not read them; None when there is no such claim. Raises
    ConfigError for a claim that no pod can mount any more."""
    try:
        found = kubectl.get("persistentvolumeclaim", claim_name(spec))
    except KubectlError as error:
        if error.reason != "Forbidden":
            raise
        return ()  # the pod will tell
    if found is None:
        return None
    why = "is being deleted" if "deletionTimestamp" in found["metadata"] else ""
    if found.get("status", {}).get("phase") == "Lost":
        why = why or "has lost its volume"
    if why:
        name = claim_name(spec)
        another = f"PVC= another ({make_claim(spec, f'{name}-2')})"
        raise ConfigError(f"this claim {why}", name="PVC", given=name, advice=another)
    return [str(mode) for mode in found["spec"]["accessModes"]]


def _check_claim(spec: JobSpec, access: Sequence[str] | None) -> None:
    """Raises ConfigError for a missing or unsuitable claim."""
    name = claim_name(spec)
    if access is None:
        raise ConfigError(
            f"no such claim in the namespace: {make_claim(spec, name)} prints one for kubectl apply -f -",
            name="PVC",
            given=name,
        )
    if access:
        refuse_narrow_claim(spec, access, "as the cluster says")


def _check_queue(kubectl: Kubectl, queue: str) -> None:
    """Raises ConfigError when Kueue has no such queue: without Kueue a job would start at once, whatever the
    limits."""
    try:
        found = kubectl.get(QUEUES, queue)
    except KubectlError as error:
        if NO_SUCH_KIND in error.said:
            raise ConfigError(
                f"this cluster has no Kueue ({QUEUES}), so nothing would queue the job",
                name="QUEUE",
                given=queue,
                advice="leave QUEUE out",
            ) from None
        if error.reason != "Forbidden":
            raise
        cli.say(f"QUEUE={queue} could not be looked up, your role may not: if it is not there, the job waits for ever")
        return
    if found is None:
        raise ConfigError(f"no such queue in the namespace{_queues_there(kubectl, queue)}", name="QUEUE", given=queue)
    for condition in found.get("status", {}).get("conditions", []):
        if (condition["type"], condition["status"]) == ("Active", "False"):
            why = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            cli.say(f"QUEUE={queue} takes no jobs now ({why}): the job waits until it does")


def _queues_there(kubectl: Kubectl, queue: str) -> str:
    try:
        known = [name_of(item) for item in kubectl.items(QUEUES)]
    except KubectlError as error:
        if error.reason != "Forbidden":
            raise
        return ", and your role may not list those there are"
    return known_are(queue, known) if known else ": there is none; QUEUE takes the name of a LocalQueue of Kueue's"


def refuse_if_taken(error: KubectlError, batch: Batch) -> None:
    """Raises ConfigError when the error says that a run's objects exist already."""
    taken = set(re.findall(r'"([^"]+)" already exists', error.said))
    for spec in (plan.spec for plan in batch.plans):
        if object_names(spec).run in taken:
            raise ConfigError(
                "exists in this namespace",
                name="RUN",
                given=spec.run_id,
                advice="give another RUN, or none for a new one",
            ) from None
