"""A run that gets SIGTERM ends with 75, and going on gives the losses of one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.stage import Stage
from local.measure.batch_size import PROJECT_DIR, request_here
from planner.choose import choose
from planner.job import JobSpec
from planner.plan import Plan
from trainer.files import read_json
from trainer.log import last_words
from trainer.outcome import FINISHED, RUN_AGAIN
from trainer.progress_file import PROGRESS_FILE, parse_progress

STEPS, STOP_BEHIND = 24, 6
PATIENCE_S = 300


def carry_out(stage: Stage) -> dict[str, Any]:
    tokens = 330
    settings = Path(stage.folder, "stop.yaml")
    each = {"logging_steps": 1, "save_steps": STEPS, "eval_steps": STEPS, "eval_samples": 4, "score_samples": 4}
    settings.write_text("".join(f"{name}: {value}\n" for name, value in each.items()), encoding="utf-8")

    def plan(name: str) -> Plan:
        words = [
            "--model", stage.tiny_model, "--data", stage.data(tokens), "--output", f"{stage.folder}/runs",
            "--name", name, "--max-steps", str(STEPS), "--gpus", "1", "--device", stage.device, "--vram", "16",
            "--config-file", str(settings),
        ]  # fmt: skip
        _, spec = request_here(words)
        return choose(spec)

    whole, cut = plan("whole"), plan("cut")
    codes = [run(whole), run(cut, stop_behind=STOP_BEHIND), run(cut)]
    losses = [losses_of(one.spec) for one in (whole, cut)]
    return {
        "codes": codes, "expected_codes": [FINISHED, RUN_AGAIN, FINISHED], "steps": list(map(len, losses)),
        "largest_difference": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "stopped_behind": STOP_BEHIND,
    }  # fmt: skip


def run(plan: Plan, stop_behind: int | None = None) -> int:
    """The run's exit code; with SIGTERM after so many steps. Raises RuntimeError for a run that fails."""
    environment = {**os.environ, **dict(plan.env), "WANDB_MODE": "disabled"}
    folder = PROJECT_DIR / plan.spec.run_dir
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.supervise", "--", *plan.launch.words()],
        cwd=PROJECT_DIR, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE_S
        while stop_behind is not None and process.poll() is None and time.monotonic() < until:
            if done(folder / PROGRESS_FILE) >= stop_behind:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode not in (FINISHED, RUN_AGAIN):
        raise RuntimeError(last_words(said))
    return process.returncode


def done(progress: Path) -> int:
    """Number of optimizer steps in the file."""
    found = parse_progress(progress.read_text(encoding="utf-8")) if progress.is_file() else None
    return found.step if found else 0


def losses_of(spec: JobSpec) -> list[float]:
    """The training loss of each step, as the finished run recorded it."""
    history = read_json(PROJECT_DIR / spec.run_dir / "metrics.json")["history"]
    return [entry["loss"] for entry in history if "loss" in entry]
