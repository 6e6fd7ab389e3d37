"""The runs in a namespace, found by their labels, and how their Jobs and pods stand.

A run's ConfigMap holds run.json and how its Jobs ended; no Job owns it, so it stays when they are gone.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k8s.jobs import (
    CANCELLED,
    COMPLETED,
    ENDING,
    ENDS_KEY,
    End,
    ends_text,
    first_pods,
    left_behind,
    pods_of,
    read_ends,
    see_end,
    see_job,
    waits_for_kueue,
)
from k8s.kubectl import Kubectl, KubectlError, Object, name_of
from k8s.manifest import INSTANCE
from k8s.pod import CONTAINER, DEFAULT_CLAIM
from k8s.site import find_site
from k8s.submit import Given
from launcher import cli
from launcher.progress import GONE, OUTCOMES, Job, Seen
from launcher.recorded import read_spec
from launcher.scheduler import Cancelled, Found
from planner.job import JobSpec
from planner.request.variables import parse_given
from trainer.files import RECORD_NAME, parse_json
from trainer.outcome import ConfigError
from trainer.progress_file import MOST_BYTES, PROGRESS_FILE, Progress, parse_progress
from trainer.text import shown

FAILED_LINES = 20
ASK_S = 2.0
WORKLOADS = "workloads.kueue.x-k8s.io"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as its ConfigMap has it."""

    spec: JobSpec
    job_ids: tuple[str, ...]
    ends: Mapping[str, End]
    """How Jobs ended, by name, as far as a verb has seen it."""
    config_map: Object

    @property
    def run_id(self) -> str:
        return self.spec.run_id


def read_run(config_map: Object) -> Run:
    """Raises ConfigError, in one line, when its run.json or ends.json is not what the verbs wrote."""
    where, data = f"ConfigMap {name_of(config_map)}", config_map.get("data") or {}
    if RECORD_NAME not in data:
        raise ConfigError(f"{where} lacks {RECORD_NAME}")
    try:
        record = parse_json(data[RECORD_NAME])
        first, *others = record["job_ids"]
        run = Run(
            spec=read_spec(record["spec"], project_dir=Path("/"), source=f"{where}: {RECORD_NAME}"),
            job_ids=(str(first), *map(str, others)),
            ends=read_ends(data.get(ENDS_KEY, "{}")),
            config_map=config_map,
        )
    except (KeyError, ValueError, TypeError) as error:
        names = f"{RECORD_NAME} or {ENDS_KEY}" if ENDS_KEY in data else RECORD_NAME
        raise ConfigError(f"{where}: {names} is not what submit wrote ({error})") from error
    if run.run_id != label(config_map):
        raise ConfigError(f"{where}: run_id is {shown(run.run_id)}, its label says {shown(label(config_map))}")
    return run


@dataclass(frozen=True, kw_only=True, slots=True)
class Objects:
    """What the cluster has of some runs now."""

    jobs: Sequence[Object]
    pods: Sequence[Object]
    workloads: Sequence[Object] = ()
    """Kueue's, when a Job waits for it."""

    def jobs_of(self, run: Run) -> list[Job]:
        """Oldest first. Another run's Job is none of this one's, whatever its ConfigMap says."""
        there, now = self._jobs_there(run), time.time()
        return [
            see_job(
                *(i, there.get(i), pods_of(i, self.pods)),
                limit_min=run.spec.time_limit_min,
                now=now,
                kept=run.ends.get(i),
                workloads=self.workloads,
            )
            for i in run.job_ids
        ]

    def ends_of(self, run: Run) -> dict[str, End]:
        """What the run's ConfigMap keeps, and what is seen now."""
        seen = {i: see_end(job, pods_of(i, self.pods)) for i, job in self._jobs_there(run).items() if i in run.job_ids}
        return {**{job_id: end for job_id, end in seen.items() if end}, **run.ends}

    def _jobs_there(self, run: Run) -> dict[str, Object]:
        return {name_of(job): job for job in self.jobs if label(job) == run.run_id}


def look_for(kubectl: Kubectl, runs: Sequence[Run]) -> Objects:
    """Those of one run, or of all when there are several."""
    only = runs[0].run_id if len(runs) == 1 else None
    jobs = kubectl.find("jobs", only)
    # Asked after the Jobs: what began before one ended is among them.
    pods = kubectl.find("pods", only)
    return Objects(jobs=jobs, pods=pods, workloads=_workloads(kubectl) if any(map(waits_for_kueue, jobs)) else ())


def _workloads(kubectl: Kubectl) -> Sequence[Object]:
    """None where there is no Kueue, or one may not look: the job's own state is said then."""
    try:
        return kubectl.items(WORKLOADS)
    except KubectlError:
        return ()


def keep_ends(kubectl: Kubectl, runs: Sequence[Run], ends: Sequence[Mapping[str, End]]) -> None:
    """Write into each run's ConfigMap how its Jobs ended, where that is news. What cannot be kept is said."""
    pairs = zip(runs, ends, strict=True)
    news = [with_data(run, {ENDS_KEY: ends_text(known)}) for run, known in pairs if known != run.ends]
    if not news:
        return
    try:
        kubectl.replace(news)
    except KubectlError as error:
        cli.say(f"how a run ended could not be kept, so it is known only until its Job is removed: {error}")


def with_data(run: Run, data: Mapping[str, str]) -> Object:
    """The run's ConfigMap with `data` in it: as it was read, so that kubectl refuses to write over a newer one."""
    return {**run.config_map, "data": {**run.config_map["data"], **data}}


