"""What becomes of our Jobs under the rules of a control plane's Job controller (helpers/job_controller.py)."""

from __future__ import annotations

from typing import Any

import manifests
import pytest
from api_server import ApiServer, Refused
from job_controller import JobController
from plans import make_plan

from k8s.cluster.jobs import Around, see_job
from k8s.manifest.objects import render
from k8s.manifest.site import Cluster
from launcher.progress import Job

DAY_S = 24 * 3600


def started(**request: Any) -> tuple[JobController, str]:
    """(the controller, the name of the Job of a run that was just submitted)."""
    server = ApiServer()
    server.add("namespaces", "default", {})
    return JobController(server=server), submitted(server, **request)


def submitted(server: ApiServer, *, slot: str = "", **request: Any) -> str:
    plan = make_plan(image="registry.example.org/trainyard:0.1.0", **request)
    objects = manifests.load(render(plan, Cluster(), slot=slot))
    (job,) = [content for content in objects if content["kind"] == "Job"]
    server.add("jobs", job["metadata"]["name"], job)
    return str(job["metadata"]["name"])


def seen(controller: JobController, job: str) -> Job:
    """As status sees it, without kubectl."""
    events = list(controller.server.named("events").values())
    nodes = list(controller.server.named("nodes").values())
    around = Around(events=events, nodes=nodes)
    content = controller.server.named("jobs").get(job)
    return see_job(job, content, controller.pods(job), limit_min=30, mem_gib=64, now=controller.now, around=around)


def end(controller: JobController, job: str, code: int, reason: str = "", **more: Any) -> None:
    controller.end_pod(controller.live(job)[0]["metadata"]["name"], code, reason, **more)


def test_a_wrong_request_fails_the_job_with_its_first_pod() -> None:
    controller, job = started()
    controller.step()
    end(controller, job, 78)
    assert (controller.condition(job), len(controller.pods(job))) == ("PodFailurePolicy", 1)
    assert seen(controller, job).text == f"{job} FAILED (PodFailurePolicy, exit code 78)"


@pytest.mark.parametrize(("code", "reason", "state"), [(1, "", "FAILED"), (137, "OOMKilled", "OUT_OF_MEMORY")])
def test_what_fails_has_four_pods_at_growing_distances(code: int, reason: str, state: str) -> None:
    controller, job = started()
    controller.step()
    for attempt, wait_s in enumerate((10, 20, 40), start=1):
        end(controller, job, code, reason)
        assert f"attempt {attempt} ended" in seen(controller, job).reason
        controller.pass_time(wait_s - 1)
        assert controller.live(job) == []
        controller.pass_time(1)
        assert seen(controller, job).state == "RUNNING"
    end(controller, job, code, reason)
    assert (controller.condition(job), len(controller.pods(job))) == ("BackoffLimitExceeded", 4)
    assert seen(controller, job).state == state


@pytest.mark.parametrize("ended", [{"code": 75}, {"code": 137, "disrupted": "EvictionByEvictionAPI"}])
def test_a_stop_and_a_disruption_are_never_counted(ended: dict[str, Any]) -> None:
    controller, job = started()
    controller.step()
    for _ in range(12):
        end(controller, job, **ended)
        controller.pass_time(600)
    assert (controller.condition(job), seen(controller, job).state) == ("", "RUNNING")
    end(controller, job, 0)
    assert seen(controller, job).state == "COMPLETED"


def test_status_says_when_the_next_attempt_comes_as_the_controller_makes_it() -> None:
    controller, job = started()
    controller.step()
    end(controller, job, 75, disrupted="PreemptionByScheduler")
    assert seen(controller, job).reason == (
        "attempt 1 ended: PreemptionByScheduler, exit code 75; the next one comes at about 00:00:10 UTC"
    )
    controller.pass_time(10)
    end(controller, job, 1)
    assert seen(controller, job).reason.endswith("the next one comes at about 00:00:30 UTC")
    controller.pass_time(20)
    assert seen(controller, job).state == "RUNNING"


