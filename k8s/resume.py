"""`resume`: a new Job under the same run id, from the request in the run's ConfigMap; of a sweep, for each unfinished
member. A run can be resumed after its Job was deleted.

When two resume a run at once, one is refused: the ConfigMap takes one new job id at a time.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from k8s.jobs import COMPLETED, ENDS_KEY, ends_text, is_live
from k8s.kubectl import Kubectl, KubectlError, Object, name_of, stream
from k8s.manifest import INSTANCE
from k8s.pod import DEFAULT_CLAIM
from k8s.request import Decided, complete
from k8s.runs import Objects, Run, keep_ends, label, look_for, place_of, with_data
from k8s.scheduler import SCHEDULER
from k8s.site import find_site, read_cluster
from k8s.submit import Given, create, follow_up, rehearse, words
from launcher import cli, verbs
from launcher.changes import changed, changes_of
from launcher.progress import GONE
from planner.request.variables import resumable
from trainer.outcome import FINISHED, ConfigError

RESUMED_KEY = "resumed"  # in the ConfigMap: when the last job was asked for
STAMP = "%Y-%m-%dT%H:%M:%SZ"
STARTING_S = 30
"""How long a job that was asked for and is not there may be somebody's that is just being made."""


def resume(given: Given, environ: Given, project_dir: Path) -> int:
    place, found = verbs.find(SCHEDULER, given, environ, project_dir, only=True, takes=resumable(SCHEDULER.name))
    kubectl, runs = place.kubectl, found.runs
    there = look_for(kubectl, runs)
    refused = [_needs_no_job(run, there, given) for run in runs]
    left = [run for run, said in zip(runs, refused, strict=True) if not said]
    if not left:
        keep_ends(kubectl, runs, [there.ends_of(run) for run in runs])
        raise ConfigError(
            refused[0] if len(runs) == 1 else f"{found.text} has no member that is unfinished and without a job"
        )
    for run in left:
        _refuse_if_busy(kubectl, run, there)
    again = _plan_again(left, given, environ, project_dir)
    _restart(kubectl, left, again, there)
    if len(runs) == 1:
        print(follow_up(again[0], given, attempt=len(left[0].job_ids) + 1))
    else:
        print(f"new jobs for {', '.join(run.run_id for run in left)}\nstatus  make status {words(given, found.name)}")
    return FINISHED


def _needs_no_job(run: Run, there: Objects, given: Given) -> str:
    """Why not; nothing where it may be resumed."""
    jobs = there.jobs_of(run)
    for job in jobs:
        if not job.ended:
            said = f"job {job.job_id} of run {run.run_id} is {job.state}"
            return f"{said}: make cancel {words(given, run.run_id)} ends it, then resume"
    finished = any(job.state == COMPLETED for job in jobs)
    return f"run {run.run_id} is finished ({place_of(run)}): make submit TO=k8s starts another" if finished else ""


def _refuse_if_busy(kubectl: Kubectl, run: Run, there: Objects) -> None:
    """Raises ConfigError when a pod of the run still saves, or somebody may be starting its job now."""
    # A cancelled Job is gone at once, and its pods when they have saved.
    if saving := [pod for pod in there.pods if is_live(pod) and label(pod) == run.run_id]:
        where = f" --namespace {kubectl.namespace}" if kubectl.namespace else ""
        raise ConfigError(
            f"pod {name_of(saving[0])} of run {run.run_id} still writes its checkpoints: try again when it has "
            f"gone (kubectl{where} get pods --watch --selector {INSTANCE}={run.run_id})"
        )
    last = there.jobs_of(run)[-1]
    if last.state != GONE:
        return
    began = run.config_map["data"].get(RESUMED_KEY) or run.config_map["metadata"].get("creationTimestamp", "")
    if 0 <= _seconds_since(began) < STARTING_S:
        raise ConfigError(
            f"job {last.job_id} of run {run.run_id} was asked for at {began} and is not there: somebody may be "
            f"starting it now; if not, try again in {STARTING_S} seconds"
        )
    cli.say(f"job {last.job_id} of run {run.run_id} is {GONE} ({last.reason}): if it had finished, it finishes again")


def _seconds_since(stamp: str) -> float:
    try:
        return time.time() - calendar.timegm(time.strptime(stamp, STAMP))
    except ValueError:
        return float("inf")


def _plan_again(left: Sequence[Run], given: Given, environ: Given, project_dir: Path) -> list[Decided]:
    changes = changes_of(SCHEDULER.name, given, environ)
    site = find_site(given, project_dir, environ)
    again = []
    for run in left:
        cluster = read_cluster(site, {"PVC": run.spec.pvc or DEFAULT_CLAIM})
        again.append(complete(changed(run.spec, changes), cluster, project_dir))
    return again


def _restart(kubectl: Kubectl, left: Sequence[Run], again: Sequence[Decided], there: Objects) -> None:
    """New Jobs, and their names in the runs' ConfigMaps: all of it or nothing.

    Raises:
        ConfigError: the claim or the queue will not do.
        KubectlError: the cluster refused, or somebody else changed a run meanwhile.
    """
    records: list[Object] = []
    others: list[Object] = []
    services = _services(kubectl, left)
    now = time.strftime(STAMP, time.gmtime())
    for new, run in zip(again, left, strict=True):
        for content in yaml.safe_load_all(new.render(run.job_ids)):
            if content["kind"] == "ConfigMap":
                ends = ends_text(there.ends_of(run))
                records.append(with_data(run, {**content["data"], ENDS_KEY: ends, RESUMED_KEY: now}))
            elif content["kind"] != "Service" or name_of(content) not in services:
                others.append(content)
    text = stream(others)
    rehearse(kubectl, *again, text=text)
    _replace(kubectl, records, left)
    try:
        create(kubectl, again, [text])
    except (ConfigError, KubectlError) as error:
        if isinstance(error, ConfigError) or error.refused:
            kubectl.replace([_unversioned(run.config_map) for run in left])
        raise


def _replace(kubectl: Kubectl, records: Sequence[Object], left: Sequence[Run]) -> None:
    try:
        kubectl.replace(records)
    except KubectlError as error:
        # Those that were replaced before the one that was refused.
        written = [run for run in left if f"/{name_of(run.config_map)} replaced" in error.printed]
        if written:
            kubectl.replace([_unversioned(run.config_map) for run in written])
        if error.reason == "Conflict":
            known = ", ".join(run.run_id for run in left)
            raise KubectlError(f"somebody else changes run {known} at this moment, nothing is resumed") from None
        raise


def _services(kubectl: Kubectl, left: Sequence[Run]) -> set[str]:
    """Names of the Services that the runs have already: one serves all attempts."""
    if all(run.spec.nodes == 1 for run in left):
        return set()
    return {name_of(service) for service in kubectl.find("services", left[0].run_id if len(left) == 1 else None)}


def _unversioned(config_map: Object) -> Mapping[str, object]:
    """To be written whatever is there."""
    metadata = {key: value for key, value in config_map["metadata"].items() if key != "resourceVersion"}
    return {**config_map, "metadata": metadata}
