"""A scheduler is one folder and one line elsewhere: the toy in tests/toy/, driven by make through every verb."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT, TESTS
from programs import until

TOY = TESTS / "toy"
MODULES = {"__main__.py", "scheduler.py", "target.py", "render.py", "submit.py", "runs.py"}
LISTED = "override SCHEDULERS := slurm k8s local"
# In the supervisor's place.
SUPERVISE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("stopped in order", flush=True), sys.exit(75)))
print("a step", flush=True)
time.sleep(60)
"""
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture
def make(checkout: Path, records: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """make in a checkout to which one folder and one line were added."""
    shutil.copytree(TOY, checkout / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    makefile = (checkout / "Makefile").read_text()
    assert makefile.count(LISTED) == 1
    (checkout / "Makefile").write_text(makefile.replace(LISTED, f"{LISTED} toy"))
    (checkout / "trainer" / "supervise.py").write_text(SUPERVISE)

    def called(*words: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": os.environ["PATH"], "HOME": str(checkout)}
        return subprocess.run(
            ["make", *words, "TO=toy"],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return called


@pytest.mark.slow
def test_every_verb_works_for_a_scheduler_of_one_folder_and_one_line(
    make: Callable[..., subprocess.CompletedProcess[str]], checkout: Path, records: Path
) -> None:
    request = (f"DATA={records}", "DEVICE=cpu", "RUN=r")
    assert "cpu_mps" in make("plan", *request).stdout
    assert " -m trainer.supervise -- accelerate launch " in make("render", *request).stdout
    assert make("list").stdout == f"no run in {checkout}/runs\n"
    done = make("submit", *request)
    assert (done.returncode, done.stderr) == (0, "")
    assert "status  make status TO=toy RUN=r\n" in done.stdout
    assert "exists: give another RUN" in make("submit", *request).stderr
    log = checkout / "runs" / "r" / "logs" / "toy-1.log"
    until(lambda: log.read_text() == "a step\n")
    lines = make("status").stdout.splitlines()
    assert lines[:2] == ["run    r", "job    1 RUNNING"]
    assert lines[-1] == "next   make logs TO=toy RUN=r (follows it; make cancel TO=toy RUN=r ends it)"
    assert make("cancel").stdout == "cancelled job 1 of run r; make resume TO=toy RUN=r starts it again\n"
    assert make("logs").stdout == "a step\nstopped in order\n"
    assert make("list").stdout.splitlines()[1].split() == ["r", "1", "FAILED", "-", "-", "no"]
    assert make("resume", "RUN=r").stdout == "status  make status TO=toy RUN=r\n"
    runs = "trainyard: job 2 of run r is RUNNING: make cancel TO=toy RUN=r ends it, then resume"
    assert make("resume", "RUN=r").stderr.startswith(runs)
    until(lambda: "a step\n" in log.with_name("toy-2.log").read_text())
    make("cancel")
    assert make("logs").stdout == "a step\nstopped in order\n" * 2
    assert make("status", "GPUS=2").stderr.startswith("trainyard: GPUS=2: only RUN, OUTPUT count here, leave it out")
    assert "did you mean r?" in make("cancel", "RUN=q").stderr or "known are r" in make("cancel", "RUN=q").stderr


@pytest.mark.slow
def test_a_sweep_needs_nothing_of_a_scheduler(
    make: Callable[..., subprocess.CompletedProcess[str]], checkout: Path, records: Path
) -> None:
    done = make("sweep", f"DATA={records}", "DEVICE=cpu", "RUN=s", "GRID=SEED=1,2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sweep  s: 2 members") and "status  make status TO=toy RUN=s\n" in done.stdout
    log = checkout / "runs" / "s-1" / "logs" / "toy-1.log"
    until(lambda: log.exists() and log.read_text() == "a step\n")
    assert make("cancel", "RUN=s").stdout.startswith("cancelled 2 jobs of sweep s; make resume TO=toy RUN=s ")
    (checkout / "runs" / "s-0" / "metrics.json").write_text('{"history": []}')  # as if it had come to its end
    until(lambda: make("resume", "RUN=s").stdout == "status  make status TO=toy RUN=s\n")
    assert not (checkout / "runs" / "s-0" / "logs" / "toy-2.log").exists()
    until(log.with_name("toy-2.log").exists)
    make("cancel", "RUN=s")
    assert "what shall the members differ in?" in make("sweep").stderr


def test_the_toy_has_six_modules_and_the_page_names_each() -> None:
    page = (ROOT / "docs" / "add-a-scheduler.md").read_text()
    assert modules_of(TOY) == MODULES == set(re.findall(r"tests/toy/(\w+\.py)\)", page))


@pytest.mark.parametrize("room", ["slurm", "k8s", "local"])
def test_every_scheduler_has_the_same_modules(room: str) -> None:
    assert modules_of(ROOT / room) == MODULES


def modules_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")} - {"__init__.py"}
