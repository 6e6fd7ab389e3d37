"""Plans -> objects in the cluster. The order is a promise: every possible refusal, including the API server's own (a
dry run), comes before anything is created, and if the server refuses after that, no object of Trainyard stays."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import yaml

from k8s.cluster.ends import ENDS_KEY, ends_text
from k8s.cluster.kubectl import Kubectl, KubectlError, Object, name_of, stream
from k8s.cluster.rehearsal import refuse_if_taken, rehearse
from k8s.cluster.seen import Run, find_objects, with_data
from k8s.manifest.objects import object_names
from k8s.manifest.pod import claim_name
from k8s.runs import RESUMED_KEY, STAMP
from launcher import cli
from launcher.scheduler import Batch, Found, WordsOf
from trainer.outcome import FINISHED, ConfigError


def submit(kubectl: Kubectl, batch: Batch, text: str, notes: Sequence[str], words: WordsOf) -> int:
    """A Target's `submit`: creates all of `text`, the manifests of the batch, or nothing.

    Raises:
        ConfigError: a run exists already, or the claim or the queue is unsuitable.
        KubectlError: the cluster refused.
    """
    rehearse(kubectl, batch, text, notes)
    # The first run's ConfigMap is created alone, then the rest: whoever creates it owns the name, so two submits at
    # the same time never make half of a run each.
    first, _, rest = text.partition("\n---\n")
    create(kubectl, batch, [first, rest])
    return cli.print_submitted(batch, _follow_up(batch, words))


def create(kubectl: Kubectl, batch: Batch, texts: Sequence[str]) -> None:
    """Create the objects of `texts`, one text after another. When the cluster refuses a part, only the objects that
    this call created are deleted: an object that existed before is somebody's run.

    Raises:
        ConfigError: a run exists already.
        KubectlError: the cluster refused, or did not answer; in the second case the created objects stay for the verbs.
    """
    made: list[str] = []
    try:
        for text in texts:
            made += kubectl.create(text)
    except KubectlError as error:
        if not error.refused:
            known = ", ".join(plan.spec.run_id for plan in batch.plans)
            raise KubectlError(f"{error}; how much of run {known} is there, make status and make cancel say") from None
        made += error.printed.split()
        _delete(kubectl, made)
        refuse_if_taken(error, batch)
        raise


def _delete(kubectl: Kubectl, made: Sequence[str]) -> None:
    try:
        kubectl.delete(made)
    except KubectlError as error:
        cli.say(f"this is left behind: {', '.join(made)} ({error})")


def resubmit(
    kubectl: Kubectl,
    found: Found[Run],
    runs: Sequence[Run],
    batch: Batch,
    texts: Sequence[str],
    notes: Sequence[str],
    words: WordsOf,
) -> int:
    """A Target's `resubmit`: creates new Jobs, and writes their names into the runs' ConfigMaps, all or nothing.
    `texts` are the manifests of the runs.

    Raises:
        ConfigError: the claim or the queue is unsuitable.
        KubectlError: the cluster refused, or somebody else changed a run in the meantime.
    """
    records: list[Object] = []
    others: list[Object] = []
    there, services = find_objects(kubectl, runs), _services(kubectl, runs)
    now = time.strftime(STAMP, time.gmtime())
    for manifests, run in zip(texts, runs, strict=True):
        for content in yaml.safe_load_all(manifests):
            if content["kind"] == "ConfigMap":
                ends = ends_text(there.ends_of(run))
                record = with_data(run, {**content["data"], ENDS_KEY: ends, RESUMED_KEY: now})
                records.append(_with_labels(record, content["metadata"]["labels"]))
            elif content["kind"] != "Service" or name_of(content) not in services:
                others.append(content)
    text = stream(others)
    rehearse(kubectl, batch, text, notes)
    _replace(kubectl, records, runs)
    try:
        create(kubectl, batch, [text])
    except (ConfigError, KubectlError) as error:
        if isinstance(error, ConfigError) or error.refused:
            kubectl.replace([_unversioned(run.config_map) for run in runs])
        raise
    if len(found.runs) == 1:
        print("\n".join(_follow_up(batch, words, attempt=len(runs[0].job_ids) + 1)))
    else:
        print(f"new jobs for {', '.join(run.run_id for run in runs)}\nstatus  make status {words(found.name)}")
    return FINISHED


def _replace(kubectl: Kubectl, records: Sequence[Object], left: Sequence[Run]) -> None:
    try:
        kubectl.replace(records)
    except KubectlError as error:
        # The ConfigMaps that were replaced before the refused one.
        written = [run for run in left if f"/{name_of(run.config_map)} replaced" in error.printed]
        if written:
            kubectl.replace([_unversioned(run.config_map) for run in written])
        if error.reason == "Conflict":
            known = ", ".join(run.run_id for run in left)
            raise KubectlError(f"somebody else changes run {known} at this moment, nothing is resumed") from None
        raise


def _services(kubectl: Kubectl, left: Sequence[Run]) -> set[str]:
    """Names of the Services that the runs already have: one serves all attempts."""
    if all(run.spec.resources.nodes == 1 for run in left):
        return set()
    return {name_of(service) for service in kubectl.find("services", left[0].run_id if len(left) == 1 else None)}


def _with_labels(config_map: Object, more: Mapping[str, str]) -> Object:
    metadata = config_map["metadata"]
    return {**config_map, "metadata": {**metadata, "labels": {**metadata.get("labels", {}), **more}}}


def _unversioned(config_map: Object) -> Mapping[str, object]:
    """The ConfigMap without its version, so that it overwrites any other."""
    metadata = {key: value for key, value in config_map["metadata"].items() if key != "resourceVersion"}
    return {**config_map, "metadata": metadata}


def _follow_up(batch: Batch, words: WordsOf, *, attempt: int = 1) -> list[str]:
    spec = batch.spec
    one, all_of_them = words(spec.run_id), words(batch.name)
    if batch.sweep:
        return [
            f"runs    {spec.run_id} and so on",
            "",
            f"status  make status {all_of_them}    (or one: make status {one})",
            f"follow  make logs {one}    (and so on)",
            f"cancel  make cancel {all_of_them}",
            f"resume  make resume {all_of_them}    (those that have ended unfinished)",
        ]
    job_id = object_names(spec, attempt=attempt).job
    where, there = (
        (f" in {spec.kubernetes.namespace}", f" -n {spec.kubernetes.namespace}")
        if spec.kubernetes.namespace
        else ("", "")
    )
    return [
        f"job id  {job_id}{where}",
        f"run id  {spec.run_id}",
        f"result  {spec.run_dir}/adapter in claim {claim_name(spec)} when it is done",
        "",
        *cli.follow_up(one, cancel=f"kubectl{there} delete job {job_id}"),
    ]
