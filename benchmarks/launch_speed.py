"""How long a person waits for the script: `python -m slurm render --gpus 2` against torchx's dry run.

    make plan                                             # makes .venv/launch
    python3 -m venv /tmp/torchx && /tmp/torchx/bin/pip install torchx==0.7.0
    .venv/launch/bin/python benchmarks/launch_speed.py --torchx /tmp/torchx/bin/torchx

Whole commands, from start to exit, output thrown away, taking turns so that a busy machine slows all alike.
Each tool runs in an environment that holds it and what it depends on; one run of each comes first, uncounted.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
TORCHX_ARGS = (
    *("run", "--dryrun", "-s", "slurm", "dist.ddp", "-j", "1x2", "--gpu", "2", "--cpu", "8", "--memMB", "32768"),
    *("-m", "trainer.train", "--", "--model", "google/gemma-3-4b-it", "--data", "data"),
)


def commands(torchx: str) -> dict[str, tuple[str, ...]]:
    """Commands by their names in the table; the others are compared with the first."""
    return {
        "python -m slurm render --gpus 2": (sys.executable, "-m", "slurm", "render", "--gpus", "2"),
        "make render GPUS=2": ("make", "render", "GPUS=2"),
        "torchx run --dryrun -s slurm dist.ddp -j 1x2 ...": (torchx, *TORCHX_ARGS),
    }


def seconds(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def measure(asked: dict[str, tuple[str, ...]], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(rounds + 1):
        for name, command in asked.items():
            took = seconds(command)
            if turn:
                taken[name].append(took)
    return taken


def table(taken: dict[str, list[float]]) -> str:
    reference = statistics.median(next(iter(taken.values())))
    rows = ["| command | median s | fastest | slowest | times ours |", "|---|---|---|---|---|"]
    for name, times in taken.items():
        middle = statistics.median(times)
        rows.append(f"| `{name}` | {middle:.3f} | {min(times):.3f} | {max(times):.3f} | {middle / reference:.1f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchx", default="torchx", help="the torchx program (torchx)")
    parser.add_argument("--rounds", type=int, default=20, help="counted runs of each (20)")
    options = parser.parse_args()
    version = subprocess.run([options.torchx, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    taken = measure(commands(options.torchx), options.rounds)
    print(f"{options.rounds} runs of each, in turn; Python {platform.python_version()}, {version}.\n")
    print(table(taken))


if __name__ == "__main__":
    main()
