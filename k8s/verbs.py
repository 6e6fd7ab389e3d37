"""The verbs after submit: status, logs, cancel, resume and list; and site, which asks what there is.

RUN names a run, or a sweep: then all its members are meant. A run can be resumed after its Job was deleted.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate_configs.request.variables import BY_NAME, parse_given
from accelerate_configs.runs import cli
from accelerate_configs.runs.progress import list_text, status_text
from k8s.kubectl import Kubectl, Object, first_pods, is_live, name_of
from k8s.manifest import INSTANCE
from k8s.pod import CONTAINER, DEFAULT_CLAIM
from k8s.request import complete
from k8s.runs import TAKES, Objects, Run, find, kubectl_of, label, look, look_for, place_of, readable, records_of
from k8s.site import find_site, read_cluster
from k8s.submit import Given, follow_up, rehearse, words
from trainer.outcome import FINISHED, ConfigError

# What a resumed run may be given anew: where and how long it runs, never what it computes.
CHANGES = ("TIME", "QUEUE", "CPUS", "MEM", "IMAGE")
LISTED = 30
FAILED_LINES = 20
ASK_S = 2.0


def site(given: Given, environ: Given, project_dir: Path) -> int:
    from k8s.draft import ask

    if odd := [name for name in given if name != "NAMESPACE"]:
        raise ConfigError(f"{odd[0]}: site takes NAMESPACE only: make site TO=k8s > k8s/site.yaml")
    print(ask(kubectl_of({**given, "SITE": "none"}, environ, project_dir)), end="")
    return FINISHED


def status(given: Given, environ: Given, project_dir: Path) -> int:
    kubectl, runs = find(given, environ, project_dir)
    if len(runs) > 1:
        _print_rows(kubectl, runs)
    else:
        print(status_text(look(kubectl, runs[0], look_for(kubectl, runs)), words(given, runs[0].run_id)))
    return FINISHED


def list_runs(given: Given, environ: Given, project_dir: Path) -> int:
    if "RUN" in given:
        raise ConfigError(f"RUN={given['RUN']}: list shows all; make status RUN=... shows one")
    kubectl = kubectl_of(given, environ, project_dir)
    records = records_of(kubectl)[::-1]
    if not records:
        print("no run in this namespace")
        return FINISHED
    _print_rows(kubectl, [readable(found) or label(found) for found in records[:LISTED]])
    if len(records) > LISTED:
        print(f"and {len(records) - LISTED} older")
    return FINISHED


def _print_rows(kubectl: Kubectl, runs: Sequence[Run | str]) -> None:
    """A line a run; of one that cannot be read only its id is known."""
    there = look_for(kubectl, runs)
    print(list_text([run if isinstance(run, str) else look(kubectl, run, there) for run in runs]))


def cancel(given: Given, environ: Given, project_dir: Path) -> int:
    kubectl, runs = find(given, environ, project_dir, only=True)
    there = look_for(kubectl, runs)
    live = [job.job_id for run in runs for job in there.jobs_of(run) if not job.ended]
    name, which, them = _called(given, runs)
    if not live:
        print(f"{which} has no job that is pending or running")
        return FINISHED
    kubectl.run("delete", "job", *live, "--wait=false")
    said = f"job {', '.join(live)}" if len(runs) == 1 else f"{len(live)} job{'s' * (len(live) > 1)}"
    print(f"cancelled {said} of {which}; make resume {words(given, name)} starts {them} again")
    return FINISHED


def resume(given: Given, environ: Given, project_dir: Path) -> int:
    """A new Job under the same run id, from the request in the ConfigMap; of a sweep, for each unfinished member."""
    kubectl, runs = find(given, environ, project_dir, only=True, takes=(*TAKES, *CHANGES))
    there = look_for(kubectl, runs)
    refused = [_needs_no_job(run, there, given) for run in runs]
    left = [run for run, said in zip(runs, refused, strict=True) if not said]
    name, which, _ = _called(given, runs)
    if not left:
        raise ConfigError(
            refused[0] if len(runs) == 1 else f"{which} has no member that is unfinished and without a job"
        )
    # A cancelled Job is gone at once, and its pods when they have saved.
    for run in left:
        if saving := [pod for pod in there.pods if is_live(pod) and label(pod) == run.run_id]:
            raise ConfigError(
                f"pod {name_of(saving[0])} of run {run.run_id} still writes its checkpoints: try again when it has "
                f"gone ({' '.join(kubectl.command('get', 'pods', '--watch', '--selector'))} {INSTANCE}={run.run_id})"
            )
    anew = parse_given({name: text for name, text in given.items() if name in CHANGES})
    changes = {str(BY_NAME[name].field): value for name, value in anew.items()}
    site = find_site(given, project_dir, environ)
    again = []
    for run in left:
        cluster = read_cluster(site, {"PVC": run.spec.pvc or DEFAULT_CLAIM})
        again.append(complete(replace(run.spec, **changes), cluster, project_dir))  # type: ignore[arg-type]
    text = "---\n".join(new.render(run.job_ids) for new, run in zip(again, left, strict=True))
    rehearse(kubectl, *again, text=text)
    kubectl.run("apply", "--filename", "-", text=text)
    if len(runs) == 1:
        print(follow_up(again[0], given, attempt=len(left[0].job_ids) + 1))
    else:
        print(f"new jobs for {', '.join(run.run_id for run in left)}\nstatus  make status {words(given, name)}")
    return FINISHED


def _called(given: Given, runs: Sequence[Run]) -> tuple[str, str, str]:
    """(what RUN takes, what a person calls it, and then)."""
    if len(runs) == 1:
        return runs[0].run_id, f"run {runs[0].run_id}", "it"
    return given["RUN"], f"sweep {given['RUN']}", "them"


def _needs_no_job(run: Run, there: Objects, given: Given) -> str:
    """Why not; nothing where it may be resumed."""
    jobs = there.jobs_of(run)
    for job in jobs:
        if not job.ended:
            said = f"job {job.job_id} of run {run.run_id} is {job.state}"
            return f"{said}: make cancel {words(given, run.run_id)} ends it, then resume"
    finished = jobs[-1].state == "COMPLETED"
    return f"run {run.run_id} is finished ({place_of(run)}): make submit TO=k8s starts another" if finished else ""


def logs(given: Given, environ: Given, project_dir: Path) -> int:
    """The first node's pods one after the other, the last one followed until the Job has ended; Ctrl-C leaves.

    Of a sweep those of the first member that is running, else of the first that is not finished, else of the first.
    """
    try:
        kubectl, runs = find(given, environ, project_dir)
        run = runs[0]
        if len(runs) > 1:
            there = look_for(kubectl, runs)
            states = [(there.jobs_of(run)[-1].state, run) for run in runs]
            running = [run for state, run in states if state == "RUNNING"]
            run = (running or [run for state, run in states if state != "COMPLETED"] or runs)[0]
            cli.say(f"{_called(given, runs)[1]}: this is {run.run_id}, RUN= shows another")
        _follow(kubectl, run)
    except KeyboardInterrupt:
        pass
    return FINISHED


def _follow(kubectl: Kubectl, run: Run) -> None:
    printed: set[str] = set()
    last = ""
    while True:
        there = look_for(kubectl, [run])
        job, pods = there.jobs_of(run)[-1], there.pods
        for pod in first_pods(pods):
            if name_of(pod) not in printed and pod["status"].get("phase") != "Pending":
                printed.add(name_of(pod))
                command = kubectl.command("logs", "--follow", name_of(pod), "--container", CONTAINER)
                subprocess.run(command, env=dict(kubectl.environ), check=False)
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