def test_two_nodes_are_complete_together_and_one_that_is_missing_is_said() -> None:
    controller, job = started(gpus=1, nodes=2)
    controller.step()
    assert seen(controller, job).nodes == "gpu-2,gpu-1"
    first, second = controller.pods(job)
    controller.end_pod(first["metadata"]["name"], 1)
    assert seen(controller, job).text.endswith("(1 of 2 pods run, and wait for the others: exit code 1)")
    controller.pass_time(10)
    controller.end_pod(second["metadata"]["name"], 0)
    assert seen(controller, job).state == "RUNNING"
    end(controller, job, 0)
    assert controller.condition(job) == "Complete"


def test_a_pod_that_may_not_be_made_is_an_event_and_is_tried_again() -> None:
    controller, job = started()
    said = 'pods "x" is forbidden: exceeded quota: gpu'
    controller.server.refusals["POST pods"] = Refused(403, "Forbidden", said)
    controller.step()
    assert seen(controller, job).text == f"{job} PENDING (FailedCreate: Error creating: {said})"
    controller.server.refusals.clear()
    controller.step()
    assert seen(controller, job).state == "RUNNING"


def test_a_suspended_job_has_no_pod_and_goes_on_uncounted() -> None:
    controller, job = started()
    controller.step()
    controller.server.named("jobs")[job]["spec"]["suspend"] = True
    controller.step()
    assert (controller.pods(job), seen(controller, job).state) == ([], "SUSPENDED")
    controller.server.named("jobs")[job]["spec"]["suspend"] = False
    controller.step()
    assert seen(controller, job).state == "RUNNING"


def test_a_lost_node_holds_its_job_until_somebody_settles_it() -> None:
    controller, job = started()
    controller.step()
    (pod,) = controller.pods(job)
    controller.lose_node(pod["spec"]["nodeName"])
    controller.pass_time(3 * DAY_S)
    assert len(controller.pods(job)) == 1
    assert seen(controller, job).state == "NODE_FAIL"
    del controller.server.objects["pods", "default", pod["metadata"]["name"]]  # forced, or out of service
    controller.step()
    assert len(controller.live(job)) == 1


def test_a_deadline_of_the_cluster_ends_the_job() -> None:
    controller, job = started()
    controller.server.named("jobs")[job]["spec"]["activeDeadlineSeconds"] = 60
    controller.step()
    controller.pass_time(60)
    assert (seen(controller, job).state, controller.pods(job)) == ("DEADLINE", [])


def test_a_job_is_removed_a_week_after_its_end_with_its_pods() -> None:
    controller, job = started()
    controller.step()
    end(controller, job, 0)
    controller.pass_time(7 * DAY_S - 1)
    assert seen(controller, job).state == "COMPLETED"
    controller.pass_time(1)
    assert (seen(controller, job).state, controller.pods(job)) == ("GONE", [])


def test_a_sweep_never_has_more_pods_than_its_slots_and_all_members_end() -> None:
    controller, first = started(run_id="s-0", sweep="s", slot="0")
    others = [submitted(controller.server, run_id=f"s-{i}", sweep="s", slot=str(i % 2)) for i in range(1, 5)]
    alone = submitted(controller.server, run_id="other")
    jobs = [first, *others]
    controller.step()
    assert seen(controller, alone).state == "RUNNING"
    ended = 0
    while running := [job for job in jobs if seen(controller, job).state == "RUNNING"]:
        assert len(running) <= 2
        waiting = [seen(controller, job) for job in jobs if seen(controller, job).state == "PENDING"]
        assert {job.reason for job in waiting} <= {"waits until a member of its sweep has ended: PARALLEL run at once"}
        end(controller, running[0], 0)
        ended += 1
    assert (ended, {controller.condition(job) for job in jobs}) == (5, {"Complete"})


def test_peers_of_one_member_share_its_slot() -> None:
    controller, job = started(run_id="s-0", sweep="s", slot="0", gpus=1, nodes=2)
    controller.step()
    assert seen(controller, job).state == "RUNNING"


def test_an_index_may_have_a_limit_of_its_own() -> None:
    controller, job = started(gpus=1, nodes=2)
    controller.server.named("jobs")[job]["spec"]["backoffLimitPerIndex"] = 1
    controller.step()
    for wait_s in (10, 0):
        controller.end_pod(next(p for p in controller.live(job) if _is_first(p))["metadata"]["name"], 1)
        controller.pass_time(wait_s)
    end(controller, job, 0)
    assert controller.condition(job) == "FailedIndexes"


def _is_first(pod: dict[str, Any]) -> bool:
    return bool(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "0")
