"""A pod's log is kept in its run's folder: all that it and its processes print, over all attempts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paths import ROOT

PRINTS = """
import subprocess, sys
from pathlib import Path
from trainer.node.kept_log import log_kept
run = Path(sys.argv[1])
print("before")
with log_kept(run, 1):
    print("early")
    sys.stdout.flush()
    (run.mkdir if sys.argv[2] == "right" else list)()
    subprocess.run(["sh", "-c", "echo child; echo error >&2"])
    print("late", file=sys.stderr)
print("after")
"""


def said(run: Path, request: str = "right") -> str:
    words = [sys.executable, "-c", PRINTS, str(run), request]
    # As in a pod of any image: what is printed waits in a buffer.
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        words, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


def test_what_a_pod_and_its_processes_print_is_kept_and_printed(tmp_path: Path) -> None:
    """Also what was printed before the run had a folder."""
    run = tmp_path / "run"
    assert said(run) == "before\nearly\nchild\nerror\nlate\nafter\n"
    assert (run / "logs" / "node-1.log").read_text() == "early\nchild\nerror\nlate\n"


def test_a_wrong_request_leaves_no_folder(tmp_path: Path) -> None:
    assert said(tmp_path / "run", "wrong") == "before\nearly\nchild\nerror\nlate\nafter\n"
    assert not (tmp_path / "run").exists()


def test_a_second_attempt_adds_to_the_log_and_follows_no_link(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    said(run)
    run.rename(tmp_path / "first")
    (tmp_path / "first" / "logs").rename(other)
    run.symlink_to(tmp_path / "first")
    (tmp_path / "first" / "logs").symlink_to(other)
    before = (other / "node-1.log").read_text()
    os.mkfifo(tmp_path / "pipe")
    for _ in range(2):
        said(run, "wrong")
    assert (other / "node-1.log").read_text() == before
    assert (tmp_path / "first" / "logs" / "node-1.log").read_text() == "early\nchild\nerror\nlate\n" * 2
    (tmp_path / "first" / "logs" / "node-1.log").unlink()
    os.mkfifo(tmp_path / "first" / "logs" / "node-1.log")
    assert said(run, "wrong").endswith("late\nafter\n")
