"""The runs in a namespace, found by their labels, and how their Jobs and pods stand.

A run's ConfigMap holds run.json and stays when the Job is gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate_configs.job import JobSpec
from accelerate_configs.request.variables import parse_given
from accelerate_configs.runs import cli
from accelerate_configs.runs.progress import OUTCOMES, Job, Seen
from accelerate_configs.runs.recorded import read_spec
from k8s.kubectl import Kubectl, Object, first_pods, name_of, pods_of, see_job
from k8s.manifest import INSTANCE
from k8s.pod import DEFAULT_CLAIM
from k8s.site import find_site
from k8s.submit import Given
from trainer.files import RECORD_NAME
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

TAKES = ("RUN", "NAMESPACE", "SITE")
TAIL_LINES = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as its ConfigMap has it."""

    spec: JobSpec
    job_ids: tuple[str, ...]

    @property
    def run_id(self) -> str:
        return self.spec.run_id


def read_run(config_map: Object) -> Run:
    """Raises ConfigError, in one line, when its run.json is not what submit wrote."""
    where = f"ConfigMap {name_of(config_map)}"
    try:
        record = json.loads(config_map["data"][RECORD_NAME])
        first, *others = record["job_ids"]
        run = Run(spec=read_spec(record["spec"], project_dir=Path("/")), job_ids=(str(first), *map(str, others)))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {RECORD_NAME} is not what submit wrote ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: spec: {error}") from error
    if run.run_id != label(config_map):
        raise ConfigError(f"{where}: run_id is {shown(run.run_id)}, its label says {shown(label(config_map))}")
    return run


@dataclass(frozen=True, kw_only=True, slots=True)
class Objects:
    """What the cluster has of some runs now."""

    jobs: Sequence[Object]
    pods: Sequence[Object]

    def jobs_of(self, run: Run) -> list[Job]:
        """Oldest first. Another run's Job is none of this one's, whatever its ConfigMap says."""
        there = {name_of(job): job for job in self.jobs if label(job) == run.run_id}
        limit_min, now = run.spec.time_limit_min, time.time()
        return [see_job(i, there.get(i), pods_of(i, self.pods), limit_min=limit_min, now=now) for i in run.job_ids]


def look_for(kubectl: Kubectl, runs: Sequence[Run | str]) -> Objects:
    """Those of one run, or of all when there are several."""
    only = runs[0].run_id if len(runs) == 1 and isinstance(runs[0], Run) else None
    jobs = kubectl.find("jobs", only)
    # Asked after the Jobs: what began before one ended is among them.
    return Objects(jobs=jobs, pods=kubectl.find("pods", only))


def look(kubectl: Kubectl, run: Run, objects: Objects) -> Seen:
    seen, pods = objects.jobs_of(run), objects.pods
    talking = [
        pod for i in run.job_ids for pod in first_pods(pods_of(i, pods)) if pod["status"].get("phase") != "Pending"
    ]
    return Seen(
        run_id=run.run_id,
        jobs=seen,
        said=kubectl.log(talking[-1], TAIL_LINES) if talking else "",
        place=place_of(run),
        made=OUTCOMES if seen[-1].state == "COMPLETED" else (),
        finished=seen[-1].state == "COMPLETED",
        look=f"mount the claim and open {run.spec.run_dir}/report.html",
    )


def place_of(run: Run) -> str:
    return f"claim {run.spec.pvc or DEFAULT_CLAIM}, {run.spec.run_dir}"


def find(
    given: Given, environ: Given, project_dir: Path, *, only: bool = False, takes: Sequence[str] = TAKES
) -> tuple[Kubectl, list[Run]]:
    """The run of RUN, or the members of the sweep that it names; without RUN the newest, or with `only` the only one.

    Raises ConfigError when there is none.
    """
    kubectl = kubectl_of(given, environ, project_dir, takes)
    if run_id := given.get("RUN"):
        parse_given({"RUN": run_id})
        if found := kubectl.find("configmaps", run_id):
            return kubectl, [read_run(found[-1])]
    runs = [run for found in records_of(kubectl) if (run := readable(found))]
    if run_id and (members := [run for run in runs if run.spec.sweep == run_id]):
        return kubectl, members
    known = [run.run_id for run in runs[::-1]]
    if not known:
        raise ConfigError("no run in this namespace: make submit TO=k8s starts one, NAMESPACE= looks in another")
    if run_id:
        near = nearest(run_id, known) or ":"
        raise ConfigError(f"RUN={run_id}: no such run{near} known are {', '.join(known[:5])}")
    if only and len(known) > 1:
        raise ConfigError(f"which of {len(known)} runs? say RUN= one of {', '.join(known[:5])}")
    cli.say(f"RUN is left out: {known[0]}, the newest")
    return kubectl, runs[-1:]


def records_of(kubectl: Kubectl) -> list[Object]:
    """The ConfigMaps of all runs in the namespace, oldest first."""
    return [found for found in kubectl.find("configmaps") if RECORD_NAME in found.get("data", {})]


def readable(config_map: Object) -> Run | None:
    try:
        return read_run(config_map)
    except ConfigError:
        return None


def label(item: Object) -> str:
    """The id of the run that an object belongs to, as its label has it."""
    return str(item["metadata"].get("labels", {}).get(INSTANCE, ""))


def kubectl_of(given: Given, environ: Given, project_dir: Path, takes: Sequence[str] = TAKES) -> Kubectl:
    if odd := [name for name in given if name not in takes]:
        raise ConfigError(f"{odd[0]}={given[odd[0]]}: only {', '.join(takes)} count here, leave it out")
    by_site = find_site(given, project_dir, environ).texts.get("NAMESPACE")
    asked = parse_given({k: v for k, v in {"NAMESPACE": given.get("NAMESPACE", by_site)}.items() if v})
    return Kubectl(environ=environ, namespace=str(asked["NAMESPACE"]) if asked else None)
