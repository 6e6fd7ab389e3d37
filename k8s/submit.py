"""Plan -> objects in the cluster. The order is the promise: what can be refused is refused before anything is created,
the API server's own judgement included (a dry run), and when it refuses all the same nothing of ours stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from k8s.kubectl import Kubectl, KubectlError, name_of
from k8s.manifest import object_names
from k8s.pod import DEFAULT_CLAIM
from k8s.request import WIDE, Decided, decide, make_claim, refuse_narrow_claim
from launcher import cli
from planner.job import JobSpec
from trainer.outcome import FINISHED, ConfigError
from trainer.text import known_are

Given = Mapping[str, str]
QUEUES = "localqueues.kueue.x-k8s.io"
NO_SUCH_KIND = "the server doesn't have a resource type"


def submit(given: Given, environ: Given, project_dir: Path) -> int:
    decided = decide(given, environ, project_dir, run_suffix=cli.fresh_suffix())
    kubectl = Kubectl(environ=environ, namespace=decided.plan.spec.namespace)
    start(kubectl, [decided], decided.render())
    return cli.print_submitted(decided.plan, follow_up(decided, given))


def start(kubectl: Kubectl, runs: Sequence[Decided], text: str) -> None:
    """Create `text`, the manifest of new runs that share a claim: all of it or nothing.

    Raises:
        ConfigError: a run is there already, or the claim or the queue will not do.
        KubectlError: the cluster refused.
    """
    rehearse(kubectl, *runs, text=text)
    # The first run's ConfigMap alone, then the rest: who creates it has the name, so two that begin at once never
    # make half of a run each.
    first, _, rest = text.partition("\n---\n")
    create(kubectl, runs, [first, rest])


def create(kubectl: Kubectl, runs: Sequence[Decided], texts: Sequence[str]) -> None:
    """Make what `texts` say, one after the other. When the cluster refuses a part, what this made is deleted, and
    nothing else: an object that was there is somebody's run.

    Raises:
        ConfigError: a run is there already.
        KubectlError: the cluster refused, or did not answer: then what it made is left for the verbs to find.
    """
    made: list[str] = []
    try:
        for text in texts:
            made += kubectl.create(text)
    except KubectlError as error:
        if not error.refused:
            known = ", ".join(run.plan.spec.run_id for run in runs)
            raise KubectlError(f"{error}; how much of run {known} is there, make status and make cancel say") from None
        made += error.printed.split()
        _delete(kubectl, made)
        _refuse_if_taken(error, runs)
        raise


def _delete(kubectl: Kubectl, made: Sequence[str]) -> None:
    try:
        kubectl.delete(made)
    except KubectlError as error:
        cli.say(f"this is left behind: {', '.join(made)} ({error})")


def _refuse_if_taken(error: KubectlError, runs: Sequence[Decided]) -> None:
    """Raises ConfigError when a run's objects were there already."""
    taken = set(re.findall(r'"([^"]+)" already exists', error.said))
    for spec in (run.plan.spec for run in runs):
        if object_names(spec).run in taken:
            raise ConfigError(
                f"RUN={spec.run_id} exists in this namespace: give another RUN, or none for a new one"
            ) from None


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
        ConfigError: the namespace, the claim or the queue will not do, or a run is there already.
        KubectlError: the cluster would refuse.
    """
    spec = decided.plan.spec
    kubectl = replace(kubectl, namespace=spec.namespace or kubectl.namespace)
    access = _access(kubectl, spec)
    try:
        said = kubectl.run("create", "--dry-run=server", "--filename", "-", text=text)
    except KubectlError as error:
        if missing := re.search(r'namespaces "([^"]+)" not found', error.said):
            raise ConfigError(
                f"NAMESPACE={missing[1]}: the cluster has no such namespace: kubectl get namespaces lists them"
            ) from None
        _refuse_if_taken(error, (decided, *others))
        raise
    _check_claim(spec, access)
    if spec.queue:
        _check_queue(kubectl, spec.queue)
    for note in decided.notes:
        cli.say(note)
    if others and access and WIDE not in access:
        cli.say(
            f"claim {spec.pvc or DEFAULT_CLAIM} is {', '.join(access)}: only what is on one node can run at once; "
            f"a {WIDE} one serves all"
        )
    return said


def _access(kubectl: Kubectl, spec: JobSpec) -> Sequence[str] | None:
    """The claim's access modes, none where one may not look; None: there is no such claim."""
    try:
        found = kubectl.get("persistentvolumeclaim", spec.pvc or DEFAULT_CLAIM)
    except KubectlError as error:
        if error.reason != "Forbidden":
            raise
        return ()  # the pod will tell
    return [str(mode) for mode in found["spec"]["accessModes"]] if found else None


def _check_claim(spec: JobSpec, access: Sequence[str] | None) -> None:
    """Raises ConfigError when it will not do."""
    name = spec.pvc or DEFAULT_CLAIM
    if access is None:
        raise ConfigError(
            f"PVC={name}: no such claim in the namespace: {make_claim(spec, name)} prints one for kubectl apply -f -"
        )
    if access:
        refuse_narrow_claim(spec, access, "as the cluster says")


def _check_queue(kubectl: Kubectl, queue: str) -> None:
    """Raises ConfigError when Kueue has no such queue here: without Kueue a job would start at once, past any bound."""
    try:
        found = kubectl.get(QUEUES, queue)
    except KubectlError as error:
        if NO_SUCH_KIND in error.said:
            raise ConfigError(
                f"QUEUE={queue}: this cluster has no Kueue ({QUEUES}), so nothing would queue the job: leave QUEUE out"
            ) from None
        if error.reason != "Forbidden":
            raise
        cli.say(f"QUEUE={queue} could not be looked up, your role may not: if it is not there, the job waits for ever")
        return
    if found is None:
        raise ConfigError(f"QUEUE={queue}: no such queue in the namespace{_queues_there(kubectl, queue)}")
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
