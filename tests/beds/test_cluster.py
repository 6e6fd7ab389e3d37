"""Rendered scripts run by a real Slurm: two nodes, pretend GPUs, and a toy in the supervisor's place."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster
from plans import make_plan
from slurm_verbs import submit
from toy_job import TOY, seen_by, toy_plan

from slurm.cluster.sbatch import SubmitError
from slurm.render import log_path, run_dir
from slurm.script.runtime import job_python

pytestmark = pytest.mark.cluster


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / 'it\'s a "project" #1'


@pytest.mark.parametrize("nodes", [1, 2])
def test_each_node_gets_one_supervisor_with_the_planned_command(
    nodes: int, cluster: Cluster, project: Path, records: Path
) -> None:
    argv = ("accelerate", "launch", "-m", "toy", "--data", "$(touch x) `y` it's", "--rank", "$SLURM_PROCID")
    env = (("TOY_VALUE", "two words; $HOME"),)
    plan = toy_plan(project, records, gpus=2, nodes=nodes, gpu_type="a100", argv=argv, env=env)
    secret = "hf_" + "x" * 34
    job = submit(plan, {**cluster.environ, "HF_TOKEN": secret})
    ended = cluster.wait(job.job_id)
    assert (ended["JobState"], ended["ExitCode"], ended["NumNodes"]) == ("COMPLETED", "0:0", str(nodes))
    assert ended["JobName"] == "toy-1"
    assert ended["TresPerNode"] == "gres:gpu:a100:2"

    seen = seen_by(project)
    assert [task["environ"]["SLURM_PROCID"] for task in seen] == [str(n) for n in range(nodes)]
    assert [task["environ"]["SLURMD_NODENAME"] for task in seen] == ["n1", "n2"][:nodes]
    for task in seen:
        environ = task["environ"]
        assert task["argv"] == ["--", *plan.launch.words()]
        assert task["cwd"] == str(project)
        assert environ["TOY_VALUE"] == "two words; $HOME"
        assert environ["PYTHONUNBUFFERED"] == "1"
        assert environ["SLURM_CPUS_PER_TASK"] == "2"
        assert environ["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert "HF_TOKEN" not in environ
        meeting = (environ.get("MASTER_ADDR"), environ.get("MASTER_PORT"))
        assert meeting == (("n1", str(10_000 + int(job.job_id) % 20_000)) if nodes > 1 else (None, None))

    log = Path(log_path(plan.spec, job_id=job.job_id)).read_text()
    assert sorted(log.splitlines()) == [f"toy {n} speaks" for n in range(nodes)]
    written = "".join(path.read_text() for path in Path(run_dir(plan.spec)).rglob("*") if path.is_file())
    assert secret not in written


@pytest.mark.parametrize("code", [1, 78])
def test_the_job_ends_with_the_supervisors_exit_code(code: int, cluster: Cluster, project: Path, records: Path) -> None:
    plan = toy_plan(project, records, env=(("TOY_EXIT", str(code)),))
    ended = cluster.wait(submit(plan, cluster.environ).job_id)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", f"{code}:0")


def test_a_node_that_fails_takes_the_other_along(cluster: Cluster, project: Path, records: Path) -> None:
    """Node 0 would sleep for ten minutes; node 1 ends with 1 at once."""
    plan = toy_plan(project, records, nodes=2, env=(("TOY_EXIT", "1"),), argv=("accelerate", "launch", "-m", "sleep"))
    ended = cluster.wait(submit(plan, cluster.environ).job_id)
    assert ended["JobState"] == "FAILED"


def test_a_job_without_gpus_asks_for_none(cluster: Cluster, project: Path, records: Path) -> None:
    plan = toy_plan(project, records, gpus=0)
    ended = cluster.wait(submit(plan, cluster.environ).job_id)
    assert (ended["JobState"], ended.get("TresPerNode")) == ("COMPLETED", None)


def test_what_slurm_refuses_leaves_nothing_and_says_slurms_words(
    cluster: Cluster, project: Path, records: Path
) -> None:
    plan = toy_plan(project, records, partition="nosuch")
    with pytest.raises(SubmitError, match="invalid partition specified: nosuch"):
        submit(plan, cluster.environ)
    assert not Path(run_dir(plan.spec)).parent.exists()


def test_options_in_the_shells_environment_do_not_reach_the_job(cluster: Cluster, project: Path, records: Path) -> None:
    plan = toy_plan(project, records)
    job = submit(plan, {**cluster.environ, "SBATCH_PARTITION": "high", "SBATCH_TIMELIMIT": "1"})
    ended = cluster.wait(job.job_id)
    assert (job.ignored, ended["Partition"], ended["TimeLimit"]) == (
        ("SBATCH_PARTITION", "SBATCH_TIMELIMIT"),
        "low",
        "12:00:00",
    )


def test_make_submit_runs_a_job_from_the_checkout(cluster: Cluster, checkout: Path, records: Path) -> None:
    (checkout / "trainer" / "supervise.py").write_text(TOY)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], cwd=checkout, check=True)
    words = ["GPUS=2", "NODES=2", "DEVICE=cpu", f"DATA={records}", "RUN=from-make", "TIME=10"]
    done = cluster.run("make", "submit", *words, check=False, cwd=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((checkout / "runs" / "from-make" / "run.json").read_text())
    (job_id,) = record["job_ids"]
    assert "follow  make logs RUN=from-make" in done.stdout and f"scancel {job_id}" in done.stdout
    assert record["git"]["dirty"] is True and len(record["git"]["commit"]) == 40
    assert cluster.wait(job_id)["JobState"] == "COMPLETED"
    seen = seen_by(checkout)
    assert len(seen) == 2
    assert seen[0]["argv"] == ["--", *record["plan"]["launch_argv"]]
    assert Path(record["spec"]["project_dir"]) == checkout
    assert job_python(make_plan(project_dir=str(checkout), device="cpu").spec) == f"{checkout}/.venv/cpu/bin/python"
