"""A controller that is away at the wrong moment: nothing is lost, and nothing is said that is not known."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_verbs as verbs
from cluster import Cluster, unreachable
from programs import until
from toy_job import toy_plan

import slurm.cluster.sbatch
from launcher import cli
from slurm.cluster.sbatch import SubmitError, UnansweredError
from slurm.render import log_path, run_dir
from trainer.outcome import ConfigError

pytestmark = pytest.mark.cluster


class Away:
    """The controller stopped, as one that is too busy to answer, and clients that wait two seconds for it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        (self.daemon,) = (d for d in cluster.daemons if isinstance(d.args, tuple) and d.args[0] == "slurmctld")
        conf = (cluster.dir / "slurm.conf").read_text() + "MessageTimeout=2\n"
        (folder / "slurm.conf").write_text(conf)
        self.environ = {**cluster.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def goes(self) -> None:
        self.daemon.send_signal(signal.SIGSTOP)

    def comes_back(self) -> None:
        self.daemon.send_signal(signal.SIGCONT)


@pytest.fixture
def away(cluster: Cluster, tmp_path: Path) -> Iterator[Away]:
    controller = Away(cluster, tmp_path)
    yield controller
    controller.comes_back()


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def test_a_job_that_sbatch_does_not_tell_of_is_found_by_its_script(
    cluster: Cluster, away: Away, tmp_path: Path, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch gives up, the controller comes back and takes the job after all: submit goes on as if it had been told."""
    said: list[str] = []
    monkeypatch.setattr(cli, "say", lambda text: (said.append(text), away.comes_back()))
    plan = toy_plan(tmp_path / "a project", records, name="toy", run_id="late")
    away.goes()
    job_id = verbs.submit(plan, away.environ).job_id
    assert re.fullmatch(r"sbatch did not answer \(.*Socket timed out.*\): asking squeue for the job", said[0])
    record = record_of(Path(run_dir(plan.spec)))
    assert (record["job_ids"], record.get("asked_for")) == ([job_id], None)
    assert cluster.wait(job_id)["JobName"] == "toy-late"


def test_while_it_is_not_known_whether_a_job_is_queued_its_run_stays_and_status_finds_it(
    cluster: Cluster,
    away: Away,
    tmp_path: Path,
    records: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(slurm.cluster.sbatch, "ASK_AFTER_S", (0.0,))
    project = tmp_path / "a project"
    plan = toy_plan(project, records, name="toy", run_id="unsure", mem_gib=4)
    folder = Path(run_dir(plan.spec))
    away.goes()
    with pytest.raises(UnansweredError, match=r"not known whether the job is queued, so .*/unsure stays \(.*timed out"):
        verbs.submit(plan, away.environ)
    away.comes_back()
    assert record_of(folder)["job_ids"] == []
    with pytest.raises(ConfigError, match=r"RUN=unsure: .* exists"):
        verbs.submit(plan, away.environ)
    until(lambda: verbs.status({"RUN": "unsure"}, cluster.environ, project) or record_of(folder)["job_ids"])
    (job_id,) = record_of(folder)["job_ids"]
    assert capsys.readouterr().out.splitlines()[-4].startswith(f"job    {job_id} ")
    cluster.wait(job_id)
    found = cluster.run("squeue", "--noheader", "--states=all", "--name=toy-unsure", "--format=%i").stdout.split()
    assert found == [job_id]

    # The same of a run that goes on: the controller leaves after it has answered what resume asks first.
    monkeypatch.setattr("slurm.submit.fit", lambda plans, environ, needs_answer: (away.goes(), plans)[1])
    with pytest.raises(UnansweredError):
        verbs.resume({"RUN": "unsure"}, away.environ, project)
    away.comes_back()
    assert (record_of(folder)["job_ids"], record_of(folder)["asked_for"]) == ([job_id], str(folder / "job.sbatch"))
    # Resume asks twice: what waited for the controller may not be in the queue yet.
    with contextlib.suppress(ConfigError):
        verbs.resume({"RUN": "unsure"}, cluster.environ, project)
    (first, second, *more) = record_of(folder)["job_ids"]
    assert first == job_id and cluster.wait(second)["JobName"] == "toy-unsure"
    found = cluster.run("squeue", "--noheader", "--states=all", "--name=toy-unsure", "--format=%i").stdout.split()
    assert sorted(found, key=int) == [first, second, *more]


def test_a_controller_that_was_not_reached_has_taken_nothing(cluster: Cluster, tmp_path: Path, records: Path) -> None:
    (tmp_path / "slurm.conf").write_text(unreachable((cluster.dir / "slurm.conf").read_text()))
    plan = toy_plan(tmp_path / "a project", records)
    with pytest.raises(SubmitError, match=r"^sbatch refused the job: .*connect failure\): scontrol ping"):
        verbs.submit(plan, {**cluster.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")})
    assert not Path(run_dir(plan.spec)).exists()


# Takes the controller away from its batch shell, and wants to be run again; the second attempt is content.
STOPPED_WHILE_IT_IS_AWAY = """
import os, pathlib, sys
first = not pathlib.Path("tried").exists()
pathlib.Path("tried").touch()
if first:
    pathlib.Path("away.conf").replace(sys.argv[-1])
pathlib.Path(os.environ["TRAINYARD_STATUS_FILE"]).write_text("75" if first else "0")
"""


def test_a_run_that_stops_while_the_controller_is_away_is_requeued_all_the_same(
    cluster: Cluster, tmp_path: Path, records: Path
) -> None:
    project, good = tmp_path / "a project", (cluster.dir / "slurm.conf").read_text()
    conf = tmp_path / "job.conf"
    argv = ("accelerate", "launch", "-m", "toy", "--conf", str(conf))
    plan = toy_plan(project, records, run_id="toy-2", argv=argv, env=(("SLURM_CONF", str(conf)),))
    (project / "trainer" / "supervise.py").write_text(STOPPED_WHILE_IT_IS_AWAY)
    conf.write_text(good)
    (project / "away.conf").write_text(unreachable(good))
    job_id = verbs.submit(plan, cluster.environ).job_id
    log = Path(log_path(plan.spec, job_id=job_id))
    until(lambda: log.exists() and "slurm_load_jobs error" in log.read_text(), timeout_s=180)
    conf.write_text(good)
    until(lambda: cluster.job(job_id)["Restarts"] == "1", timeout_s=180)
    assert cluster.start_again(job_id, ended=True)["JobState"] == "COMPLETED"
