"""What a person watching sees: a progress line or bar, TensorBoard, and W&B, which never stops a run.

The only module that knows W&B. Without an API key, or with the service out of reach, the run is kept
offline beside the others and the command that uploads it is printed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback

PROJECT = "trainyard"
INIT_TIMEOUT_S = 20
FINISH_TIMEOUT_S = 60


class LineProgress(TrainerCallback):
    """One line a logging step, for logs that are files: a bar there is one endless line."""

    def __init__(self) -> None:
        self._started, self._first_step = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        done = max(1, state.global_step - self._first_step)
        left_s = (time.monotonic() - self._started) / done * (state.max_steps - state.global_step)
        print(
            f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
            f"  loss {logs['loss']:.4f}  token accuracy {logs.get('mean_token_accuracy', 0):6.1%}"
            f"  lr {logs['learning_rate']:.2e}  left {left_s / 60:.1f} min",
            flush=True,
        )


class LogLastStep(TrainerCallback):
    """The last step is logged too, whatever the interval: a curve should end where the training did."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class QuietBar(ProgressCallback):
    """The Trainer's bar without the dictionary it prints at every log; the loss stands in the bar instead."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(
                f"loss {logs['loss']:.3f}, token accuracy {logs.get('mean_token_accuracy', 0):.0%}"
            )


class WandbTracker(TrainerCallback):
    """One W&B run a run id, continued over attempts; only the first process speaks."""

    def __init__(self, *, run_id: str, run_dir: Path, config: dict[str, Any]) -> None:
        self.run_id, self.run_dir, self.config = run_id, run_dir, config
        self.run: Any = None

    def start(self) -> None:
        """Open the run: online with a key and a reachable service, else offline, said in one line."""
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_TIMEOUT_S))
        os.environ.setdefault("WANDB_SILENT", "true")
        if os.environ.get("WANDB_MODE") == "disabled":
            return
        try:
            import wandb
        except ImportError as error:
            print(f"W&B is off: {error}", flush=True)
            return
        asked = os.environ.get("WANDB_MODE")
        mode = asked or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        for attempt in dict.fromkeys((mode, "offline")):
            last = attempt == "offline"
            try:
                self.run = wandb.init(
                    project=os.environ.get("WANDB_PROJECT", PROJECT),
                    id=self.run_id,
                    name=self.run_id,
                    dir=str(self.run_dir),
                    config=self.config,
                    resume="allow",
                    mode=attempt,
                    settings=wandb.Settings(init_timeout=INIT_TIMEOUT_S, console="off", silent=True),
                )
                break
            except Exception as error:
                reason = " ".join(str(error).split())
                print(
                    f"W&B {attempt} failed ({reason}): going on {'without it' if last else 'offline'}",
                    flush=True,
                )
                wandb.teardown()  # its service would hold on to the run's id
        if self.run is None:
            return
        self.run.define_metric("*", step_metric="train/global_step")
        if self.run.offline:
            folder = Path(self.run.dir).parent
            print(f"W&B is offline; to upload: wandb sync --include-online {folder}", flush=True)
        else:
            print(f"W&B: {self.run.url}", flush=True)

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.run is not None:
            self.run.log({**values, "train/global_step": step})

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        named = {
            f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value
            for name, value in (logs or {}).items()
        }
        self.log(named, state.global_step)

    def finish(self, summary: dict[str, Any]) -> None:
        if self.run is None:
            return
        self.run.summary.update(summary)
        self.run.finish()


def progress_callback() -> TrainerCallback:
    """A bar at a terminal, lines elsewhere."""
    return QuietBar() if sys.stderr.isatty() else LineProgress()


def tensorboard_callback(run_dir: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(log_dir=str(run_dir / "tensorboard")))
