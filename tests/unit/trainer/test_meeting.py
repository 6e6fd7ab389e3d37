"""Ranks that stay away or stop answering end the attempt in a bounded time, by name."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT
from process_tree import descendants
from training import run_forked

from trainer.log import bare
from trainer.node.start import exit_unagreed, rendezvous
from trainer.outcome import SickNode

pytestmark = pytest.mark.slow


def come(late_rank: str) -> int:
    os.environ["SLURMD_NODENAME"] = f"n{int(os.environ['RANK']) + 1}"
    if os.environ["RANK"] == late_rank:
        time.sleep(6)
        return 0
    try:
        rendezvous(timeout_s=3)
    except SickNode as error:
        return exit_unagreed(error)
    print("met", flush=True)
    time.sleep(1)  # a first rank that trains does not take the store away from those who still look into it
    return 0


def test_all_who_come_meet(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, come, "none", world_size=2)
    assert (ended.codes, ended.output) == ((0, 0), "met\n")


def test_who_does_not_come_is_named_once(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, come, "2", world_size=3)
    assert ended.codes == (1, 1, 0)
    assert ended.output == (
        "trainyard: n1: 2 of 3 processes met within 3 s: here are n1 (rank 0), n2 (rank 1); rank 2 did not come\n"
    )
    assert "did not come" not in (tmp_path / "rank1.log").read_text()


def first_of_two_nodes(output_dir: Path, *, meeting_timeout_s: int) -> subprocess.Popen[str]:
    """The supervisor of a node whose peer is not there, with the real launcher."""
    code = (
        f"import sys; from trainer import supervise; supervise.MEETING_TIMEOUT_S = {meeting_timeout_s};"
        "sys.exit(supervise.main(sys.argv[1:]))"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"SLURM_PROCID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-c", code, "--", "accelerate", "launch", "--config_file",
         "accelerate_configs/multi_gpu.yaml", "--num_processes", "2", "--num_machines", "2", "-m", "trainer.train",
         "--output_dir", str(output_dir)],
        cwd=ROOT, env={**os.environ, **meeting, "ACCELERATE_USE_CPU": "true"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def cmdline(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def test_a_node_that_stays_away_ends_the_attempt_within_the_bound(tmp_path: Path) -> None:
    """No rank is started before the other node's launcher is there."""
    with first_of_two_nodes(tmp_path, meeting_timeout_s=3) as supervisor:
        _, said = supervisor.communicate(timeout=120)
        said = bare(said)
    assert supervisor.returncode == 1
    assert "1/2 clients joined" in said


def test_a_stop_does_not_wait_for_a_node_that_stays_away(tmp_path: Path) -> None:
    """And is counted, so that a job whose nodes never meet is not requeued for ever."""
    said = []
    for _ in range(3):
        with first_of_two_nodes(tmp_path, meeting_timeout_s=300) as supervisor:
            deadline = time.monotonic() + 120
            while not any(b"accelerate" in cmdline(process) for process in descendants(supervisor.pid)):
                assert supervisor.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            supervisor.terminate()
            said.append((bare(supervisor.communicate(timeout=15)[1]), supervisor.returncode))
    asked = "trainyard: asked to stop by SIGTERM\n"
    again = f"{asked}trainyard: stopped before training began: run again to go on from there\n", 75
    assert said[:2] == [again, again]
    assert said[2][1] == 1 and said[2][0].startswith(
        f"{asked}trainyard: stopped before training began, and the last 3 attempts brought no new step: "
    )


def test_a_stopped_rank_ends_the_attempt_with_1(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    """The whole trainer under its supervisor; SIGSTOP leaves a process that is there and does not answer."""
    options = {
        "model": tiny_model, "data": walks, "output_dir": tmp_path / "run", "run_id": "stopped", "device": "cpu",
        "world_size": 2, "max_steps": 100000, "eval_samples": 0, "gradient_accumulation_steps": 1,
        "logging_steps": 1, "collective_timeout_s": 15,
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    log = tmp_path / "log"
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-u", "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file",
             "accelerate_configs/multi_gpu.yaml", "--num_processes", "2", "--num_machines", "1",
             "-m", "trainer.train", *words],
            cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not re.search(r"step +2/", log.read_text()):
            assert supervisor.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        (rank_1,) = (
            pid for pid in descendants(supervisor.pid)
            if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
        )  # fmt: skip
        os.kill(rank_1, signal.SIGSTOP)
        assert supervisor.wait(timeout=120) == 1
    finally:
        supervisor.kill()
    assert not Path(f"/proc/{rank_1}").exists()
    # In gloo's words, which depend on whether the other rank stopped before or within an exchange.
    assert re.search("Timed out waiting|[Tt]imeout", log.read_text()), log.read_text()
