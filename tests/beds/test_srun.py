"""`make run` in a job of Slurm's that a person began with srun."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from toy_project import TRAIN

from local.machine.attempt import read_attempt
from trainer.log import bare

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("make"), reason="make is not installed"),
]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(cluster: Cluster, checkout: Path, records: Path, tiny_model: Path) -> Iterator[Start]:
    """Begins `make run` by srun, with a training in the real one's place that waits while there is a file `hold`."""
    (checkout / "trainer" / "train.py").write_text(TRAIN)
    (checkout / "hold").touch()
    begun = []

    def started(*options: str) -> subprocess.Popen[str]:
        request = [f"MODEL={tiny_model}", f"DATA={records}", "DEVICE=cpu", "MAX_STEPS=2", "RUN=by-hand"]
        begun.append(
            subprocess.Popen(
                ["srun", "--ntasks=1", "--cpus-per-task=2", "--mem=8G", *options, "make", "run", *request],
                cwd=checkout,
                env={**cluster.environ, "TOY_STEP_S": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return begun[-1]

    yield started
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.communicate()


def read_until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """The lines of its output up to one that begins so."""
    lines = []
    assert process.stdout
    for line in process.stdout:
        lines.append(bare(line.rstrip()))
        if lines[-1].startswith(beginning):
            return lines
    raise AssertionError("\n".join(lines))


def test_make_run_by_srun_prints_its_lines_as_they_come(start: Start, checkout: Path) -> None:
    process = start()
    lines = read_until(process, "attempt of ")
    assert "run    by-hand" in lines and "loading libraries ..." in lines
    (checkout / "hold").unlink()
    assert read_until(process, "step 2")[-2:] == ["step 1", "step 2"]
    process.communicate(timeout=120)
    attempt = read_attempt(checkout / "runs" / "by-hand")
    assert attempt and (process.returncode, attempt.code) == (0, 0)


def test_one_ctrl_c_that_srun_passes_on_stops_make_run_and_kills_nothing(start: Start, checkout: Path) -> None:
    """As linuxproc does, srun signals all processes: make run, and the supervisor to which it passes the signal on."""
    process = start("--disable-status")
    read_until(process, "attempt of ")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "asked to stop by SIGINT" in said and "failed" not in said
    attempt = read_attempt(checkout / "runs" / "by-hand")
    assert attempt and attempt.code == 75
