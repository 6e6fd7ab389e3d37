"""The verbs after submit: status, logs, cancel and list (resume is k8s/resume.py); and site, which asks what there is.

RUN names a run, or a sweep: then all its members are meant. What they see of a Job's end, they keep with the run.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from k8s.jobs import CANCELLED, COMPLETED, End, first_pods
from k8s.kubectl import Kubectl, KubectlError, Object, name_of
from k8s.pod import CONTAINER
from k8s.runs import Run, called, find, keep_ends, kubectl_of, label, look, look_for, readable, records_of
from k8s.submit import Given, words
from launcher import cli
from launcher.progress import list_text, status_text
from trainer.outcome import FINISHED, ConfigError

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
        there = look_for(kubectl, runs)
        print(status_text(look(kubectl, runs[0], there), words(given, runs[0].run_id)))
        keep_ends(kubectl, runs, [there.ends_of(runs[0])])
    return FINISHED


def list_runs(given: Given, environ: Given, project_dir: Path) -> int:
    if "RUN" in given:
        raise ConfigError(f"RUN={given['RUN']}: list shows all; make status RUN=... shows one")
    kubectl = kubectl_of(given, environ, project_dir)
    records = records_of(kubectl)[::-1]
    if not records:
        print("no run in this namespace")
        return FINISHED
    _print_rows(kubectl, [readable(found) or label(found) or name_of(found) for found in records[:LISTED]])
    if len(records) > LISTED:
        print(f"and {len(records) - LISTED} older")
    return FINISHED


def _print_rows(kubectl: Kubectl, runs: Sequence[Run | str]) -> None:
    """A line a run; of one that cannot be read only its id is known."""
    there = look_for(kubectl, runs)
    print(list_text([run if isinstance(run, str) else look(kubectl, run, there) for run in runs]))
    read = [run for run in runs if isinstance(run, Run)]
    keep_ends(kubectl, read, [there.ends_of(run) for run in read])


def cancel(given: Given, environ: Given, project_dir: Path) -> int:
    kubectl, runs = find(given, environ, project_dir, only=True)
    there = look_for(kubectl, runs)
    live = [job.job_id for run in runs for job in there.jobs_of(run) if not job.ended]
    name, which, them = called(given, runs)
    if not live:
        print(f"{which} has no job that is pending or running")
        keep_ends(kubectl, runs, [there.ends_of(run) for run in runs])
        return FINISHED
    try:
        printed, failure = kubectl.delete([f"job.batch/{job_id}" for job_id in live]), None
    except KubectlError as error:
        printed, failure = error.printed.split(), error
    deleted = [job_id for job_id in live if f"job.batch/{job_id}" in printed]
    cancelled = End(state=CANCELLED, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    mine = [{job_id: cancelled for job_id in deleted if job_id in run.job_ids} for run in runs]
    keep_ends(kubectl, runs, [{**there.ends_of(run), **ends} for run, ends in zip(runs, mine, strict=True)])
    said = f"job {', '.join(deleted)}" if len(runs) == 1 else f"{len(deleted)} job{'s' * (len(deleted) > 1)}"
    if deleted:
        print(f"cancelled {said} of {which}; make resume {words(given, name)} starts {them} again", flush=True)
    if failure:
        raise failure
    if left := [job_id for job_id in live if job_id not in deleted]:
        raise KubectlError(
            f"kubectl delete did not say that it deleted job {', '.join(left)}: make status {words(given, name)} "
            "shows what is there"
        )
    return FINISHED


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
            run = (running or [run for state, run in states if state != COMPLETED] or runs)[0]
            cli.say(f"{called(given, runs)[1]}: this is {run.run_id}, RUN= shows another")
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
                words = ("logs", "--follow", name_of(pod), "--container", CONTAINER)
                subprocess.run(kubectl.command(*words, endless=True), env=kubectl.environment, check=False)
        if job.text != last and job.state != "RUNNING":
            cli.say(f"job {job.text}")
        last = job.text
        if job.ended:
            _print_others(kubectl, [pod for pod in pods if name_of(pod) not in printed])
            keep_ends(kubectl, [run], [there.ends_of(run)])
            return
        time.sleep(ASK_S)


def _print_others(kubectl: Kubectl, pods: Sequence[Object]) -> None:
    """The end of what other nodes' pods said before they failed: the reason may stand there alone."""
    for pod in pods:
        if pod["status"].get("phase") == "Failed":
            print(f"-- {name_of(pod)}\n{kubectl.log(pod, FAILED_LINES)}", end="")
