"""A run as its ConfigMap tells it, what status says that it has made, and how it is resumed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from specs import make_spec

from k8s.cluster.seen import read_run
from k8s.manifest.claim import WIDE, refuse_narrow_claim
from k8s.manifest.objects import config_map, object_names
from k8s.runs import _needs_no_job, status_of
from k8s.submit import _unversioned
from k8s.target import _slot_again
from launcher.grid import PARALLEL
from launcher.progress import Job
from planner.choose import choose
from trainer.outcome import ConfigError

SPEC = make_spec(run_id="mine")


def written(*job_ids: str) -> dict[str, Any]:
    return config_map(choose(SPEC), object_names(SPEC), settings="", job_ids=job_ids)


def test_a_run_is_read_with_all_its_jobs() -> None:
    found = written("mine", "mine-2", "mine-3")
    run = read_run(found)
    assert (run.run_id, run.job_ids, run.ends, run.config_map) == ("mine", ("mine", "mine-2", "mine-3"), {}, found)


@pytest.mark.parametrize(
    ("state", "made"),
    [
        ("COMPLETED", ("adapter", "report.html")),
        ("FAILED", ()),
        ("GONE", ("an adapter perhaps: only the claim can tell",)),
    ],
)
def test_status_says_what_an_ended_run_has_made(state: str, made: tuple[str, ...]) -> None:
    job = Job(job_id="mine", state=state, ended=True)
    objects: Any = SimpleNamespace(jobs_of=lambda run: [job], pods=[])
    status = status_of(None, read_run(written("mine")), objects)  # type: ignore[arg-type]
    assert (status.made, status.finished, status.done) == (made, state == "COMPLETED", state == "COMPLETED")
    assert (status.progress, status.unknown_step) == (None, "not known: it stands in progress.json in the claim")


@pytest.mark.parametrize(
    ("job", "refused"),
    [
        (Job(job_id="mine", state="RUNNING", ended=False), "job mine of run mine is RUNNING: make cancel RUN=mine"),
        (Job(job_id="mine", state="COMPLETED", ended=True), "run mine is finished ("),
        (Job(job_id="mine", state="FAILED", ended=True), ""),
        (Job(job_id="mine", state="GONE", ended=True), ""),
    ],
    ids=lambda value: value.state if isinstance(value, Job) else "",
)
def test_only_a_run_that_is_unfinished_and_without_a_job_is_resumed(job: Job, refused: str) -> None:
    objects: Any = SimpleNamespace(jobs_of=lambda run: [job], pods=[])
    said = _needs_no_job(read_run(written("mine")), objects, lambda run_id: f"RUN={run_id}")
    assert said.startswith(refused) and bool(said) == bool(refused)


@pytest.mark.parametrize(
    ("run_id", "left", "slot", "found"),
    [
        ("seeds-37", "", "", str(37 % PARALLEL)),  # it leaves the queue, which bounded its sweep
        ("seeds-x", "", "", "0"),
        ("seeds-37", "", "5", "5"),
        ("seeds-37", "high", "", ""),
    ],
)
def test_a_member_that_leaves_its_queue_gets_a_slot(run_id: str, left: str, slot: str, found: str) -> None:
    before = make_spec(run_id=run_id, sweep="seeds", queue="low")
    told = config_map(choose(before), object_names(before), settings="", job_ids=[run_id], slot=slot)
    assert _slot_again(make_spec(run_id=run_id, sweep="seeds", queue=left), read_run(told)) == found


def test_a_config_map_overwrites_any_other_without_its_version() -> None:
    metadata = {"name": "mine", "resourceVersion": "7", "labels": {"a": "b"}}
    assert _unversioned({"kind": "ConfigMap", "metadata": metadata, "data": {"x": "y"}}) == {
        "kind": "ConfigMap", "metadata": {"name": "mine", "labels": {"a": "b"}}, "data": {"x": "y"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "access", "fits"), [(2, "ReadWriteOnce", False), (1, "ReadWriteOnce", True), (2, WIDE, True)]
)
def test_only_a_claim_that_several_nodes_mount_takes_several_nodes(nodes: int, access: str, fits: bool) -> None:
    spec = make_spec(nodes=nodes, gpus=1)
    if fits:
        refuse_narrow_claim(spec, [access], "as the site says")
    else:
        with pytest.raises(ConfigError, match=r"^NODES=2: claim \S+ is ReadWriteOnce \(as the site says\)"):
            refuse_narrow_claim(spec, [access], "as the site says")
