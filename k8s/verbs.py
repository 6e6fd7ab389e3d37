"""The verbs after submit: status, logs, cancel, resume and list; and site, which asks what there is.

A run is found by its labels. Its ConfigMap holds run.json and stays when the Job is gone, so a run can be resumed
after its Job was deleted.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate_configs.job import JobSpec
from accelerate_configs.request.variables import BY_NAME, parse_given
from accelerate_configs.runs import cli
from accelerate_configs.runs.progress import OUTCOMES, Seen, list_text, status_text
from accelerate_configs.runs.recorded import read_spec
from k8s.kubectl import Kubectl, Object, first_pods, is_live, name_of, pods_of, see_job
from k8s.manifest import INSTANCE
from k8s.pod import CONTAINER, DEFAULT_CLAIM
from k8s.request import complete
from k8s.site import find_site, read_cluster
from k8s.submit import Given, follow_up, rehearse, words
from trainer.files import RECORD_NAME
from trainer.outcome import FINISHED, ConfigError
from trainer.text import nearest

TAKES = ("RUN", "NAMESPACE", "SITE")
# What a resumed run may be given anew: where and how long it runs, never what it computes.
CHANGES = ("TIME", "QUEUE", "CPUS", "MEM", "IMAGE")
LISTED = 30
TAIL_LINES, FAILED_LINES = 400, 20
ASK_S = 2.0


def site(given: Given, environ: Given, project_dir: Path) -> int:
    from k8s.draft import ask

    if odd := [name for name in given if name != "NAMESPACE"]:
        raise ConfigError(f"{odd[0]}: site takes NAMESPACE only: make site TO=k8s > k8s/site.yaml")
    print(ask(_kubectl({**given, "SITE": "none"}, environ, project_dir)), end="")
    return FINISHED


def status(given: Given, environ: Given, project_dir: Path) -> int:
    kubectl = _kubectl(given, environ, project_dir)
    if members := _members(kubectl, given):
        _print_rows(kubectl, members)
        return FINISHED
    kubectl, run = _find(given, environ, project_dir)
    print(status_text(_look(kubectl, run), words(given, run.run_id)))
    return FINISHED


def list_runs(given: Given, environ: Given, project_dir: Path) -> int:
    if "RUN" in given:
        raise ConfigError(f"RUN={given['RUN']}: list shows all; make status RUN=... shows one")
    kubectl = _kubectl(given, environ, project_dir)
    records = _records(kubectl)[::-1]
    if not records:
        print("no run in this namespace")
        return FINISHED
    _print_rows(kubectl, [_readable(found) or _label(found) for found in records[:LISTED]])
    if len(records) > LISTED:
        print(f"and {len(records) - LISTED} older")
    return FINISHED


def _print_rows(kubectl: Kubectl, runs: Sequence[_Run | str]) -> None:
    """A line a run; of one that cannot be read only its id is known."""
    jobs, pods = kubectl.find("jobs"), kubectl.find("pods")
    print(list_text([r if isinstance(r, str) else _seen(kubectl, r, jobs, pods) for r in runs]))


def cancel(given: Given, environ: Given, project_dir: Path) -> int:
    kubectl = _kubectl(given, environ, project_dir)
    if members := _members(kubectl, given):
        live = [job.job_id for run in members for job in _look(kubectl, run).jobs if not job.ended]
        if live:
            kubectl.run("delete", "job", *live, "--wait=false")
        print(f"cancelled {len(live)} of {len(members)} members; make resume starts one again by its own RUN")
        return FINISHED
    kubectl, run = _find(given, environ, project_dir, only=True)
    live = [job.job_id for job in _look(kubectl, run).jobs if not job.ended]
    if not live:
        print(f"run {run.run_id} has no job that is pending or running")
        return FINISHED
    kubectl.run("delete", "job", *live, "--wait=false")
    print(
        f"cancelled job {', '.join(live)} of run {run.run_id}; make resume {words(given, run.run_id)} starts it again"
    )
    return FINISHED


def resume(given: Given, environ: Given, project_dir: Path) -> int:
    """A new Job under the same run id, from the request in the ConfigMap."""
    kubectl, run = _find(given, environ, project_dir, only=True, takes=(*TAKES, *CHANGES))
    seen = _look(kubectl, run)
    for job in seen.jobs:
        if not job.ended:
            said = f"job {job.job_id} of run {run.run_id} is {job.state}"
            raise ConfigError(f"{said}: make cancel {words(given, run.run_id)} ends it, then resume")
    if seen.finished:
        raise ConfigError(f"run {run.run_id} is finished ({seen.place}): make submit TO=k8s starts another")
    # A cancelled Job is gone at once, and its pods when they have saved.
    if left := [pod for pod in kubectl.find("pods", run.run_id) if is_live(pod)]:
        raise ConfigError(
            f"pod {name_of(left[0])} of run {run.run_id} still writes its checkpoints: try again when it has gone "
            f"({' '.join(kubectl.command('get', 'pods', '--watch', '--selector'))} {INSTANCE}={run.run_id})"
        )
    anew = parse_given({name: text for name, text in given.items() if name in CHANGES})
    changes = {str(BY_NAME[name].field): value for name, value in anew.items()}
    cluster = read_cluster(find_site(given, project_dir, environ), {"PVC": run.spec.pvc or DEFAULT_CLAIM})
    decided = complete(replace(run.spec, **changes), cluster, project_dir)  # type: ignore[arg-type]
    text = decided.render(run.job_ids)
    rehearse(kubectl, decided, text=text)
    kubectl.run("apply", "--filename", "-", text=text)
    print(follow_up(decided, given, attempt=len(run.job_ids) + 1))
    return FINISHED


def logs(given: Given, environ: Given, project_dir: Path) -> int:
    """The first node's pods one after the other, the last one followed until the Job has ended; Ctrl-C leaves."""
    try:
        kubectl, run = _find(given, environ, project_dir)
        _follow(kubectl, run)
    except KeyboardInterrupt:
        pass
    return FINISHED


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A run as its ConfigMap has it."""

    spec: JobSpec
    job_ids: tuple[str, ...]

    @property
    def run_id(self) -> str:
        return self.spec.run_id


def _read_run(config_map: Object) -> _Run:
    """Raises ConfigError, in one line, when its run.json is not what submit wrote."""
    where = f"ConfigMap {name_of(config_map)}"
    try:
        record = json.loads(config_map["data"][RECORD_NAME])
        job_ids = tuple(str(job_id) for job_id in record["job_ids"])
        return _Run(spec=read_spec(record["spec"], project_dir=Path("/")), job_ids=job_ids)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {RECORD_NAME} is not what submit wrote ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: spec: {error}") from error


def _follow(kubectl: Kubectl, run: _Run) -> None:
    printed: set[str] = set()
    last = ""
    while True:
        # Asked before the pods: what began before the Job ended is among them.
        seen = _look(kubectl, run)
        pods = kubectl.find("pods", run.run_id)
        for pod in first_pods(pods):
            if name_of(pod) not in printed and pod["status"].get("phase") != "Pending":
                printed.add(name_of(pod))
                command = kubectl.command("logs", "--follow", name_of(pod), "--container", CONTAINER)
                subprocess.run(command, env=dict(kubectl.environ), check=False)
        job = seen.jobs[-1]
        if job.text != last and job.state != "RUNNING":
            cli.say(f"job {job.text}")
        last = job.text
        if job.ended:
            _print_others(kubectl, [pod for pod in pods if name_of(pod) not in printed])
            return
        time.sleep(ASK_S)


def _print_others(kubectl: Kubectl, pods: Sequence[Object]) -> None:
    """The end of what other nodes' pods said before they failed: the reason may stand there alone."""
    for pod in pods:
        if pod["status"].get("phase") == "Failed":
            print(f"-- {name_of(pod)}\n{kubectl.log(pod, FAILED_LINES)}", end="")


