"""What clusters do to jobs, on a real Slurm: every job ends as promised, or goes on where it was.

The rendered script, the supervisor, the stop protocol and the checkpoints are the real ones; the training is a
toy that starts at once. One scenario runs the whole trainer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm_verbs as verbs
from cluster import Cluster
from job import Job, read
from paths import ROOT
from plans import ENV, make_plan
from programs import until
from toy_project import make_toy_project, read_losses, toy_argv, toy_losses
from training import train_forked

from slurm.render import run_dir

pytestmark = pytest.mark.cluster


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path, records: Path) -> Callable[..., Job]:
    project = make_toy_project(tmp_path / "it's a toy")

    def run(*, toy: dict[str, Any] | None = None, nodes: int = 1, **request: Any) -> Job:
        values: dict[str, Any] = {
            "project_dir": str(project), "device": "cpu", "data": str(records), "name": "toy",
            "run_id": "toy-1", "gpus": 1, "cpus": 2, "mem_gib": 1, "nodes": nodes, **request,
        }  # fmt: skip
        target = run_dir(make_plan(**values).spec)
        argv = toy_argv(target, processes=nodes * values["gpus"], nodes=nodes, **{"step_s": 0.1, **(toy or {})})
        env = (*ENV, *values.get("environment", ()))
        return Job(cluster, make_plan(argv=argv, env=env, **values))

    return run


def assert_no_step_was_lost_or_repeated(job: Job) -> None:
    assert job.steps == list(range(1, 101))
    assert read_losses(job.run_dir) == toy_losses()


def test_preempted_by_a_higher_partition_it_is_requeued_once_and_loses_no_step(
    cluster: Cluster, start: Callable[..., Job]
) -> None:
    job = start(cpus=64)
    job.until("step 7\n")
    cluster.run("sbatch", "-p", "high", "-N2", "-c64", "-o", "/dev/null", "--wrap", "sleep 2")
    job.until_requeued()
    ended = job.run_on()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert "asked to stop by SIGUSR1" in job.log
    assert_no_step_was_lost_or_repeated(job)


@pytest.mark.parametrize("name", ["USR1", "TERM", "INT"])
def test_signalled_it_is_requeued_and_loses_no_step(name: str, cluster: Cluster, start: Callable[..., Job]) -> None:
    job = start()
    job.until("step 7\n")
    cluster.run("scancel", f"--signal={name}", job.id)
    job.until_requeued()
    ended = job.run_on()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert_no_step_was_lost_or_repeated(job)


# A person's, as seen on real clusters. `true` at the end: a login file that fails is no login file.
LOGIN_FILE = """
export SLURM_TIME_FORMAT='%d/%m/%Y %H:%M' SQUEUE_PARTITION=high SQUEUE_FORMAT=%u SQUEUE_STATES=PENDING
export SLURM_LABELIO=1 SLURM_TIMELIMIT=1 SLURM_PARTITION=high SRUN_EXPORT_ENV=NONE SLURM_CPU_BIND=verbose
export TZ=Asia/Tokyo LC_ALL=de_DE.UTF-8 TMPDIR=/no/such/folder PYTHONSAFEPATH=1 PYTHONOPTIMIZE=2
true
"""


def test_login_files_steer_nothing_and_a_job_that_is_preempted_by_cancelling_it_is_put_back(
    cluster: Cluster, start: Callable[..., Job]
) -> None:
    """Signalled first, then preempted in a partition whose PreemptMode is CANCEL, without a grace."""
    cluster.run("scontrol", "create", "partitionname=cancel", "nodes=n[1-2]", "preemptmode=cancel", "prioritytier=1")
    with cluster.login_file(LOGIN_FILE):
        job = start(cpus=64, time_limit_min=2 * 24 * 60, partition="cancel", toy={"max_steps": 160})
        job.until("step 7\n")
        cluster.run("scancel", "--signal=USR1", job.id)
        job.until_requeued()
        job.start_again()
        job.until("going on from step")
        job.until(f"step {job.steps[-1] + 30}\n")
        cluster.run("sbatch", "-p", "high", "-N2", "-c64", "-o", "/dev/null", "--wrap", "sleep 2")
        job.until_requeued(2)
        ended = job.run_on()
    cluster.run("scontrol", "delete", "partitionname=cancel")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), job.log
    assert job.steps == list(range(1, 161))
    assert read_losses(job.run_dir) == toy_losses(160)


def test_two_nodes_agree_when_only_one_of_them_is_told(cluster: Cluster, start: Callable[..., Job]) -> None:
    job = start(nodes=2)
    job.until("step 7\n")
    cluster.run("scancel", "--signal=USR1", f"{job.id}.0")
    job.until_requeued()
    ended = job.run_on()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert_no_step_was_lost_or_repeated(job)


def test_out_of_time_it_goes_on_in_the_next_attempt_and_what_could_not_save_is_a_timeout(
    cluster: Cluster, start: Callable[..., Job], capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit of a minute: told to stop 15 s before its end at the latest. The other's step is longer than that."""
    late = start(run_id="late", toy={"step_s": 600}, time_limit_min=1)
    job = start(toy={"step_s": 0.6}, time_limit_min=1)
    job.until_requeued()
    ended = job.run_on(timeout_s=240)
    assert ended["JobState"] == "COMPLETED", f"{ended}\n{job.log}"
    assert_no_step_was_lost_or_repeated(job)
    ended = cluster.wait(late.id)
    assert (ended["JobState"], ended["Restarts"]) == ("TIMEOUT", "0"), f"{ended}\n{late.log}"
    capsys.readouterr()
    assert verbs.status({"RUN": "late"}, cluster.environ, late.run_dir.parents[1]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"job    {late.id} TIMEOUT \(TimeLimit\) on n[12], [1-9]:[0-9]{{2}} of 1:00", lines[1])
    assert lines[-1] == "next   make resume RUN=late (goes on from its newest checkpoint)"


