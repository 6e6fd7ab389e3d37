"""The runs in a namespace, found by their labels: their states, their logs, and which of them can be resumed."""

from __future__ import annotations

import calendar
import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from k8s.cluster import pod_log
from k8s.cluster.ends import CANCELLED, COMPLETED, End, left_behind
from k8s.cluster.jobs import ENDING, first_pods, is_live, lost_pod, pods_of, way_out
from k8s.cluster.kubectl import Kubectl, KubectlError, Object, name_of
from k8s.cluster.seen import Objects, Run, find_objects, keep_ends, label, read_run, readable
from k8s.manifest.objects import INSTANCE
from k8s.manifest.pod import claim_name
from k8s.manifest.site import find_site
from launcher import cli
from launcher.logs import pass_on
from launcher.progress import GONE, OUTCOMES, RUNNING, Job, RunStatus
from launcher.scheduler import Cancelled, Found, Words, WordsOf
from planner.job import JobSpec
from planner.request.variables import parse_given
from trainer.outcome import ConfigError
from trainer.progress_file import MOST_BYTES, PROGRESS_FILE, Progress, parse_progress

FAILED_LINES = 20
FEW = 4  # up to so many Jobs are deleted one by one, which names each and needs no right to delete collections
ASKED_AT_ONCE = 8
ASK_S = 2.0
STAMP = "%Y-%m-%dT%H:%M:%SZ"
RESUMED_KEY = "resumed"  # in the ConfigMap: the time at which the last job was requested
STARTING_S = 30
"""Seconds during which a requested but missing job may be one that somebody is just creating."""


def status_of(kubectl: Kubectl, run: Run, objects: Objects) -> RunStatus:
    seen, pods = objects.jobs_of(run), objects.pods
    talking = [
        pod for i in run.job_ids for pod in first_pods(pods_of(i, pods)) if pod["status"].get("phase") != "Pending"
    ]
    progress, unknown_step = _progress(kubectl, run, talking[-1] if talking else None, ended=seen[-1].ended)
    return RunStatus(
        run_id=run.run_id,
        jobs=seen,
        progress=progress,
        unknown_step=unknown_step,
        place=place_of(run),
        made=_made(seen[-1]),
        finished=seen[-1].state == COMPLETED,
        done=seen[-1].state == COMPLETED,
        report_advice=f"mount the claim and open {run.spec.run_dir}/report.html",
    )


def _progress(kubectl: Kubectl, run: Run, pod: Object | None, *, ended: bool) -> tuple[Progress | None, str]:
    """(how far the run is, why that is unknown or ""). `pod` is the newest started pod of the run's first node.

    progress.json lies in the claim. A running pod is asked for it; an ended pod left it in its status, unless it was
    killed.
    """
    if pod is not None and pod["status"].get("phase") == "Running":
        try:
            return parse_progress(kubectl.read_file(pod, f"{run.spec.run_dir}/{PROGRESS_FILE}", MOST_BYTES)), ""
        except KubectlError as error:
            # kubectl gives no reason: two ways of asking were refused.
            forbidden = "reading it from the pod takes the right to create pods/exec, which you lack here"
            return None, f"not known: {forbidden if 'pods/exec' in error.said else error}"
    progress = parse_progress(left_behind(pod)) if pod is not None else None
    known = progress is not None or (pod is None and not ended)
    return progress, "" if known else f"not known: it stands in {PROGRESS_FILE} in the claim"


def _made(job: Job) -> Sequence[str]:
    """The outcomes that exist. This machine cannot read the claim."""
    if job.state == GONE:
        return ("an adapter perhaps: only the claim can tell",)
    return OUTCOMES if job.state == COMPLETED else ()


