"""What a cluster and the people on it do to the verbs, with the real kubectl: a kuberc, two at once, Jobs that are
gone, queues, roles that may not look, servers that hang."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import KUEUE, RESOURCES, Refused, forbidden
from kube import IMAGE, Cluster, Done

from k8s.cluster.kubectl import Kubectl
from trainer.progress_file import Progress

JOB = "gemma-3-4b-it-mine"
MAKE = "TO=k8s RUN=mine"
SLOW = pytest.mark.slow


@pytest.fixture
def cluster(checkout: Path, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.started(checkout, tmp_path / "cluster") as started:
        yield started


def submitted(cluster: Cluster, *argv: str) -> None:
    done = cluster.k8s("submit", *IMAGE, "--run", "mine", *argv)
    assert done.returncode == 0, done.stderr


def both(cluster: Cluster, *commands: tuple[str, ...]) -> list[Done]:
    """The results of commands that run at the same time, each in a process of its own."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "k8s", *words],
            cwd=cluster.checkout,
            env=cluster.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    said = [process.communicate() for process in started]
    return [Done(one.args, one.returncode, *texts) for one, texts in zip(started, said, strict=True)]


KUBERC = """
apiVersion: kubectl.config.k8s.io/v1beta1
kind: Preference
defaults:
- command: delete
  options: [{name: interactive, default: "true"}]
- command: logs
  options: [{name: timestamps, default: "true"}]
- command: create
  options: [{name: dry-run, default: client}]
- command: get
  options: [{name: output, default: name}]
"""


@pytest.mark.slow
def test_what_a_persons_kuberc_says_changes_nothing(cluster: Cluster) -> None:
    """With it kubectl would ask before it deletes, take no answer for no, and end with 0."""
    (cluster.home / ".kube").mkdir(exist_ok=True)
    (cluster.home / ".kube" / "kuberc").write_text(KUBERC)
    submitted(cluster)
    cluster.pod(JOB, "p", "step  2/20  loss 0.5\n", phase="Failed")
    cluster.end(JOB, "Failed")
    assert cluster.kubectl("logs", "p").stdout.startswith("2026-")  # the kuberc is read
    assert cluster.kubectl("delete", "job", JOB).returncode == 0 and JOB in cluster.objects("jobs")
    assert cluster.k8s("logs").stdout == "step  2/20  loss 0.5\n"
    del cluster.objects("jobs")[JOB]["status"]
    del cluster.server.objects["pods", "default", "p"]
    done = cluster.k8s("cancel")
    assert (done.returncode, done.stdout) == (
        0,
        f"cancelled job {JOB} of run mine; make resume {MAKE} starts it again\n",
    )
    assert cluster.objects("jobs") == {}


@pytest.mark.slow
def test_a_cancel_that_deletes_nothing_does_not_say_cancelled(cluster: Cluster) -> None:
    """Whatever stands in kubectl's place and declines with 0."""
    submitted(cluster)
    real = (cluster.bin / "kubectl").resolve()
    (cluster.bin / "kubectl").unlink()
    (cluster.bin / "kubectl").write_text(f'#!/bin/sh\ncase "$*" in *delete*) exit 0;; esac\nexec "{real}" "$@"\n')
    (cluster.bin / "kubectl").chmod(0o755)
    done = cluster.k8s("cancel")
    assert (done.returncode, done.stdout) == (1, "")
    said = f"trainyard: kubectl delete did not say that it deleted job {JOB}: make status {MAKE} shows what is there\n"
    assert done.stderr.endswith(said)
    assert f"job    {JOB} PENDING" in cluster.k8s("status", "--run", "mine").stdout


@pytest.mark.slow
def test_a_cancel_that_the_server_refuses_says_what_it_did_cancel(cluster: Cluster) -> None:
    assert cluster.k8s("sweep", *IMAGE, "--grid", "LORA=low,high", "--run", "first").returncode == 0
    cluster.server.refusals["DELETE jobs gemma-3-4b-it-first-1"] = forbidden("delete", "jobs")
    done = cluster.k8s("cancel", "--run", "first")
    assert (done.returncode, done.stdout) == (
        1,
        "cancelled 1 job of sweep first; make resume TO=k8s RUN=first starts them again\n",
    )
    assert 'cannot delete resource "jobs"' in done.stderr
    assert list(cluster.objects("jobs")) == ["gemma-3-4b-it-first-1"]


