"""A run as its ConfigMap tells it, and what status says that it has made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from specs import make_spec

from k8s.cluster.seen import read_run
from k8s.manifest.objects import config_map, object_names
from k8s.runs import status_of
from launcher.progress import Job
from planner.choose import choose

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
