"""`make demo`: the whole product in a few minutes on a laptop, with nothing but this checkout, on a terminal's page.

Draws a game, builds a tiny Gemma 3, shows the plan and the script for a cluster, then trains for real in 4 bits and
leaves a report to look at. Every step is the command a user would type; what it prints is shown in part, and kept.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from trainer.flags import answer_help
from trainer.log import bare
from trainer.outcome import FINISHED, RUN_AGAIN, ConfigError
from trainer.progress_file import LOADING, TRAINING, read_progress
from trainer.terminal import LAST_ROW, say
from trainer.text import time_left

EPISODES, EVAL_EPISODES = 60, 6
RUN = "demo"
# Found by trying on two cores: enough steps for the pictures to be read, few enough to be watched.
TRAINING_FLAGS = {
    "--device": "cpu",
    "--model": "demo/model",
    "--data": "demo/data",
    "--output": "demo/runs",
    "--name": "demo",
    "--run": RUN,
    "--effective-batch": "32",
    "--max-steps": "200",
    "--learning-rate": "2e-3",
    "--config-file": "examples/demo/settings.yaml",
}
SHOWN_OF_PLAN = ("job ", "memory ", "chosen ", "why ", "batch ", "peak   ")
SHOWN = (
    *("data: ", "before training", "after training", "base model", "always ", "adapter: ", "report: ", "all runs: "),
    "to go on: ",
)
"""Beginnings of the training's lines that are shown, besides those of its evaluations; the log has all lines."""
HEADING = ["accuracy", "macro", "F1"]
SHOWN_OF_SCRIPT = ("#SBATCH --gres", "#SBATCH --mem", "#SBATCH --time")
NO_BROWSER = "none"
PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
FOLDER = PROJECT_DIR / "demo"
USAGE = f"""usage: python -m examples.demo

Draws a game, builds a tiny model, shows plan and script for a cluster, then trains here on the CPU: a few minutes,
in {FOLDER}. At a terminal of a desktop the report is opened in the browser; with BROWSER={NO_BROWSER} in the
environment it is not. It takes no options; `python -m local run` takes them all."""


def main(argv: Sequence[str]) -> int:
    """Run the demo in the checkout; returns the exit code of the first step that fails, else 0. Raises ConfigError."""
    answer_help(argv, USAGE)
    if argv:
        raise ConfigError(f"demo takes no options, got {argv[0]!r}: `python -m local run` takes them all")
    if find_spec("torch") is None:
        raise ConfigError(f"the demo needs torch, which this Python ({sys.executable}) does not have: type make demo")
    started = time.monotonic()
    shutil.rmtree(FOLDER / "runs" / RUN, ignore_errors=True)
    for step in (_draw, _plan, _render, _train):
        if code := step():
            return code
    report = FOLDER / "runs" / RUN / "report.html"
    _heading(f"Done in {time.monotonic() - started:.0f} s")
    print(
        f"Look at   {report}{_opened(report)}\n"
        f"Curves    make tensorboard RUN={RUN} OUTPUT=demo/runs\n"
        "Next      make hardware, then make run DATA=your.jsonl (on a cluster make submit)"
    )
    return FINISHED


def _draw() -> int:
    _heading("1. A game, drawn now: follow the road, press `a` at what stands in the way")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for one and warn
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for one small file
    from examples.demo.frames import write_dataset
    from examples.demo.tiny import write_tiny_model

    summary = write_dataset(FOLDER / "data", episodes=EPISODES, eval_episodes=EVAL_EPISODES)
    train, held_out = sum(summary.train_answers.values()), sum(summary.eval_answers.values())
    print(f"{train} records of {EPISODES} walks to learn from, {held_out} of {EVAL_EPISODES} others to test on")
    write_tiny_model(FOLDER / "model")
    print("a Gemma 3 of two layers with random weights in demo/model", flush=True)
    return FINISHED


def _plan() -> int:
    _heading("2. What Gemma 3 4B would need on two 24 GiB cards: make plan GPUS=2 VRAM=24")
    code, text = _printed("slurm", "plan", "--gpus", "2", "--vram", "24")
    for line in text.splitlines() if code == FINISHED else [text]:
        if code != FINISHED or line.startswith(SHOWN_OF_PLAN):
            say(line)
    return code


def _render() -> int:
    _heading("3. The script that `make submit GPUS=2 VRAM=24` would hand to Slurm")
    code, text = _printed("slurm", "render", "--gpus", "2", "--vram", "24", "--name", "demo")
    script = FOLDER / "job.sh"
    script.write_text(text, encoding="utf-8")
    asked = [line for line in text.splitlines() if line.startswith(SHOWN_OF_SCRIPT)]
    print("\n".join([*asked, f"... all {len(text.splitlines())} lines: demo/job.sh"] if code == FINISHED else [text]))
    sys.stdout.flush()
    return code


def _printed(*words: str) -> tuple[int, str]:
    """(exit code, printed text) of one of the checkout's commands."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stdout


def _train() -> int:
    """Runs the training and shows a part of its lines; at a terminal with a progress bar. Ctrl-C stops it in order."""
    _heading("4. The same training, tiny and on this machine's CPU")
    words = ["local", "run", *(word for pair in TRAINING_FLAGS.items() for word in pair)]
    say(f"$ python -m {shlex.join(words)}")
    with (
        _passed_on(signal.SIGINT),
        subprocess.Popen(
            [sys.executable, "-m", *words], cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True, errors="replace"
        ) as training,
    ):
        assert training.stdout is not None
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(ended,), daemon=True)
        watcher.start()
        kept = []
        for line in map(bare, training.stdout):
            kept.append(line.rstrip())
            if line.startswith(SHOWN) or "held-out loss" in line or line.split() == HEADING:
                say(line.rstrip())
        ended.set()
        watcher.join()
    if training.returncode == RUN_AGAIN:
        say("from the start: make demo")
    elif training.returncode != FINISHED:
        print("\n".join(kept))
    return training.returncode


@contextlib.contextmanager
def _passed_on(signum: signal.Signals) -> Iterator[None]:
    """Ignores the signal in this process: the terminal also sends it to the training, which handles it."""
    before = signal.signal(signum, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signum, before)


def _watch(ended: threading.Event) -> None:
    """Shows in the terminal's last row how far the training is, until it has ended."""
    while not ended.wait(0.5):
        known = read_progress(FOLDER / "runs" / RUN)
        if known is None or known.phase == LOADING:
            LAST_ROW.show("loading libraries, model and pictures: half a minute")
        elif known.of:
            loss = "" if known.loss is None else f"loss {known.loss:.3f}"
            what = "training" if known.phase == TRAINING else known.phase
            step_s = known.seconds_per_step
            left = "" if step_s is None else f"left {time_left(step_s * (known.of - known.step))}"
            LAST_ROW.show(f"{what}  step {known.step}/{known.of}", known.step / known.of, left, loss)
    LAST_ROW.clear()


def _opened(report: Path) -> str:
    """Opens the page if a person sits before a desktop; returns words to put behind its path."""
    desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    away = os.environ.get("BROWSER") == NO_BROWSER or "SSH_CONNECTION" in os.environ
    if not (sys.stdin.isatty() and sys.stdout.isatty() and desktop) or away:
        return ""
    opened = webbrowser.open(report.as_uri())
    return f"  (opened in your browser; not with BROWSER={NO_BROWSER})" if opened else ""


def _heading(text: str) -> None:
    print(f"\n{text}", flush=True)