def place_of(run: Run) -> str:
    return f"claim {claim_name(run.spec)}, {run.spec.run_dir}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """A launcher.scheduler.Place: a namespace. Its methods keep every end of a Job that they see with the run."""

    kubectl: Kubectl
    where: str = "this namespace"
    elsewhere: str = "NAMESPACE= looks in another"

    def named(self, run_id: str) -> Found[Run] | None:
        parse_given({"RUN": run_id})
        if found := self.kubectl.find("configmaps", run_id):
            try:
                return Found(name=run_id, runs=[read_run(found[-1])])
            except ConfigError as error:
                where = f" --namespace {self.kubectl.namespace}" if self.kubectl.namespace else ""
                ends = f"kubectl{where} delete job --selector {INSTANCE}={run_id}"
                raise ConfigError(f"{error}; {ends} ends its job") from error
        members = [run for run in self._readable() if run.spec.sweep == run_id]
        if len(members) == 1:
            return Found(name=members[0].run_id, runs=members)
        return Found(name=run_id, runs=members) if members else None

    def known(self) -> Sequence[str]:
        return [run.run_id for run in self._readable()[::-1]]

    def newest(self, most: int) -> tuple[Sequence[Run | str], int]:
        records = self.kubectl.find("configmaps")[::-1]
        return [readable(found) or label(found) or name_of(found) for found in records[:most]], len(records)

    def statuses(self, runs: Sequence[Run]) -> Sequence[RunStatus]:
        there = find_objects(self.kubectl, runs)
        keep_ends(self.kubectl, runs, [there.ends_of(run) for run in runs])
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:  # each running pod is asked for its progress
            return list(pool.map(lambda run: status_of(self.kubectl, run, there), runs))

    def cancel(self, runs: Sequence[Run]) -> Cancelled:
        there = find_objects(self.kubectl, runs, around=False)
        jobs = {run.run_id: there.jobs_of(run) for run in runs}
        live = [job.job_id for run in runs for job in jobs[run.run_id] if not job.ended]
        # An ended Job is kept with its logs, so a run that has one too is cancelled by its Job's name.
        whole = [run for run in runs if {job.ended for job in jobs[run.run_id] if job.state != GONE} == {False}]
        at_once = whole if len(whole) > FEW else []
        singly = [job.job_id for run in runs if run not in at_once for job in jobs[run.run_id] if not job.ended]
        failure: KubectlError | None = None
        printed: list[str] = []
        try:
            if at_once:
                printed = self._delete_at_once(at_once)
            printed += self.kubectl.delete([f"job.batch/{job_id}" for job_id in singly])
        except KubectlError as error:
            printed, failure = [*printed, *error.printed.split()], error
        deleted = [job_id for job_id in live if f"job.batch/{job_id}" in printed]
        cancelled = End(state=CANCELLED, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        mine = [{job_id: cancelled for job_id in deleted if job_id in run.job_ids} for run in runs]
        keep_ends(self.kubectl, runs, [{**there.ends_of(run), **ends} for run, ends in zip(runs, mine, strict=True)])
        if not failure and (left := [job_id for job_id in live if job_id not in deleted]):
            failure = KubectlError(f"kubectl delete did not say that it deleted job {', '.join(left)}")
            return Cancelled(job_ids=deleted, failure=failure, unsure=True)
        return Cancelled(job_ids=deleted, failure=failure)

    def _delete_at_once(self, runs: Sequence[Run]) -> list[str]:
        """KIND/NAME of the Jobs that are gone or going, in the form of Kubectl.delete. Raises KubectlError."""
        namespace = str(runs[0].config_map["metadata"]["namespace"])
        self.kubectl.delete_jobs([run.run_id for run in runs], namespace)
        left = {name_of(job) for job in self.kubectl.find("jobs") if "deletionTimestamp" not in job["metadata"]}
        return [f"job.batch/{job_id}" for run in runs for job_id in run.job_ids if job_id not in left]

    def follow(self, run: Run) -> None:
        """Print the logs of the first node's pods one after another, and follow the last one until the Job has
        ended."""
        printed: set[str] = set()
        last = ""
        there = find_objects(self.kubectl, [run])
        while True:
            job, pods = there.jobs_of(run)[-1], there.pods
            for pod in first_pods(pods):
                if name_of(pod) not in printed and pod["status"].get("phase") != "Pending":
                    printed.add(name_of(pod))
                    pod_log.follow(self.kubectl, pod)
            if job.text != last and job.state not in (RUNNING, ENDING):
                cli.say(f"job {job.text}")
            last = job.text
            if job.ended:
                self._print_others([pod for pod in pods if name_of(pod) not in printed])
                cli.say(f"the logs of all attempts, also of pods that are gone: {place_of(run)}/logs")
                # Read again: other verbs may have written ends in the meantime.
                if found := self.named(run.run_id):
                    keep_ends(self.kubectl, found.runs, [there.ends_of(one) for one in found.runs])
                return
            time.sleep(ASK_S)
            there = self._look_again(run) or there

    def _look_again(self, run: Run) -> Objects | None:
        """The present objects; None when the server does not answer, since it may be away for a while."""
        try:
            return find_objects(self.kubectl, [run])
        except KubectlError as error:
            cli.say(f"{error}; asking again")
            return None

    @contextlib.contextmanager
    def held(self, found: Found[Run], words: WordsOf) -> Iterator[Sequence[Run]]:
        """When two persons resume a run at once, one is refused: the ConfigMap accepts one new job id at a time."""
        there = find_objects(self.kubectl, found.runs)
        refused = [_needs_no_job(run, there, words) for run in found.runs]
        left = [run for run, said in zip(found.runs, refused, strict=True) if not said]
        if not left:
            keep_ends(self.kubectl, found.runs, [there.ends_of(run) for run in found.runs])
            raise ConfigError(
                refused[0] if len(refused) == 1 else f"{found.text} has no member that is unfinished and without a job"
            )
        for run in left:
            _refuse_if_busy(self.kubectl, run, there)
        yield left

    def spec_of(self, run: Run) -> JobSpec:
        return run.spec

    def _print_others(self, pods: Sequence[Object]) -> None:
        """Print the end of the logs of other nodes' failed pods: the reason may be only there."""
        for pod in pods:
            if pod["status"].get("phase") == "Failed":
                print(f"-- {name_of(pod)}")
            pass_on(io.BytesIO(self.kubectl.log(pod, FAILED_LINES).encode()))

    def _readable(self) -> list[Run]:
        """The readable runs, oldest first."""
        return [run for found in self.kubectl.find("configmaps") if (run := readable(found))]