def test_a_node_set_down_gives_the_job_back_and_it_goes_on_from_its_checkpoint(
    cluster: Cluster, start: Callable[..., Job]
) -> None:
    job = start()
    job.until("step 25\n")
    node = job.state["NodeList"]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        job.until_requeued()
        ended = job.run_on()
    finally:
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # it may be back
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert re.search(r"going on from step \d+\n", job.log)
    assert read_losses(job.run_dir) == toy_losses()


def test_a_killed_rank_ends_the_job_as_failed(start: Callable[..., Job]) -> None:
    job = start()
    job.until("step 7\n")
    os.kill(int(re.findall(r"attempt of (\d+)", job.log)[0]), signal.SIGKILL)
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0")


def test_a_cancelled_job_stays_cancelled_also_when_it_saved_in_time(
    cluster: Cluster, start: Callable[..., Job]
) -> None:
    job = start()
    job.until("step 7\n")
    cluster.run("scancel", job.id)
    job.until("stopped at step")
    assert job.run_on()["JobState"] == "CANCELLED"
    time.sleep(3)
    assert (job.state["JobState"], job.state["Restarts"]) == ("CANCELLED", "0")
    assert (job.run_dir / "checkpoints" / f"step-{job.steps[-1]:06d}" / "manifest.json").is_file()


def test_a_wrong_configuration_is_never_run_again(start: Callable[..., Job]) -> None:
    job = start(toy={"bad": 1})
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "78:0", "0")
    assert "trainyard: a toy mistake" in job.log


def test_a_wrong_request_that_another_node_than_the_first_finds_is_never_run_again(
    start: Callable[..., Job], tmp_path: Path
) -> None:
    """The second node's supervisor is a stand-in; the first one's, which srun then stops, is real."""
    toy = tmp_path / "it's a toy"
    supervise = toy / "trainer" / "supervise.py"
    supervise.unlink()
    supervise.write_text(
        "import os, runpy, sys, time\n"
        "if os.environ['SLURM_PROCID'] == '1':\n"
        "    while not os.path.exists('launched'):\n"
        "        time.sleep(0.1)\n"
        "    sys.exit(78)\n"
        f"runpy.run_path({str(ROOT / 'trainer' / 'supervise.py')!r}, run_name='__main__')\n"
    )
    (toy / "accelerate" / "commands" / "launch.py").write_text(
        "import time; open('launched', 'w').close(); time.sleep(600)"
    )
    job = start(nodes=2)
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "78:0", "0")
    assert "trainyard: stopped before training began: run again" in job.log