def look(kubectl: Kubectl, run: Run, objects: Objects) -> Seen:
    seen, pods = objects.jobs_of(run), objects.pods
    talking = [
        pod for i in run.job_ids for pod in first_pods(pods_of(i, pods)) if pod["status"].get("phase") != "Pending"
    ]
    progress, unknown_step = _progress(kubectl, run, talking[-1] if talking else None, ended=seen[-1].ended)
    return Seen(
        run_id=run.run_id,
        jobs=seen,
        progress=progress,
        unknown_step=unknown_step,
        place=place_of(run),
        made=_made(seen[-1]),
        finished=seen[-1].state == COMPLETED,
        done=seen[-1].state == COMPLETED,
        look=f"mount the claim and open {run.spec.run_dir}/report.html",
    )


def _progress(kubectl: Kubectl, run: Run, pod: Object | None, *, ended: bool) -> tuple[Progress | None, str]:
    """(how far the run is, why nobody can say). `pod` is the newest of its first node that has started.

    progress.json lies in the claim. A pod that runs is asked for it; one that has ended left it in its status, unless
    it was killed.
    """
    if pod is not None and pod["status"].get("phase") == "Running":
        try:
            return parse_progress(kubectl.read_file(pod, f"{run.spec.run_dir}/{PROGRESS_FILE}", MOST_BYTES)), ""
        except KubectlError as error:
            # kubectl gives no reason for it: two ways of asking were refused.
            forbidden = "reading it from the pod takes the right to create pods/exec, which you lack here"
            return None, f"not known: {forbidden if 'pods/exec' in error.said else error}"
    progress = parse_progress(left_behind(pod)) if pod is not None else None
    known = progress is not None or (pod is None and not ended)
    return progress, "" if known else f"not known: it stands in {PROGRESS_FILE} in the claim"


def _made(job: Job) -> Sequence[str]:
    """Which outcomes are there. The claim cannot be looked into from here."""
    if job.state == GONE:
        return ("an adapter perhaps: only the claim can tell",)
    return OUTCOMES if job.state == COMPLETED else ()


def place_of(run: Run) -> str:
    return f"claim {run.spec.pvc or DEFAULT_CLAIM}, {run.spec.run_dir}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """A launcher.scheduler.Place: a namespace. What its methods see of a Job's end, they keep with the run."""

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

    def look(self, runs: Sequence[Run]) -> Sequence[Seen]:
        there = look_for(self.kubectl, runs)
        keep_ends(self.kubectl, runs, [there.ends_of(run) for run in runs])
        return [look(self.kubectl, run, there) for run in runs]

    def cancel(self, runs: Sequence[Run]) -> Cancelled:
        there = look_for(self.kubectl, runs)
        live = [job.job_id for run in runs for job in there.jobs_of(run) if not job.ended]
        failure: KubectlError | None = None
        try:
            printed = self.kubectl.delete([f"job.batch/{job_id}" for job_id in live])
        except KubectlError as error:
            printed, failure = error.printed.split(), error
        deleted = [job_id for job_id in live if f"job.batch/{job_id}" in printed]
        cancelled = End(state=CANCELLED, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        mine = [{job_id: cancelled for job_id in deleted if job_id in run.job_ids} for run in runs]
        keep_ends(self.kubectl, runs, [{**there.ends_of(run), **ends} for run, ends in zip(runs, mine, strict=True)])
        if not failure and (left := [job_id for job_id in live if job_id not in deleted]):
            failure = KubectlError(f"kubectl delete did not say that it deleted job {', '.join(left)}")
            return Cancelled(job_ids=deleted, failure=failure, unsure=True)
        return Cancelled(job_ids=deleted, failure=failure)

    def follow(self, run: Run) -> None:
        """The first node's pods one after the other, the last one followed until the Job has ended."""
        printed: set[str] = set()
        last = ""
        while True:
            there = look_for(self.kubectl, [run])
            job, pods = there.jobs_of(run)[-1], there.pods
            for pod in first_pods(pods):
                if name_of(pod) not in printed and pod["status"].get("phase") != "Pending":
                    printed.add(name_of(pod))
                    words = ("logs", "--follow", name_of(pod), "--container", CONTAINER)
                    command = self.kubectl.command(*words, endless=True)
                    subprocess.run(command, env=self.kubectl.environment, check=False)
            if job.text != last and job.state not in ("RUNNING", ENDING):
                cli.say(f"job {job.text}")
            last = job.text
            if job.ended:
                self._print_others([pod for pod in pods if name_of(pod) not in printed])
                # Read anew: others have looked at the run since, and kept what they saw.
                if found := self.named(run.run_id):
                    keep_ends(self.kubectl, found.runs, [there.ends_of(one) for one in found.runs])
                return
            time.sleep(ASK_S)

    def _print_others(self, pods: Sequence[Object]) -> None:
        """The end of what other nodes' pods said before they failed: the reason may stand there alone."""
        for pod in pods:
            if pod["status"].get("phase") == "Failed":
                print(f"-- {name_of(pod)}\n{self.kubectl.log(pod, FAILED_LINES)}", end="")

    def _readable(self) -> list[Run]:
        """Oldest first."""
        return [run for found in self.kubectl.find("configmaps") if (run := readable(found))]


def readable(config_map: Object) -> Run | None:
    try:
        return read_run(config_map)
    except ConfigError:
        return None


def label(item: Object) -> str:
    """The id of the run that an object belongs to, as its label has it."""
    return str(item["metadata"].get("labels", {}).get(INSTANCE, ""))


def place(given: Given, environ: Given, project_dir: Path) -> Runs:
    """Raises ConfigError for a wrong NAMESPACE or site file."""
    by_site = find_site(given, project_dir, environ).texts.get("NAMESPACE")
    asked = parse_given({k: v for k, v in {"NAMESPACE": given.get("NAMESPACE", by_site)}.items() if v})
    return Runs(kubectl=Kubectl(environ=environ, namespace=str(asked["NAMESPACE"]) if asked else None))