def place(given: Words, environ: Words, project_dir: Path) -> Runs:
    """The runs of the given namespace. Raises ConfigError for a wrong NAMESPACE or site file."""
    by_site = find_site(given, project_dir, environ).texts.get("NAMESPACE")
    asked = parse_given({k: v for k, v in {"NAMESPACE": given.get("NAMESPACE", by_site)}.items() if v})
    return Runs(kubectl=Kubectl(environ=environ, namespace=asked.namespace))


def _needs_no_job(run: Run, there: Objects, words: WordsOf) -> str:
    """Why a run may not be resumed; "" when it may."""
    jobs = there.jobs_of(run)
    for job in jobs:
        if not job.ended:
            said = f"job {job.job_id} of run {run.run_id} is {job.state}"
            return f"{said}: make cancel {words(run.run_id)} ends it, then resume"
    finished = any(job.state == COMPLETED for job in jobs)
    return f"run {run.run_id} is finished ({place_of(run)}): make submit TO=k8s starts another" if finished else ""


def _refuse_if_busy(kubectl: Kubectl, run: Run, there: Objects) -> None:
    """Raises ConfigError when a pod of the run is still saving, or somebody may be starting its job now."""
    # A cancelled Job is gone at once, but its pods only after they have saved.
    saving = [pod for pod in there.pods if is_live(pod) and label(pod) == run.run_id]
    if lost := lost_pod(saving, there.around.nodes, time.time()):
        raise ConfigError(
            f"pod {name_of(lost)} of run {run.run_id} may still write its checkpoints, and its node does not answer: "
            f"{way_out(lost)}; then resume"
        )
    if saving:
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
