"""What a person watching sees: a progress line or bar, and the same numbers and pictures in TensorBoard and W&B."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import ProgressCallback, TrainerCallback

from trainer.config import TrainConfig
from trainer.evaluation.metrics import ActionMetrics
from trainer.files import RECORD_NAME
from trainer.tracking.shown import Shown, confusion_table, sheet, show
from trainer.tracking.wandb_run import WandbRun


class Sink(Protocol):
    def log(self, values: Mapping[str, Any], step: int) -> None: ...
    def show(self, shown: Shown) -> None: ...
    def finish(self, summary: Mapping[str, Any]) -> None: ...


class Tracker(TrainerCallback):
    """Says everything to all sinks; there are none until `start`, which only the first process calls."""

    def __init__(self) -> None:
        self._sinks: Sequence[Sink] = ()
        self._said: set[tuple[str, int]] = set()

    def start(self, config: TrainConfig, model: Any, *, step: int, facts: Mapping[str, Any]) -> None:
        """Open W&B and TensorBoard; `step` is where the training begins or goes on, `facts` W&B's table of the run."""
        run_dir = Path(config.output_dir)
        self._sinks = (
            TensorBoard(run_dir / "tensorboard", config, step=step),
            WandbRun(
                run_id=config.run_id, run_dir=run_dir, config=facts, model=model, watch_steps=config.logging_steps
            ),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        named = {
            f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value
            for name, value in (logs or {}).items()
        }
        self.log(named, state.global_step)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Each name once a step: the last evaluation's scores come from the Trainer, and again at the end."""
        new = {name: value for name, value in values.items() if (name, step) not in self._said}
        self._said |= {(name, step) for name in new}
        for sink in self._sinks if new else ():
            sink.log(new, step)

    def scores(
        self, metrics: Mapping[str, ActionMetrics | None], predictions: Sequence[Mapping[str, Any]], step: int
    ) -> None:
        """An evaluation's numbers, `generated_` ones beside the ones that count, its confusion matrix and samples."""
        for prefix, found in metrics.items():
            if found:
                values = {"action_accuracy": found.accuracy, "macro_f1": found.macro_f1}
                if (
                    prefix or not metrics["generated_"]
                ):  # an action that is chosen among the allowed ones is always readable
                    values["valid_json"] = found.valid_json
                self.log({f"eval/{prefix}{name}": value for name, value in values.items()}, step)
        if self._sinks and (scored := metrics[""]):
            shown = show(step, scored.confusion, predictions)
            for sink in self._sinks:
                sink.show(shown)

    def finish(self, result: ActionMetrics | None) -> None:
        found = {"action_accuracy": result.accuracy, "macro_f1": result.macro_f1} if result else {}
        for sink in self._sinks:
            sink.finish({f"eval/{name}": value for name, value in found.items()})


class TensorBoard:
    """Event files; what an earlier attempt wrote beyond `step` is hidden: curves go on and never double back."""

    def __init__(self, folder: Path, config: TrainConfig, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config = config
        self._writer = SummaryWriter(log_dir=str(folder), purge_step=step + 1 if step else 0)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def show(self, shown: Shown) -> None:
        import numpy as np

        if shown.samples:
            self._writer.add_image("eval/samples", np.asarray(sheet(shown.samples)), shown.step, dataformats="HWC")
        self._writer.add_text("eval/confusion", confusion_table(shown.confusion), shown.step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The settings as hparams, tied to the final scores."""
        from torch.utils.tensorboard.summary import hparams

        settings = {k: v for k, v in dataclasses.asdict(self._config).items() if isinstance(v, (int, float, str))}
        for event in hparams(settings, dict(summary)):
            self._writer.file_writer.add_summary(event)
        self._writer.close()


def run_facts(config: TrainConfig, model: Any, described: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is known about a run before it starts, for W&B's table of runs: settings, parameter counts, data
    and versions (`described`), and of run.json, where there is one, the plan and the commit."""
    trainable, total = model.get_nb_trainable_parameters()
    facts = dataclasses.asdict(config) | {
        "effective_batch_size": config.micro_batch_size * config.gradient_accumulation_steps * config.world_size,
        "parameters": {"total": total, "trainable": trainable},
        "dataset": described["data"],
        "versions": described["versions"],
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # started without a plan
        record = json.loads((Path(config.output_dir) / RECORD_NAME).read_text(encoding="utf-8"))
        chosen = record["plan"]["chosen"]
        facts["plan"] = {
            "accelerate_config": chosen["label"],
            "predicted_peak_gib": round(chosen["estimate"]["peak_bytes"] / 2**30, 2),
            **{name: record["spec"][name] for name in ("gpus", "nodes", "gpu_type", "vram_gib")},
        }
        facts["git"] = record["git"]
    return facts


class LineProgress(TrainerCallback):
    """One line a logging step, for logs that are files: a bar there is one endless line."""

    def __init__(self) -> None:
        self._started, self._first_step = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
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

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(
                f"loss {logs['loss']:.3f}, token accuracy {logs.get('mean_token_accuracy', 0):.0%}"
            )


def progress_callback() -> TrainerCallback:
    """A bar at a terminal, lines elsewhere."""
    return QuietBar() if sys.stderr.isatty() else LineProgress()
