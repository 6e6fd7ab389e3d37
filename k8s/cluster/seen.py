"""The runs in a namespace: their ConfigMaps, with run.json and the ends of their Jobs, their Jobs and their pods. A
run's ConfigMap is owned by no Job, so it stays when the Jobs are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from k8s.cluster.ends import ENDS_KEY, End, ends_text, read_ends, see_end
from k8s.cluster.jobs import NOTHING, Around, is_live, pods_of, see_job, waits_for_kueue
from k8s.cluster.kubectl import Kubectl, KubectlError, Object, name_of
from k8s.cluster.placing import lacks_room
from k8s.manifest.objects import INSTANCE, SLOT_LABEL
from launcher import cli
from launcher.progress import Job
from launcher.restore_spec import read_spec
from planner.job import JobSpec
from trainer.files import RECORD_NAME, parse_json
from trainer.outcome import ConfigError
from trainer.text import shown

WORKLOADS = "workloads.kueue.x-k8s.io"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run, read from its ConfigMap."""

    spec: JobSpec
    job_ids: tuple[str, ...]
    ends: Mapping[str, End]
    """How Jobs ended, by name, as far as a verb has seen it."""
    config_map: Object

    @property
    def run_id(self) -> str:
        return self.spec.run_id

    @property
    def slot(self) -> str:
        """Its slot among the members of its sweep; empty when all may run at once."""
        return str(self.config_map["metadata"].get("labels", {}).get(SLOT_LABEL, ""))


def read_run(config_map: Object) -> Run:
    """The run in a ConfigMap. Raises ConfigError, in one line, when its run.json or ends.json is not what the verbs
    wrote."""
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


def readable(config_map: Object) -> Run | None:
    try:
        return read_run(config_map)
    except ConfigError:
        return None


def label(item: Object) -> str:
    """The id of the run that an object belongs to, from its label."""
    return str(item["metadata"].get("labels", {}).get(INSTANCE, ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Objects:
    """The present objects of some runs in the cluster."""

    jobs: Sequence[Object]
    pods: Sequence[Object]
    around: Around = field(default_factory=Around)

    def jobs_of(self, run: Run) -> list[Job]:
        """The run's jobs, oldest first. Another run's Job is never included, whatever the ConfigMap says."""
        there, now = self._jobs_there(run), time.time()
        return [
            see_job(
                *(i, there.get(i), pods_of(i, self.pods)),
                limit_min=run.spec.resources.time_limit_min,
                mem_gib=run.spec.resources.mem_gib,
                now=now,
                kept=run.ends.get(i),
                around=self.around,
            )
            for i in run.job_ids
        ]

    def ends_of(self, run: Run) -> dict[str, End]:
        """The ends that the run's ConfigMap keeps, and those of ended Jobs."""
        seen = {i: see_end(job, pods_of(i, self.pods)) for i, job in self._jobs_there(run).items() if i in run.job_ids}
        return {**{job_id: end for job_id, end in seen.items() if end}, **run.ends}

    def _jobs_there(self, run: Run) -> dict[str, Object]:
        return {name_of(job): job for job in self.jobs if label(job) == run.run_id}


def find_objects(kubectl: Kubectl, runs: Sequence[Run], *, around: bool = True) -> Objects:
    """The objects of one run, or of all runs when several are given; without `around` only their Jobs and pods, which
    tell whether a Job has ended."""
    # One call, which asks for the pods after the Jobs: what began before one ended is among them.
    found = kubectl.find("jobs,pods", runs[0].run_id if len(runs) == 1 else None)
    jobs, pods = ([item for item in found if item.get("kind") == kind] for kind in ("Job", "Pod"))
    return Objects(jobs=jobs, pods=pods, around=_look_around(kubectl, jobs, pods) if around else NOTHING)


def _look_around(kubectl: Kubectl, jobs: Sequence[Object], pods: Sequence[Object]) -> Around:
    """Further objects, which are asked for only when a Job has not ended and is not clearly running."""
    live = [pod for pod in pods if is_live(pod)]
    going = [job for job in jobs if not see_end(job, ())]
    calm = all(_running(job, pods_of(name_of(job), live)) for job in going)
    names = sorted({str(pod["spec"]["nodeName"]) for pod in live if "nodeName" in pod["spec"]})
    # All of them where one that is large enough may be missing.
    nodes = partial(kubectl.items, "nodes") if any(map(lacks_room, live)) else partial(kubectl.named, "nodes", names)
    return Around(
        workloads=_maybe(lambda: kubectl.items(WORKLOADS)) if any(map(waits_for_kueue, jobs)) else (),
        events=() if calm else _maybe(lambda: kubectl.items("events", "--field-selector", "type=Warning")),
        nodes=_maybe(nodes) if going else (),
    )


def _running(job: Object, live: Sequence[Object]) -> bool:
    """Whether every pod that the Job wants is running."""
    wanted = 0 if job["spec"].get("suspend") else int(job["spec"].get("parallelism", 1))
    return len([pod for pod in live if pod["status"]["phase"] == "Running"]) >= wanted


def _maybe(ask: Callable[[], Sequence[Object]]) -> Sequence[Object]:
    """Nothing where the cluster has no such kind, or one may not look: status then says what it knows without them."""
    try:
        return ask()
    except KubectlError:
        return ()


def keep_ends(kubectl: Kubectl, runs: Sequence[Run], ends: Sequence[Mapping[str, End]]) -> None:
    """Write new ends of Jobs into each run's ConfigMap. A failure to write is printed."""
    pairs = zip(runs, ends, strict=True)
    news = [with_data(run, {ENDS_KEY: ends_text(known)}) for run, known in pairs if known != run.ends]
    if not news:
        return
    try:
        kubectl.replace(news)
    except KubectlError as error:
        cli.say(f"how a run ended could not be kept, so it is known only until its Job is removed: {error}")


def with_data(run: Run, data: Mapping[str, str]) -> Object:
    """The run's ConfigMap with `data` added, otherwise as it was read, so that kubectl refuses to overwrite a newer
    one."""
    return {**run.config_map, "data": {**run.config_map["data"], **data}}
