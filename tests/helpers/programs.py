"""The project's programs, run as their user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import warm
from paths import ROOT


def until(true: Callable[[], object], what: Callable[[], object] = str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


Done = subprocess.CompletedProcess[str]


def local(checkout: Path, *argv: str) -> subprocess.Popen[str]:
    environ = {"WANDB_MODE": "offline", **os.environ, "HOME": str(checkout), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "local", "sweep", "--device", "cpu", *argv],
        cwd=checkout, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def slurm(*argv: str, cwd: Path = ROOT, **environ: str) -> Done:
    return warm.run("slurm", *argv, cwd=cwd, environ={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ})


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def make_program(path: str, name: str, text: str) -> None:
    program = Path(path.split(":")[0], name)
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def make(checkout: Path, *words: str, **environ: str) -> Done:
    return subprocess.run(
        ["make", *words],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "HOME": str(checkout), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