def _look(kubectl: Kubectl, run: _Run) -> Seen:
    return _seen(kubectl, run, kubectl.find("jobs", run.run_id), kubectl.find("pods", run.run_id))


def _seen(kubectl: Kubectl, run: _Run, jobs: Sequence[Object], pods: Sequence[Object]) -> Seen:
    there = {name_of(job): job for job in jobs}
    seen = [
        see_job(i, there.get(i), pods_of(i, pods), limit_min=run.spec.time_limit_min, now=time.time())
        for i in run.job_ids
    ]
    talking = [
        pod for i in run.job_ids for pod in first_pods(pods_of(i, pods)) if pod["status"].get("phase") != "Pending"
    ]
    where = f"claim {run.spec.pvc or DEFAULT_CLAIM}, {run.spec.run_dir}"
    return Seen(
        run_id=run.run_id,
        jobs=seen,
        said=kubectl.log(talking[-1], TAIL_LINES) if talking else "",
        place=where,
        made=OUTCOMES if seen[-1].state == "COMPLETED" else (),
        look=f"mount the claim and open {run.spec.run_dir}/report.html",
    )


def _find(
    given: Given, environ: Given, project_dir: Path, *, only: bool = False, takes: Sequence[str] = TAKES
) -> tuple[Kubectl, _Run]:
    """The run of RUN; without it the newest, or with `only` the only one. Raises ConfigError when there is none."""
    kubectl = _kubectl(given, environ, project_dir, takes)
    if run_id := given.get("RUN"):
        parse_given({"RUN": run_id})
        if found := kubectl.find("configmaps", run_id):
            return kubectl, _read_run(found[-1])
    if members := _members(kubectl, given):
        names = ", ".join(run.run_id for run in members[:5])
        raise ConfigError(f"RUN={run_id} is a sweep: say which of its {len(members)} members: {names}")
    runs = _runs(kubectl)
    known = [run.run_id for run in runs[::-1]]
    if not known:
        raise ConfigError("no run in this namespace: make submit TO=k8s starts one, NAMESPACE= looks in another")
    if run_id:
        near = nearest(run_id, known) or ":"
        raise ConfigError(f"RUN={run_id}: no such run{near} known are {', '.join(known[:5])}")
    if only and len(known) > 1:
        raise ConfigError(f"which of {len(known)} runs? say RUN= one of {', '.join(known[:5])}")
    cli.say(f"RUN is left out: {known[0]}, the newest")
    return kubectl, runs[-1]