def test_a_node_that_cannot_do_it_is_named_and_the_job_ends_with_1(start: Callable[..., Job], tmp_path: Path) -> None:
    hub = (("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HOME", str(tmp_path)))
    job = start(nodes=2, toy={"model": "org/some"}, environment=hub)
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0")
    said = re.findall(r"^trainyard: (n[12]): http://127.0.0.1:9 cannot be reached", job.log, re.MULTILINE)
    assert said and set(said) <= {"n1", "n2"}  # srun may kill the second before it has spoken
    assert "attempt of" not in job.log


def test_two_ranks_one_killed_the_job_ends_as_failed_and_nobody_is_left(start: Callable[..., Job]) -> None:
    job = start(gpus=2)
    job.until("step 7\n")
    ranks = [int(pid) for pid in re.findall(r"attempt of (\d+)", job.log)]
    os.kill(ranks[1], signal.SIGKILL)
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0")
    assert not any(Path("/proc", str(pid)).exists() for pid in ranks)


def test_a_rank_that_stops_answering_ends_the_job_within_the_collective_timeout(start: Callable[..., Job]) -> None:
    job = start(gpus=2, toy={"collective_timeout_s": 8})
    job.until("step 7\n")
    os.kill(int(re.findall(r"attempt of (\d+)", job.log)[1]), signal.SIGSTOP)
    began = time.monotonic()
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0")
    assert 5 < time.monotonic() - began < 120  # the default is half an hour


def test_a_node_whose_slurmd_is_killed_gives_the_job_back_and_what_still_runs_there_spoils_nothing(
    cluster: Cluster, start: Callable[..., Job]
) -> None:
    """Slurm takes the node for lost and starts the job on the other; the first attempt's processes know nothing."""
    job = start(toy={"step_s": 0.4, "max_steps": 120})
    job.until("step 5\n")
    node = job.state["NodeList"]
    old = int(re.findall(r"attempt of (\d+)", job.log)[0])
    cluster.kill_slurmd(node)
    try:
        job.until_requeued()
        assert Path("/proc", str(old)).exists()
        cluster.run("scontrol", "update", f"jobid={job.id}", "starttime=now")
        job.until("going on from step")
        assert job.state["NodeList"] != node
        ended = cluster.wait(job.id)
        assert not Path("/proc", str(old)).exists()
    finally:
        until(lambda: not cluster.has_steps(job.id))
        cluster.start_slurmd(node)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert read_losses(job.run_dir) == toy_losses(120)
    # It ran on, and was told at its next checkpoint.
    said = read(job.run_dir / f"failed-{old}")
    assert "taken over" in said, said
    kept = sorted((job.run_dir / "checkpoints").iterdir())
    assert [path.name for path in kept if path.is_dir()][-1] == "step-000120"
    assert all((path / "manifest.json").is_file() for path in kept if path.name.startswith("step-"))


def test_two_preemptions_while_loading_do_no_harm(cluster: Cluster, start: Callable[..., Job], tmp_path: Path) -> None:
    hold = tmp_path / "it's a toy" / "hold"
    hold.touch()
    job = start(cpus=64)
    for attempt in (1, 2):
        job.until("attempt of", times=attempt)
        cluster.run("sbatch", "-p", "high", "-N2", "-c64", "-o", "/dev/null", "--wrap", "sleep 1")
        job.until_requeued(attempt)
        if attempt < 2:
            job.start_again()
    hold.unlink()
    ended = job.run_on()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2")
    assert_no_step_was_lost_or_repeated(job)


def test_the_third_attempt_in_a_row_without_a_step_is_the_last(cluster: Cluster, start: Callable[..., Job]) -> None:
    job = start(toy={"never_steps": 1})
    for attempt in (1, 2, 3):
        job.until("attempt of", times=attempt)
        cluster.run("scancel", "--signal=USR1", job.id)
        if attempt < 3:
            job.until_requeued(attempt)
            job.start_again()
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "2")


