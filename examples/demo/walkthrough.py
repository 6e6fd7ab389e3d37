"""`make demo`: the whole product in two minutes on a laptop, with nothing but this checkout.

Draws a game, builds a tiny Gemma 3, shows the plan and the script for a cluster, then trains for real in 4 bits
and leaves a report to look at. Every step is the command a user would type.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.commands import command
from trainer.flags import answer_help
from trainer.outcome import FINISHED, ConfigError

EPISODES, EVAL_EPISODES = 60, 12
RUN = "demo"
# Found by trying on two cores: enough steps for the pictures to be read, few enough to be watched.
TRAINING = {
    "--device": "cpu",
    "--model": "demo/model",
    "--data": "demo/data",
    "--output": "demo/runs",
    "--name": "demo",
    "--run": RUN,
    "--effective-batch": "32",
    "--max-steps": "200",
    "--learning-rate": "2e-3",
}


PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
USAGE = f"""usage: python -m examples.demo

Draws a game, builds a tiny model, shows plan and script for a cluster, then trains here on the CPU: about two minutes,
in {PROJECT_DIR / "demo"}. It takes no options; `python -m local run` takes them all."""


def main(argv: Sequence[str]) -> int:
    """Run the demo in the checkout; returns the exit code of the first step that fails, else 0. Raises ConfigError."""
    import shutil

    answer_help(argv, USAGE)
    if argv:
        raise ConfigError(f"demo takes no options, got {argv[0]!r}: `python -m local run` takes them all")
    started, project_dir = time.monotonic(), PROJECT_DIR
    _heading("1. A game, drawn now: follow the road, press `a` at what stands in the way")
    folder = project_dir / "demo"
    _draw(folder)
    _heading("2. What Gemma 3 4B would need on two 24 GiB cards")
    steps = [
        ["slurm", "plan", "--gpus", "2", "--vram", "24"],
        ["slurm", "render", "--gpus", "2", "--vram", "24", "--name", "demo"],
        ["local", "run", *(word for pair in TRAINING.items() for word in pair)],
    ]
    headings = (
        None,
        "3. The script that `make submit GPUS=2` would hand to Slurm",
        "4. The same training, tiny and on this machine's CPU",
    )
    shutil.rmtree(folder / "runs" / RUN, ignore_errors=True)
    for words, heading in zip(steps, headings, strict=True):
        if heading:
            _heading(heading)
        print(f"$ python -m {shlex.join(words)}\n", flush=True)
        code = subprocess.run([sys.executable, "-m", *words], cwd=project_dir, check=False).returncode
        if code != FINISHED:
            return code
    _heading(f"Done in {time.monotonic() - started:.0f} s")
    print(
        f"Look at   {folder / 'runs' / RUN / 'report.html'}\n"
        f"Curves    {command('tensorboard.main', '--logdir', folder / 'runs')}\n"
        "Next      make plan GPUS=2 VRAM=24, then make submit GPUS=2 DATA=your.jsonl"
    )
    return FINISHED


def _draw(folder: Path) -> None:
    import os

    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for one and warn
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for one small file
    from examples.demo.frames import write_dataset
    from examples.demo.tiny import write_tiny_model

    summary = write_dataset(folder / "data", episodes=EPISODES, eval_episodes=EVAL_EPISODES)
    train, held_out = sum(summary.train_answers.values()), sum(summary.eval_answers.values())
    print(f"{train} records of {EPISODES} walks to learn from, {held_out} of {EVAL_EPISODES} others to test on")
    print(f"frames in {folder / 'data' / 'frames'}", flush=True)
    write_tiny_model(folder / "model")
    print(f"a Gemma 3 of two layers with random weights in {folder / 'model'}", flush=True)


def _heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