def _members(kubectl: Kubectl, given: Given) -> list[_Run]:
    """Those of the sweep that RUN names, if it names one."""
    if "RUN" not in given or kubectl.find("configmaps", given["RUN"]):
        return []
    return [run for run in _runs(kubectl) if run.spec.sweep == given["RUN"]]


def _runs(kubectl: Kubectl) -> list[_Run]:
    """All runs of the namespace that can be read, oldest first."""
    return [run for found in _records(kubectl) if (run := _readable(found))]


def _records(kubectl: Kubectl) -> list[Object]:
    return [found for found in kubectl.find("configmaps") if RECORD_NAME in found.get("data", {})]


def _readable(config_map: Object) -> _Run | None:
    try:
        return _read_run(config_map)
    except ConfigError:
        return None


def _label(config_map: Object) -> str:
    """The run's id as its label has it."""
    return str(config_map["metadata"]["labels"][INSTANCE])


def _kubectl(given: Given, environ: Given, project_dir: Path, takes: Sequence[str] = TAKES) -> Kubectl:
    if odd := [name for name in given if name not in takes]:
        raise ConfigError(f"{odd[0]}={given[odd[0]]}: only {', '.join(takes)} count here, leave it out")
    by_site = find_site(given, project_dir, environ).texts.get("NAMESPACE")
    asked = parse_given({k: v for k, v in {"NAMESPACE": given.get("NAMESPACE", by_site)}.items() if v})
    return Kubectl(environ=environ, namespace=str(asked["NAMESPACE"]) if asked else None)