@pytest.mark.slow
def test_the_whole_trainer_preempted_ends_with_the_losses_and_the_wandb_run_of_one_that_was_not(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    """Two processes under accelerate and torchrun, launched cold."""
    options = {
        "micro_batch_size": 1, "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "max_steps": 120,
        "logging_steps": 3, "save_steps": 30, "eval_steps": 40, "eval_samples": 4, "lora_r": 8, "lora_alpha": 16,
    }  # fmt: skip
    straight = train_forked(
        tmp_path / "straight", model=tiny_model, data=walks, world_size=2,
        environment={"ACCELERATE_MIXED_PRECISION": "bf16"}, **options,
    )  # fmt: skip
    assert straight.codes == (0, 0), straight.output

    project = make_toy_project(tmp_path / "project")
    for name in ("trainer", "accelerate"):
        shutil.rmtree(project / name)
    (project / "trainer").symlink_to(ROOT / "trainer")
    given: dict[str, Any] = {
        "project_dir": str(project), "device": "cpu", "data": str(walks), "name": "whole", "run_id": "whole",
        "gpus": 2, "cpus": 64,
    }  # fmt: skip
    values = {
        "model": tiny_model, "data": walks, "output_dir": run_dir(make_plan(**given).spec), "run_id": "test",
        "device": "cpu", "world_size": 2, "learning_rate": 2e-3, **options,
    }  # fmt: skip
    argv = (
        *("accelerate", "launch", "--config_file", "accelerate_configs/multi_gpu.yaml", "--num_processes", "2"),
        *("--num_machines", "1", "-m", "trainer.train"),
        *(str(word) for name, value in values.items() for word in (f"--{name}", value)),
    )
    env = (("ACCELERATE_USE_CPU", "true"), ("OMP_NUM_THREADS", "1"), ("WANDB_MODE", "offline"))
    job = Job(cluster, make_plan(argv=argv, env=env, **given))
    job.until(r"step   3/120", timeout_s=200)
    cluster.run("sbatch", "-p", "high", "-N2", "-c64", "-o", "/dev/null", "--wrap", "sleep 2")
    job.until_requeued()
    ended = job.run_on(timeout_s=200)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    (stopped,) = re.findall(r"trainyard: stopped at step (\d+)", job.log)
    assert f"going on from step {stopped} " in job.log
    assert history(job.run_dir) == history(tmp_path / "straight" / "run")
    attempts = [path.name for path in (job.run_dir / "wandb").glob("offline-run-*")]
    assert len(attempts) == 2 and all(name.endswith("-test") for name in attempts)


def history(folder: Path) -> list[dict[str, float]]:
    """Everything logged with its step, without what the clock and the memory of the day decide."""
    entries = json.loads((folder / "metrics.json").read_text())["history"]
    return [
        {k: v for k, v in entry.items() if not k.endswith(("runtime", "per_second", "resident_gib"))}
        for entry in entries
    ]


def test_tokens_reach_the_ranks_and_are_seen_nowhere_else(
    cluster: Cluster, start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary" + os.urandom(12).hex()
    env_file = tmp_path / "it's a toy" / ".env"
    env_file.write_text(f"HF_TOKEN={canary}\nWANDB_API_KEY={canary}\n")
    env_file.chmod(0o600)
    monkeypatch.setenv("HF_TOKEN", canary)
    monkeypatch.setenv("WANDB_API_KEY", canary)
    job = start()
    job.until("step 7\n")
    rank = re.findall(r"attempt of (\d+)", job.log)[0]
    inside = Path(f"/proc/{rank}/environ").read_text()
    assert f"HF_TOKEN={canary}" in inside and f"WANDB_API_KEY={canary}" in inside
    said = {str(path): read(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    said["scontrol"] = cluster.run("scontrol", "--details", "show", "job", job.id).stdout
    said["squeue"] = cluster.run("squeue", "--format=%all").stdout
    job.run_on()
    for folder in (job.run_dir, cluster.dir):
        said |= {str(path): read(path) for path in folder.rglob("*") if path.is_file()}
    assert str(job.log_path) in said and str(job.run_dir / "run.json") in said
    assert [where for where, text in said.items() if canary in text] == []