@pytest.mark.slow
def test_two_submits_of_a_name_at_once_make_one_run_and_the_other_does_no_harm(cluster: Cluster) -> None:
    """Both have asked for the rehearsal before either creates anything."""
    cluster.server.hooks["POST jobs (dry run)"] = threading.Barrier(2, timeout=60).wait
    limits = ("1h", "2h")
    done = both(cluster, *(("submit", *IMAGE, "--run", "mine", "--time", limit) for limit in limits))
    assert sorted(one.returncode for one in done) == [0, 78], [one.stderr for one in done]
    (won,) = [limit for one, limit in zip(done, limits, strict=True) if one.returncode == 0]
    (lost,) = [one for one in done if one.returncode]
    said = "RUN=mine: exists in this namespace: give another RUN, or none for a new one"
    assert lost.stderr.splitlines()[-1] == f"trainyard: {said}"
    (job,), (config_map,) = cluster.objects("jobs").values(), cluster.objects("configmaps").values()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "TRAINYARD_TIME_LIMIT_S", "value": str(int(won[0]) * 3600)} in container["env"]
    assert json.loads(config_map["data"]["run.json"])["spec"]["time_limit_min"] == int(won[0]) * 60


@pytest.mark.slow
def test_two_sweeps_of_a_name_at_once_make_one_whole_sweep(cluster: Cluster) -> None:
    cluster.server.hooks["POST jobs (dry run)"] = threading.Barrier(2, timeout=60).wait
    grids = ("LORA=low,high", "LEARNING_RATE=1e-4,2e-4")
    done = both(cluster, *(("sweep", *IMAGE, "--grid", grid, "--run", "first") for grid in grids))
    assert sorted(one.returncode for one in done) == [0, 78], [one.stderr for one in done]
    for kind in ("jobs", "configmaps"):
        assert sorted(cluster.objects(kind)) == ["gemma-3-4b-it-first-0", "gemma-3-4b-it-first-1"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after the rehearsal"])
@pytest.mark.parametrize("kind", ["jobs", "services", "configmaps"])
def test_what_somebody_else_has_under_the_name_stays_as_it_was(kind: str, when: str, cluster: Cluster) -> None:
    def appear() -> None:
        cluster.put(kind, JOB, {"metadata": {"labels": {"owner": "ada"}}, "spec": {"template": {}}})

    cluster.put("persistentvolumeclaims", "trainyard", {"spec": {"accessModes": ["ReadWriteMany"]}})
    if when == "before":
        appear()
    else:
        cluster.server.hooks["POST configmaps"] = appear
    done = cluster.k8s("submit", *IMAGE, "--run", "mine", "--gpus", "1", "--nodes", "2")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.endswith("RUN=mine: exists in this namespace: give another RUN, or none for a new one\n")
    left = {k: list(cluster.objects(k)) for k in ("jobs", "services", "configmaps") if cluster.objects(k)}
    assert left == {kind: [JOB]}
    assert cluster.objects(kind)[JOB]["metadata"]["labels"] == {"owner": "ada"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["times out", "hangs up"])
def test_a_server_that_does_not_answer_in_the_middle_leaves_the_run_where_the_verbs_find_it(
    how: str, cluster: Cluster
) -> None:
    """The Job may have been made: without its ConfigMap nobody would know it."""
    if how == "times out":
        cluster.server.refusals["POST jobs"] = Refused(504, "Timeout", "the request did not complete in time")
    else:
        cluster.server.hooks["POST jobs"] = cluster.server.hang_up
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("how much of run mine is there, make status and make cancel say\n")
    assert list(cluster.objects("configmaps")) == [JOB]


@pytest.mark.slow
def test_a_webhook_that_does_not_answer_is_a_refusal_and_leaves_nothing(cluster: Cluster) -> None:
    said = 'failed calling webhook "mjob.kb.io": Post "https://kueue.svc/mutate": context deadline exceeded'
    cluster.server.refusals["POST jobs"] = Refused(500, "InternalError", f"Internal error occurred: {said}")
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    assert (done.returncode, done.stdout, cluster.objects("configmaps")) == (1, "", {})
    assert done.stderr.endswith(f"{said}\n")


@pytest.mark.slow
def test_two_resumes_at_once_start_one_job(cluster: Cluster) -> None:
    submitted(cluster)
    assert cluster.k8s("cancel").returncode == 0
    cluster.server.hooks["POST jobs (dry run)"] = threading.Barrier(2, timeout=60).wait
    done = both(cluster, ("resume", "--run", "mine"), ("resume", "--run", "mine", "--time", "2h"))
    assert sorted(one.returncode for one in done) == [0, 1], [one.stderr for one in done]
    (lost,) = [one for one in done if one.returncode]
    said = "somebody else changes run mine at this moment, nothing is resumed"
    assert lost.stderr.splitlines()[-1] == f"trainyard: {said}"
    assert list(cluster.objects("jobs")) == [f"{JOB}--2"]
    record = json.loads(cluster.objects("configmaps")[JOB]["data"]["run.json"])
    assert record["job_ids"] == [JOB, f"{JOB}--2"]


@pytest.mark.slow
def test_a_resume_that_comes_while_another_is_starting_the_job_waits(cluster: Cluster) -> None:
    """The first has written its job down and not made it yet."""
    submitted(cluster)
    cluster.k8s("cancel")
    second: list[Done] = []
    cluster.server.hooks["POST jobs"] = lambda: second.append(cluster.k8s("resume", "--run", "mine"))
    first = both(cluster, ("resume", "--run", "mine"))[0]
    assert (first.returncode, second[0].returncode) == (0, 78)
    assert f"job {JOB}--2 of run mine was asked for at 20" in second[0].stderr
    assert "somebody may be starting it now; if not, try again in 30 seconds" in second[0].stderr
    assert list(cluster.objects("jobs")) == [f"{JOB}--2"]


@pytest.mark.slow
def test_a_resume_that_the_cluster_refuses_leaves_the_run_as_it_was(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.k8s("cancel")
    before = cluster.objects("configmaps")[JOB]["data"]
    cluster.server.refusals["POST jobs"] = forbidden("create", "jobs")
    done = cluster.k8s("resume", "--run", "mine")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'cannot create resource "jobs"' in done.stderr
    assert (cluster.objects("jobs"), cluster.objects("configmaps")[JOB]["data"]) == ({}, before)
    cluster.server.refusals.clear()
    assert cluster.k8s("resume", "--run", "mine").returncode == 0


SEEN_BY = [
    ("status", "--run", "mine"),
    *(pytest.param(argv, marks=SLOW) for argv in (("list",), ("logs",), ("cancel",))),
]


@pytest.mark.slow
@pytest.mark.parametrize("argv", SEEN_BY)
def test_a_finished_run_stays_finished_when_its_job_is_gone(argv: tuple[str, ...], cluster: Cluster) -> None:
    submitted(cluster)
    cluster.pod(JOB, "p", "step 20/20  loss 0.1\n", phase="Succeeded")
    cluster.end(JOB, "Complete")
    assert cluster.k8s(*argv).returncode == 0
    cluster.forget(JOB)
    assert "ownerReferences" not in cluster.objects("configmaps")[JOB]["metadata"]
    lines = cluster.k8s("status", "--run", "mine").stdout.splitlines()
    assert lines[1] == f"job    {JOB} COMPLETED (at 2026-11-25T02:00:00Z, its Job is gone)"
    assert lines[-2:] == [
        "files  claim trainyard, runs/mine, adapter, report.html",
        "next   mount the claim and open runs/mine/report.html",
    ]
    done = cluster.k8s("resume", "--run", "mine")
    assert (done.returncode, done.stdout, cluster.objects("jobs")) == (78, "", {})
    assert "run mine is finished (claim trainyard, runs/mine): make submit TO=k8s starts another" in done.stderr


@pytest.mark.slow
def test_how_a_run_failed_is_known_when_its_job_is_gone_and_it_can_be_resumed(cluster: Cluster) -> None:
    submitted(cluster)
    killed = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-25T01:59:00Z"}
    earlier = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-25T01:00:00Z"}
    for name, ended in (("p0", earlier), ("p1", killed)):
        cluster.pod(JOB, name, "", phase="Failed", containerStatuses=[{"state": {"terminated": ended}}])
    cluster.end(JOB, "Failed", "BackoffLimitExceeded")
    why = "BackoffLimitExceeded, OOMKilled"
    assert f"job    {JOB} OUT_OF_MEMORY ({why}, exit code 137)\n" in cluster.k8s("status").stdout
    cluster.forget(JOB)
    gone = f"job    {JOB} OUT_OF_MEMORY ({why}, at 2026-11-25T02:00:00Z, its Job is gone, exit code 137)"
    assert cluster.k8s("status").stdout.splitlines()[1] == gone
    assert cluster.k8s("resume", "--run", "mine").returncode == 0
    cluster.end(f"{JOB}--2", "Complete")
    cluster.k8s("status")
    cluster.forget(f"{JOB}--2")
    assert cluster.k8s("status").stdout.splitlines()[1:3] == [
        gone,
        f"       {JOB}--2 COMPLETED (at 2026-11-25T02:00:00Z, its Job is gone)".replace("      ", "job   ", 1),
    ]
    assert cluster.k8s("resume", "--run", "mine").returncode == 78


@pytest.mark.slow
def test_a_wrong_request_is_told_from_the_peers_that_were_stopped_for_it(cluster: Cluster) -> None:
    cluster.put("persistentvolumeclaims", "trainyard", {"spec": {"accessModes": ["ReadWriteMany"]}})
    submitted(cluster, "--gpus", "1", "--nodes", "2")
    for index, (code, at) in enumerate(((78, "01"), (137, "02"))):
        ended = {"exitCode": code, "reason": "Error", "finishedAt": f"2026-11-25T00:00:{at}Z"}
        states = [{"state": {"terminated": ended}}]
        cluster.pod(JOB, f"p{index}", "", phase="Failed", index=str(index), containerStatuses=states)
    said = "Container trainer for pod default/p0 failed with exit code 78 matching FailJob rule at index 2"
    cluster.end(JOB, "Failed", "PodFailurePolicy", said)
    lines = cluster.k8s("status").stdout.splitlines()
    assert lines[1] == f"job    {JOB} FAILED (PodFailurePolicy, exit code 78)"
    assert lines[-1].endswith("(the request is wrong: it says how), then make submit TO=k8s with another")


@pytest.mark.slow
def test_a_run_whose_end_nobody_saw_is_said_to_be_that(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.forget(JOB)
    said = cluster.k8s("status").stdout
    assert f"job    {JOB} GONE (deleted, and nobody saw how it ended)\n" in said
    assert "files  claim trainyard, runs/mine, an adapter perhaps: only the claim can tell\n" in said
    cluster.objects("configmaps")[JOB]["data"]["resumed"] = "no time"  # people edit ConfigMaps
    done = cluster.k8s("resume", "--run", "mine")
    assert (done.returncode, f"job {JOB} of run mine is GONE" in done.stderr) == (0, True)


@pytest.mark.slow
def test_a_role_that_may_not_write_sees_all_the_same(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.end(JOB, "Complete")
    cluster.server.refusals["PUT configmaps"] = forbidden("update", "configmaps")
    done = cluster.k8s("status", "--run", "mine")
    assert (done.returncode, "COMPLETED" in done.stdout, done.stderr.count("\n")) == (0, True, 1)
    assert done.stderr.startswith("trainyard: how a run ended could not be kept, so it is known only until its Job is")
    assert 'cannot update resource "configmaps"' in done.stderr


@pytest.mark.slow
def test_a_sweeps_ends_are_kept_in_one_call_and_once(cluster: Cluster) -> None:
    assert cluster.k8s("sweep", *IMAGE, "--grid", "LORA=low,high", "--run", "first").returncode == 0
    names = [f"gemma-3-4b-it-first-{i}" for i in range(2)]
    for name in names:
        cluster.end(name, "Complete")
    cluster.server.requests.clear()
    cluster.k8s("status", "--run", "first")
    cluster.k8s("status", "--run", "first")
    assert cluster.requests() == [f"PUT configmaps {name}" for name in names]
    for name in names:
        cluster.forget(name)
    rows = [line.split() for line in cluster.k8s("list").stdout.splitlines()[1:]]
    assert [[row[0], row[2], row[-1]] for row in rows] == [[f"first-{i}", "COMPLETED", "yes"] for i in (1, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["no json", "[]", '{"a": 1}', '{"a": {"state": 1}}', '{"a": {"at": "x", "b": "y"}}'])
def test_ends_in_strange_hands_are_one_line(text: str, cluster: Cluster) -> None:
    submitted(cluster)
    cluster.objects("configmaps")[JOB]["data"]["ends.json"] = text
    done = cluster.k8s("status", "--run", "mine")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert done.stderr.startswith(f"trainyard: ConfigMap {JOB}: ")
    assert "BROKEN" in cluster.k8s("list").stdout


def with_queues(cluster: Cluster, **queues: dict[str, Any]) -> None:
    cluster.server.resources = (*RESOURCES, *KUEUE)
    for name, content in queues.items():
        cluster.put("localqueues", name, content)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check", "submit"])
def test_a_queue_is_looked_up_before_anything_is_made(verb: str, cluster: Cluster) -> None:
    def refused(*argv: str) -> str:
        done = cluster.k8s(verb, *IMAGE, *argv)
        assert (done.returncode, done.stdout, cluster.objects("configmaps")) == (78, "", {})
        return done.stderr.removeprefix("trainyard: nothing in the manifest").rpartition("trainyard: ")[2]

    assert refused("--queue", "team-a") == (
        "QUEUE=team-a: this cluster has no Kueue (localqueues.kueue.x-k8s.io), so nothing would queue the job: "
        "leave QUEUE out\n"
    )
    with_queues(cluster)
    assert refused("--queue", "team-a").startswith("QUEUE=team-a: no such queue in the namespace: there is none")
    with_queues(cluster, **{"team-a": {}, "night": {}})
    said = "QUEUE=team-b: no such queue in the namespace, did you mean team-a? known are night, team-a\n"
    assert refused("--queue", "team-b") == said
    (cluster.checkout / "k8s" / "site.yaml").write_text("queue: nihgt\n")
    assert "QUEUE=nihgt: no such queue in the namespace, did you mean night?" in refused()
    assert cluster.k8s(verb, *IMAGE, "--queue", "night", "--run", "mine").returncode == 0


def test_a_queue_that_one_may_not_look_up_is_no_obstacle_and_said(cluster: Cluster) -> None:
    with_queues(cluster)
    cluster.server.refusals["GET localqueues team-a"] = forbidden("get", "localqueues")
    done = cluster.k8s("submit", *IMAGE, "--queue", "team-a", "--run", "mine")
    assert done.returncode == 0
    said = "QUEUE=team-a could not be looked up, your role may not: if it is not there, the job waits for ever\n"
    assert f"trainyard: {said}" in done.stderr


@pytest.mark.slow
def test_a_role_that_may_not_list_queues_is_told_of_the_wrong_one(cluster: Cluster) -> None:
    with_queues(cluster, night={})
    cluster.server.refusals["LIST localqueues"] = forbidden("list", "localqueues")
    done = cluster.k8s("check", *IMAGE, "--queue", "day")
    assert done.returncode == 78
    said = "QUEUE=day: no such queue in the namespace, and your role may not list those there are\n"
    assert done.stderr == f"trainyard: {said}"


@pytest.mark.slow
def test_a_queue_that_takes_no_jobs_is_said(cluster: Cluster) -> None:
    idle = {"type": "Active", "status": "False", "reason": "ClusterQueueDoesNotExist", "message": "no cluster queue x"}
    with_queues(cluster, night={"status": {"conditions": [idle]}})
    done = cluster.k8s("check", *IMAGE, "--queue", "night")
    assert done.returncode == 0
    said = "QUEUE=night takes no jobs now (ClusterQueueDoesNotExist: no cluster queue x): the job waits until it does"
    assert f"trainyard: {said}\n" in done.stderr


@pytest.mark.slow
def test_why_a_job_waits_in_its_queue_is_said(cluster: Cluster) -> None:
    with_queues(cluster, night={})
    submitted(cluster, "--queue", "night")
    cluster.objects("jobs")[JOB]["spec"]["suspend"] = True  # as Kueue's webhook does
    assert f"job    {JOB} PENDING (queue night has not started it)\n" in cluster.k8s("status").stdout
    why = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor a100, 2 more"
    waits = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": why}
    uids = {"other": "of another job", "mine": cluster.objects("jobs")[JOB]["metadata"]["uid"]}
    for name, uid in uids.items():
        said = {"conditions": [{**waits, "message": why if name == "mine" else "not ours"}]}
        labels = {"kueue.x-k8s.io/job-uid": uid}
        cluster.put("workloads", f"job-{name}", {"metadata": {"labels": labels}, "status": said})
    assert f"job    {JOB} PENDING (queue night: {why[:107]}" in cluster.k8s("status").stdout
    cluster.server.refusals["LIST workloads"] = forbidden("list", "workloads")
    assert f"job    {JOB} PENDING (queue night has not started it)\n" in cluster.k8s("status").stdout


@pytest.mark.slow
def test_a_resumed_run_is_not_sent_to_a_queue_that_is_not_there(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.k8s("cancel")
    with_queues(cluster, night={})
    done = cluster.k8s("resume", "--run", "mine", "--queue", "nigth")
    assert (done.returncode, cluster.objects("jobs")) == (78, {})
    assert "QUEUE=nigth: no such queue in the namespace, did you mean night?" in done.stderr


def test_a_namespace_that_is_not_there_is_said_to_be_that(cluster: Cluster) -> None:
    for verb in ("check", "submit"):
        done = cluster.k8s(verb, *IMAGE, "--namespace", "visoin")
        assert (done.returncode, done.stdout) == (78, "")
        said = "NAMESPACE=visoin: the cluster has no such namespace: kubectl get namespaces lists them\n"
        assert done.stderr == f"trainyard: {said}"


@pytest.mark.slow
def test_where_nobody_may_look_into_a_pod_status_says_so(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.pod(JOB, "p", "step  2/20  loss 0.5\n", progress=Progress(phase="training", step=2, of=20, written_at=1))
    assert "step   2 of 20" in cluster.k8s("status", "--run", "mine").stdout.splitlines()
    cluster.server.refusals["POST pods/exec"] = forbidden("create", "pods/exec")
    said = "step   not known: reading it from the pod takes the right to create pods/exec, which you lack here"
    assert said in cluster.k8s("status", "--run", "mine").stdout.splitlines()
    assert cluster.k8s("list").stdout.splitlines()[-1].split() == ["mine", JOB, "RUNNING", "-", "-", "no"]
    # A pod that was killed left nothing behind.
    cluster.pod(JOB, "p", "step  2/20  loss 0.5\n", phase="Failed")
    cluster.end(JOB, "Failed")
    said = "step   not known: it stands in progress.json in the claim"
    assert said in cluster.k8s("status", "--run", "mine").stdout.splitlines()


@pytest.mark.slow
def test_a_refusal_with_a_whole_pod_in_it_is_cut(cluster: Cluster) -> None:
    cause = {"field": "spec.template", "message": f"Invalid value: {'x' * 16_000}: field is immutable"}
    said = f'Job.batch "{JOB}" is invalid: {cause["field"]}: {cause["message"]}'
    details = {"name": JOB, "group": "batch", "kind": "Job", "causes": [cause]}
    cluster.server.refusals["POST jobs"] = Refused(422, "Invalid", said, **details)
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    (line,) = [line for line in done.stderr.splitlines() if "kubectl create failed" in line]
    assert len(line) < 700
    assert line.endswith("xxx: field is immutable") and "Invalid value: xxx" in line
    assert cluster.objects("configmaps") == {}


@pytest.mark.slow
def test_a_missing_credential_plugin_is_said_once(cluster: Cluster) -> None:
    kubeconfig = Path(cluster.environ["KUBECONFIG"])
    config = json.loads(kubeconfig.read_text())
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-login", "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": plugin}
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    kubeconfig.write_text(json.dumps(config))
    done = cluster.k8s("list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    words = "Unable to connect to the server: getting credentials: exec: executable no-such-login not found"
    assert done.stderr.startswith(f"trainyard: kubectl get failed: {words}")
    assert done.stderr.count("no-such-login") == 1


@pytest.mark.slow
def test_a_kubectl_without_credentials_is_said_to_be_that(cluster: Cluster) -> None:
    """It asks for a user name, takes what it is given for one, and says `EOF`."""
    kubeconfig = Path(cluster.environ["KUBECONFIG"])
    config = json.loads(kubeconfig.read_text())
    config["users"][0]["user"] = {}
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    kubeconfig.write_text(json.dumps(config))
    for argv in (("list",), ("submit", *IMAGE)):
        done = cluster.k8s(*argv)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "it has no credentials for this cluster and asks for a user name: log in" in done.stderr


@pytest.fixture
def nobody_asked_last() -> None:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", 8080), timeout=1):
        pytest.skip("something of this machine listens where kubectl looks last")


@pytest.mark.usefixtures("nobody_asked_last")
def test_a_kubectl_that_may_know_no_cluster_is_told_how_it_learns_of_one(cluster: Cluster) -> None:
    Path(cluster.environ["KUBECONFIG"]).unlink()
    done = cluster.k8s("list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "The connection to the server localhost:8080 was refused" in done.stderr
    how = "(if kubectl knows no cluster: save yours as ~/.kube/config, or name its file with KUBECONFIG=)\n"
    assert done.stderr.endswith(how)


@pytest.mark.slow
def test_a_server_that_hangs_is_not_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(cluster)
    over = threading.Event()
    cluster.server.hooks["LIST configmaps"] = lambda: over.wait(60)
    monkeypatch.setattr("k8s.cluster.kubectl.READ_S", 1)
    began = time.monotonic()
    done = cluster.k8s("list")
    took_s = time.monotonic() - began
    over.set()
    assert took_s < 30
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("trainyard: kubectl get failed: ")


def test_every_call_has_a_timeout_but_the_log_that_is_followed(cluster: Cluster) -> None:
    kubectl = Kubectl(environ=cluster.environ, namespace="vision")
    commands = [kubectl.command("get", "jobs"), kubectl.command("create"), kubectl.command("logs", endless=True)]
    assert [command[1:4] for command in commands] == [
        ["--namespace", "vision", f"--request-timeout={limit}s"] for limit in (10, 30, 0)
    ]


@pytest.mark.slow
def test_a_log_is_followed_to_the_end_of_its_pod(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.pod(JOB, "p", "step  1/20\n")

    def go_on() -> None:
        time.sleep(0.5)
        cluster.server.logs["default", "p"] += "step 20/20\n"
        time.sleep(0.2)
        cluster.objects("pods")["p"]["status"]["phase"] = "Succeeded"
        cluster.end(JOB, "Complete")

    thread = threading.Thread(target=go_on)
    thread.start()
    done = cluster.k8s("logs", "--run", "mine")
    thread.join()
    assert done.stdout == "step  1/20\nstep 20/20\n"
    kept = "the logs of all attempts, also of pods that are gone: claim trainyard, runs/mine/logs"
    assert done.stderr == f"trainyard: job {JOB} COMPLETED\ntrainyard: {kept}\n"


@pytest.mark.slow
def test_a_log_whose_connection_breaks_goes_on_where_it_broke(cluster: Cluster) -> None:
    """kubectl says nothing and ends with 0. Lines of the second in which it broke are sent again, and printed once."""
    submitted(cluster)
    lines = [f"step {number:>2}/40\n" for number in range(40)]
    cluster.pod(JOB, "p", "".join(lines[:30]))
    cluster.server.log_breaks["default", "p"] = 15

    def go_on() -> None:
        time.sleep(2)
        del cluster.server.log_breaks["default", "p"]
        cluster.server.logs["default", "p"] += "".join(lines[30:])
        time.sleep(0.5)
        cluster.objects("pods")["p"]["status"]["phase"] = "Succeeded"
        cluster.end(JOB, "Complete")

    thread = threading.Thread(target=go_on)
    thread.start()
    done = cluster.k8s("logs", "--run", "mine")
    thread.join()
    assert done.stdout == "".join(lines)


@pytest.mark.slow
def test_a_log_that_one_may_not_read_is_said_once(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.pod(JOB, "p", "step 1\n")
    cluster.server.refusals["GET pods/log"] = forbidden("get", "pods/log")
    cluster.end(JOB, "Failed")
    done = cluster.k8s("logs", "--run", "mine")
    assert (done.returncode, done.stdout, done.stderr.count("is forbidden")) == (0, "", 1)


def count_calls(cluster: Cluster) -> Callable[[], int]:
    """A function that tells how often kubectl was called since it was asked last."""
    real, log = (cluster.bin / "kubectl").resolve(), cluster.home / "calls"
    (cluster.bin / "kubectl").unlink()
    (cluster.bin / "kubectl").write_text(f'#!/bin/sh\necho "$*" >>"{log}"\nexec "{real}" "$@"\n')
    (cluster.bin / "kubectl").chmod(0o755)

    def counted() -> int:
        count = len(log.read_text().splitlines())
        log.write_text("")
        return count

    return counted


@pytest.mark.slow
def test_a_sweep_is_made_seen_and_cancelled_in_a_few_calls_whatever_its_size(cluster: Cluster) -> None:
    calls, size = count_calls(cluster), 24
    seeds = ",".join(map(str, range(size)))
    assert cluster.k8s("sweep", *IMAGE, "--grid", f"SEED={seeds}", "--run", "first").returncode == 0
    made = calls()
    cluster.server.requests.clear()
    assert cluster.k8s("status", "--run", "first").returncode == 0
    seen = calls()
    # The pods after the Jobs: what began before a Job ended is among them.
    listed = [str(one) for one in cluster.server.requests if str(one) in ("LIST jobs", "LIST pods")]
    assert listed == ["LIST jobs", "LIST pods"]
    cluster.put("jobs", "other", {"metadata": {"labels": {"team": "b"}}, "spec": {}})
    cluster.server.requests.clear()
    done = cluster.k8s("cancel", "--run", "first")
    assert (made, seen, calls()) == (4, 4, 6)
    assert done.stdout == f"cancelled {size} jobs of sweep first; make resume TO=k8s RUN=first starts them again\n"
    assert list(cluster.objects("jobs")) == ["other"]
    assert [str(one) for one in cluster.server.requests if one.method == "DELETE"] == ["DELETE jobs"]
    said = cluster.k8s("status", "--run", "first").stdout
    assert said.startswith(f"sweep first: {size} members: {size} CANCELLED\n\nrun ")
    assert said.endswith("\n\nnext   make resume TO=k8s RUN=first (those that are unfinished)\n")


@pytest.mark.slow
def test_members_of_a_slot_wait_for_each_other_and_for_nobody_else(cluster: Cluster) -> None:
    grid = ("--grid", "SEED=1,2,3", "--run", "first", "--parallel", "2")
    assert cluster.k8s("sweep", *IMAGE, *grid).returncode == 0
    jobs = [cluster.objects("jobs")[f"gemma-3-4b-it-first-{index}"] for index in range(3)]
    templates = [job["spec"]["template"] for job in jobs]
    assert [template["metadata"]["labels"]["trainyard-slot"] for template in templates] == ["0", "1", "0"]
    (term,) = templates[2]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    others = {"key": "app.kubernetes.io/instance", "operator": "NotIn", "values": ["first-2"]}
    assert term == {
        "topologyKey": "kubernetes.io/os",
        "labelSelector": {
            "matchLabels": {"trainyard-slot": "0", "app.kubernetes.io/part-of": "first"},
            "matchExpressions": [others],
        },
    }
    cluster.k8s("cancel", "--run", "first-2")
    assert cluster.k8s("resume", "--run", "first-2").returncode == 0
    again = cluster.objects("jobs")["gemma-3-4b-it-first-2--2"]["spec"]["template"]
    assert again["spec"]["affinity"] == templates[2]["spec"]["affinity"]
    done = cluster.k8s("sweep", *IMAGE, "--grid", "SEED=1,2", "--parallel", "1", "--queue", "night")
    said = "trainyard: PARALLEL=1: QUEUE=night bounds how many run at once: leave PARALLEL out, or say QUEUE=none\n"
    assert (done.returncode, done.stderr) == (78, said)


@pytest.mark.slow
def test_a_sweep_has_slots_only_while_no_queue_bounds_it(cluster: Cluster) -> None:
    def slots() -> list[str | None]:
        templates = [job["spec"]["template"] for job in cluster.objects("jobs").values()]
        found = [template["metadata"]["labels"].get("trainyard-slot") for template in templates]
        assert [slot is not None for slot in found] == ["affinity" in template["spec"] for template in templates]
        return found

    with_queues(cluster, night={})
    done = cluster.k8s("sweep", *IMAGE, "--grid", "SEED=1,2", "--run", "first", "--queue", "night")
    assert (done.returncode, slots()) == (0, [None, None])
    resumed = [("none", ["0", "1"]), (None, ["0", "1"]), ("night", [None, None])]
    for queue, wanted in resumed:
        cluster.k8s("cancel", "--run", "first")
        done = cluster.k8s("resume", "--run", "first", *(["--queue", queue] if queue else []))
        assert (done.returncode, slots()) == (0, wanted), done.stderr


def test_the_pod_that_is_asked_about_is_a_jobs(cluster: Cluster) -> None:
    """Many clusters refuse a pod that nothing controls."""
    assert cluster.k8s("check", *IMAGE, "--run", "mine").returncode == 0
    (asked,) = [one for one in cluster.server.requests if str(one).startswith("POST pods (dry run)")]
    metadata = asked.body["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"], owner["name"], owner["controller"]) == ("batch/v1", "Job", JOB, True)
    assert metadata["labels"]["job-name"] == metadata["labels"]["batch.kubernetes.io/job-name"] == JOB
    assert metadata["labels"]["controller-uid"] == owner["uid"]


def test_a_pod_that_the_cluster_would_refuse_is_found_before_anything_is_made(cluster: Cluster) -> None:
    """A Job's dry run says nothing of it."""
    quota = "exceeded quota: gpu, requested: requests.nvidia.com/gpu=4, used: requests.nvidia.com/gpu={}, limited: {}"
    for used, limit, code in ((0, 2, 1), (3, 4, 0)):
        said = f'pods "x" is forbidden: {quota.format(used, f"requests.nvidia.com/gpu={limit}")}'
        cluster.server.refusals["POST pods (dry run)"] = Refused(403, "Forbidden", said)
        done = cluster.k8s("check", *IMAGE, "--gpus", "4")
        assert done.returncode == code, done.stderr
        assert ("the cluster takes the Job and would refuse its pods: kubectl create" in done.stderr) is (code == 1)
        assert ("there is no room in the quota now, so the job waits until others have" in done.stderr) is (code == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        'pods "x" is forbidden: no PriorityClass with name urgent was found',
        'pods "x" is forbidden: [maximum memory usage per Container is 8Gi, but limit is 64Gi]',
        'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostUsers',
    ],
)
def test_a_pod_that_could_never_be_made_is_refused_in_the_clusters_words(said: str, cluster: Cluster) -> None:
    cluster.server.refusals["POST pods (dry run)"] = Refused(403, "Forbidden", said)
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    assert (done.returncode, done.stdout, cluster.objects("configmaps")) == (1, "", {})
    assert said in done.stderr


@pytest.mark.slow
def test_a_role_that_may_make_no_pods_submits_all_the_same(cluster: Cluster) -> None:
    cluster.server.refusals["POST pods (dry run)"] = forbidden("create", "pods")
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    assert done.returncode == 0
    assert "whether the cluster takes the pods could not be asked: your role may create Jobs and no pods" in done.stderr


@pytest.mark.slow
def test_status_reads_warnings_and_nodes_where_it_may(cluster: Cluster) -> None:
    submitted(cluster)
    about = {"uid": cluster.objects("jobs")[JOB]["metadata"]["uid"]}
    event = {"reason": "FailedCreate", "message": "exceeded quota: gpu", "lastTimestamp": "2026-11-25T00:00:00Z"}
    cluster.put("events", "w", {**event, "type": "Warning", "involvedObject": about})
    cluster.put("events", "n", {**event, "type": "Normal", "message": "no", "involvedObject": about})
    lines = cluster.k8s("status", "--run", "mine").stdout.splitlines()
    assert lines[1] == f"job    {JOB} PENDING (FailedCreate: exceeded quota: gpu)"
    cluster.pod(JOB, "p", "step 1\n")
    unready = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    cluster.put("nodes", "gpu-7", {"status": unready})
    lines = cluster.k8s("status", "--run", "mine").stdout.splitlines()
    assert lines[1].startswith(f"job    {JOB} NODE_FAIL (node gpu-7 does not answer, and pod p is not replaced")
    assert lines[-1].startswith(
        "next   once node gpu-7 is surely off, kubectl --namespace default delete pod p --force"
    )
    for refused in ("GET nodes gpu-7", "LIST nodes", "LIST events"):
        cluster.server.refusals[refused] = forbidden("get", "nodes")
    assert f"job    {JOB} RUNNING on gpu-7" in cluster.k8s("status", "--run", "mine").stdout


@pytest.mark.slow
def test_a_run_whose_node_is_lost_is_not_resumed_and_the_way_out_is_named(cluster: Cluster) -> None:
    submitted(cluster)
    cluster.pod(JOB, "p", "step 1\n")
    cluster.k8s("cancel", "--run", "mine")
    cluster.objects("pods")["p"]["metadata"]["deletionTimestamp"] = "2026-11-25T00:00:00Z"
    done = cluster.k8s("resume", "--run", "mine")
    assert (done.returncode, done.stdout) == (78, "")
    assert (
        "its node does not answer: once node gpu-7 is surely off, kubectl --namespace default delete pod" in done.stderr
    )
