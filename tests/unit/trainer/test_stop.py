"""The stop protocol with real processes: supervisor, launcher, ranks; a toy in the place of the training."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from process_tree import descendants
from toy_project import make_toy_project, read_losses, toy_argv, toy_losses

from trainer.node.processes import STOP_SIGNALS
from trainer.supervise import SAME_PRESS_S, pressed_again

pytestmark = pytest.mark.slow

PATIENCE_S = 30


class Job:
    """A supervised toy run."""

    def __init__(self, project: Path, *, env: dict[str, str] | None = None, **options: Any) -> None:
        self.run_dir = project / "run"
        self.run_dir.mkdir(exist_ok=True)
        self.log = project / f"log{len(list(project.glob('log*')))}"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "trainer.supervise", "--", *toy_argv(self.run_dir, **options)],
                cwd=project, env={**os.environ, **(env or {})}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def until(self, pattern: str) -> None:
        wait_for(lambda: re.search(pattern, self.log.read_text()), self.log.read_text)

    def end(self) -> int:
        return self.process.wait(PATIENCE_S)

    @property
    def last_step(self) -> int:
        return max(map(int, re.findall(r"(?m)^step (\d+)", self.log.read_text())))


def wait_for(true: Callable[[], object], what: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_toy_project(tmp_path / "toy")


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def run(**options: Any) -> Job:
        jobs.append(Job(project, **options))
        return jobs[-1]

    yield run
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.process.pid, signal.SIGKILL)
        job.process.wait()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_ends_in_75_and_the_next_attempt_loses_no_step(
    number: signal.Signals, start: Callable[..., Job]
) -> None:
    job = start()
    job.until("step 7")
    job.process.send_signal(number)
    assert job.end() == 75
    assert f"asked to stop by {number.name}" in job.log.read_text()
    assert f"trainyard: stopped at step {job.last_step}: run again to go on from there" in job.log.read_text()
    again = start()
    assert again.end() == 0
    assert f"going on from step {job.last_step}\n" in again.log.read_text()
    assert read_losses(again.run_dir) == toy_losses()


def test_more_signals_to_everyone_change_nothing(start: Callable[..., Job]) -> None:
    """As linuxproc does: every process of the job gets them, again and again."""
    job = start(step_s=0.3)
    job.until("step 2")
    for _ in range(3):
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
            for pid in [job.process.pid, *descendants(job.process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
    assert job.end() == 75
    assert start(step_s=0).end() == 0
    assert read_losses(job.run_dir) == toy_losses()


def test_a_signal_that_comes_after_the_last_step_changes_no_exit_code(
    start: Callable[..., Job], tmp_path: Path
) -> None:
    """The supervisor waits for the reader of its status file, so it is certain to live."""
    os.mkfifo(tmp_path / "status")
    (tmp_path / "temporary").mkdir()
    job = start(
        max_steps=1, env={"TRAINYARD_STATUS_FILE": str(tmp_path / "status"), "TMPDIR": str(tmp_path / "temporary")}
    )
    wait_for(lambda: (job.run_dir / "losses.json").exists() and not list((tmp_path / "temporary").iterdir()))
    for number in STOP_SIGNALS:
        job.process.send_signal(number)
    assert (tmp_path / "status").read_text() == "0\n"
    assert job.end() == 0


def test_a_second_interrupt_kills(start: Callable[..., Job]) -> None:
    job = start(step_s=1000)
    job.until("attempt of")
    below = descendants(job.process.pid)
    job.process.send_signal(signal.SIGINT)
    job.until("asked to stop by SIGINT")  # at once, while the step goes on
    assert job.process.poll() is None
    time.sleep(SAME_PRESS_S * 1.1)
    job.process.send_signal(signal.SIGINT)
    assert job.end() == 1
    assert len(below) == 2 and not any(map(alive, below))


@pytest.mark.parametrize(
    ("times", "again"), [([], False), ([5.0], False), ([5.0, 5.01, 7.0], False), ([5.0, 5.01, 7.01], True)]
)
def test_interrupts_within_two_seconds_are_one_press(times: list[float], again: bool) -> None:
    """srun sends SIGINT to each process of make run, of which one passes it on to another."""
    assert pressed_again(times) is again


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ignores(pid: int, number: int) -> bool:
    (mask,) = re.findall(r"SigIgn:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("victim", ["supervisor", "launcher", "rank"])
def test_nobody_outlives_the_supervisor_whoever_is_killed(victim: str, start: Callable[..., Job]) -> None:
    job = start(step_s=1000)
    job.until("attempt of")
    launcher, rank = descendants(job.process.pid)
    os.kill({"supervisor": job.process.pid, "launcher": launcher, "rank": rank}[victim], signal.SIGKILL)
    assert job.end() == (-9 if victim == "supervisor" else 1)
    wait_for(lambda: not alive(launcher) and not alive(rank))


@pytest.mark.slow
def test_under_accelerate_and_torchrun_ranks_and_data_workers_are_deaf_and_die_with_it(tmp_path: Path) -> None:
    """The real launcher: torchrun installs handlers of its own unless it is told otherwise."""
    (tmp_path / "ranks.py").write_text(
        "import os, time\n"
        "from trainer.node.processes import in_rank\n"
        "in_rank()\n"
        "if os.fork() == 0: time.sleep(1000)\n"
        "print('rank is up', flush=True)\n"
        "time.sleep(1000)\n"
    )
    log = tmp_path / "log"
    root = ROOT
    with open(log, "wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file",
             "accelerate_configs/multi_gpu.yaml", "--num_processes", "2", "--num_machines", "1",
             "-m", "ranks"],
            cwd=root, env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": f"{root}:{tmp_path}"},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: log.read_text().count("rank is up") == 2, log.read_text)
        below = descendants(supervisor.pid)
        assert len(below) == 1 + 2 + 2
        assert all(ignores(pid, number) for pid in below for number in STOP_SIGNALS)
        for number in STOP_SIGNALS:
            for pid in below:
                os.kill(pid, number)
        time.sleep(1.5)
        assert supervisor.poll() is None and all(map(alive, below))
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_for(lambda: not any(map(alive, below)))


def test_a_job_with_a_deadline_stops_before_it_after_the_steps_that_it_has_time_for(start: Callable[..., Job]) -> None:
    end = time.time() + 6
    job = start(step_s=1, env={"TRAINYARD_DEADLINE": str(end), "TRAINYARD_STOP_LEAD_S": "0.5"})
    assert job.end() == 75
    assert time.time() < end
    assert job.last_step >= 2


def test_the_third_attempt_in_a_row_without_a_step_has_failed(start: Callable[..., Job]) -> None:
    codes = []
    for _ in range(3):
        job = start(never_steps=1)
        job.until("attempt of")
        job.process.send_signal(signal.SIGTERM)
        codes.append(job.end())
    assert codes == [75, 75, 1]
    assert "trainyard: stopped before training began, and the last 3 attempts brought" in job.log.read_text()


# In the place of the training: a rank whose libraries are never loaded.
LOADS = """
import os, time
from trainer.node.processes import in_rank
in_rank()
os.write(1, b"loads\\n")
time.sleep(1000)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_is_answered_while_the_libraries_load(processes: int, project: Path, start: Callable[..., Job]) -> None:
    (project / "trainer" / "train.py").write_text(LOADS)
    codes = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        job = start(processes=processes)
        job.until("(?s)" + "loads\n.*" * processes)
        below = descendants(job.process.pid)
        job.process.send_signal(number)
        codes.append(job.end())
        assert not any(map(alive, below))
    assert codes == [75, 75, 1]
    assert "trainyard: stopped before training began, and the last 3 attempts brought" in job.log.read_text()


