"""How long a person waits for the script: `python -m slurm render --gpus 2`, dry runs of torchx and NeMo-Run, submitit.

    make plan                                             # makes .venv/launch
    python3 -m venv /tmp/torchx && /tmp/torchx/bin/pip install torchx==0.7.0
    python3 -m venv /tmp/nemo && /tmp/nemo/bin/pip install nemo-run==0.11.1 leptonai==0.27.3
    .venv/launch/bin/python -m benchmarks.launch_speed --torchx /tmp/torchx/bin/torchx --nemo /tmp/nemo/bin/python

Whole commands, from start to exit, output thrown away, taking turns so that a busy machine slows all alike. What is
compared is CPU seconds, user and system, on which other work hardly tells; the seconds of the clock stand beside them.
Each tool runs in an environment that holds it and what it depends on; one run of each comes first, uncounted. submitit
alone writes a script for a command that is given; it chooses nothing. NeMo-Run writes one for an executor that is
given, here without packing the code, and does not start with the newer leptonai that it would install by itself.
results/launch_speed.json keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROJECT_DIR = Path(__file__).resolve().parent.parent
RESULTS = PROJECT_DIR / "benchmarks" / "results"
TORCHX_ARGS = (
    *("run", "--dryrun", "-s", "slurm", "dist.ddp", "-j", "1x2", "--gpu", "2", "--cpu", "8", "--memMB", "32768"),
    *("-m", "trainer.train", "--", "--model", "google/gemma-3-4b-it", "--data", "data"),
)
SUBMITIT = """
import submitit
executor = submitit.SlurmExecutor(folder="/tmp")
executor.update_parameters(gpus_per_node=2, cpus_per_task=8, mem="32G", time=720, job_name="gemma")
print(executor._make_submission_file_text("accelerate launch -m trainer.train", "0"))
"""

NEMO = """
import tempfile
import nemo_run
with tempfile.TemporaryDirectory() as folder:
    executor = nemo_run.SlurmExecutor(
        account="a", partition="gpu", nodes=1, ntasks_per_node=2, gpus_per_node=2, cpus_per_task=8, mem="32G",
        time="12:00:00", tunnel=nemo_run.LocalTunnel(job_dir=folder), packager=nemo_run.Packager(),
    )
    script = nemo_run.Script(
        path="trainer.train", m=True, entrypoint="python", args=["--model", "google/gemma-3-4b-it", "--data", "data"]
    )
    with nemo_run.Experiment("gemma", executor=executor, base_dir=folder) as experiment:
        experiment.add(script, executor=executor, name="gemma")
        experiment.dryrun(delete_exp_dir=True)
"""


def commands(torchx: str, nemo: str) -> dict[str, tuple[str, ...]]:
    """Commands by their names in the table; the others are compared with the first."""
    return {
        "python -m slurm render --gpus 2": (sys.executable, "-m", "slurm", "render", "--gpus", "2"),
        "make render GPUS=2": ("make", "render", "GPUS=2"),
        "python -m slurm plan": (sys.executable, "-m", "slurm", "plan"),
        "torchx run --dryrun -s slurm dist.ddp -j 1x2 ...": (torchx, *TORCHX_ARGS),
        "nemo_run: Experiment.dryrun with a SlurmExecutor": (nemo, "-c", NEMO),
        "submitit alone, its script of one command": (sys.executable, "-c", SUBMITIT),
    }


def said(command: tuple[str, ...]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def seconds(command: tuple[str, ...]) -> tuple[float, float]:
    """(CPU seconds, seconds of the clock) of a whole command."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after, took = os.times(), time.perf_counter() - start
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, took


def measure(asked: dict[str, tuple[str, ...]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for turn in range(rounds + 1):
        for name, command in asked.items():
            took = seconds(command)
            if turn:
                taken[name].append(took)
    return taken


def page(found: dict[str, Any]) -> str:
    taken = found["seconds"]
    medians = {name: statistics.median(cpu for cpu, _ in times) for name, times in taken.items()}
    reference = next(iter(medians.values()))
    rows = []
    for name, times in taken.items():
        cpu, clock = ([pair[part] for pair in times] for part in (0, 1))
        spread = f"{min(cpu):.3f} | {max(cpu):.3f} | {statistics.median(clock):.2f}"
        rows.append(f"| `{name}` | {medians[name]:.3f} | {spread} | {medians[name] / reference:.1f} |\n")
    return f"""\
# Time to the script

Made by `.venv/launch/bin/python -m benchmarks.launch_speed --torchx /tmp/torchx/bin/torchx --nemo /tmp/nemo/bin/python`
on {found["cores"]} {found["machine"]} cores at a load of {found["load"]:.1f}: compare the rows, not the seconds with
another machine's.

{found["rounds"]} runs of each, in turn; {", ".join(f"{name} {text}" for name, text in found["versions"].items())}.

| command | median CPU s | least | most | median s of the clock | times ours |
|---|---|---|---|---|---|
{"".join(rows)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchx", default="torchx", help="the torchx program (torchx)")
    parser.add_argument("--nemo", default="python3", help="the Python that has NeMo-Run (python3)")
    parser.add_argument("--rounds", type=int, default=20, help="counted runs of each (20)")
    options = parser.parse_args()
    nemo = "import importlib.metadata; print(importlib.metadata.version('nemo_run'))"
    found = {
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
        "versions": {
            "Python": platform.python_version(),
            "torchx": said((options.torchx, "--version")).removeprefix("torchx-"),
            "NeMo-Run": said((options.nemo, "-c", nemo)),
            "submitit": version("submitit"),
        },
        "seconds": measure(commands(options.torchx, options.nemo), options.rounds),
    }
    (RESULTS / "launch_speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "launch_speed.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