def test_a_real_run_that_is_stopped_while_it_imports_ends_before_it_looks_at_the_records(
    tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    run, log, late = tmp_path / "run", tmp_path / "log", tmp_path / "late"
    run.mkdir()
    late.mkdir()
    (late / "trl.py").write_text("import time\ntime.sleep(1000)\n")  # however fast the machine is
    settings = {"model": tiny_model, "data": walks, "output_dir": run, "run_id": "r", "device": "cpu"}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with open(log, "wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file",
             "accelerate_configs/cpu_mps.yaml", "--num_processes", "1", "--num_machines", "1", "-m", "trainer.train",
             *words],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(late)},
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_for(lambda: list(tmp_path.glob("trainyard-*/begun")), log.read_text)
        supervisor.terminate()
        assert supervisor.wait(PATIENCE_S) == 75, log.read_text()
    finally:
        supervisor.kill()
    said = log.read_text()
    assert "asked to stop by SIGTERM\n" in said and "stopped before training began: run again" in said
    assert "data: " not in said


def test_a_later_attempt_takes_the_checkpoints_from_a_writer_that_was_left_behind(start: Callable[..., Job]) -> None:
    """As after a lost node whose processes still live: the old one fails at its next commit."""
    old = start(step_s=0.2)
    old.until("step 3")
    new = start(step_s=0)
    assert new.end() == 0
    kept = sorted(path.name for path in (new.run_dir / "checkpoints").glob("step-*"))
    assert old.end() == 1
    assert sorted(path.name for path in (new.run_dir / "checkpoints").glob("step-*")) == kept
    assert read_losses(new.run_dir) == toy_losses()
