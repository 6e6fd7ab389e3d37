"""Logs a run to TensorBoard and W&B: the numbers, the pictures, and the facts about the run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from trainer.config import TrainConfig
from trainer.evaluation.heldout import Scores
from trainer.evaluation.metrics import ActionMetrics
from trainer.files import RECORD_NAME, read_json, without_links
from trainer.report.charts import Confusion, Entry
from trainer.report.samples import SHEET_PX, choose_samples, load_picture, sheet
from trainer.text import GIB, markdown_cell
from trainer.tracking.wandb_run import WandbRun


class Tracker(TrainerCallback):
    """Logs everything to all sinks; there are none until `start`, which only the first process calls."""

    def __init__(self) -> None:
        self._sinks: Sequence[TensorBoard | WandbRun] = ()
        self._said: set[tuple[str, int]] = set()

    def start(self, config: TrainConfig, model: Any, described: Mapping[str, Any], *, step: int) -> None:
        """Open W&B and TensorBoard for a run with these data and versions (`described`), starting at `step`."""
        facts = run_facts(config, model, described)
        self._sinks = (TensorBoard(config, step=step), WandbRun(facts, model))
        total, trainable = facts["parameters"]["total"], facts["parameters"]["trainable"]
        counts = {"total_params": total, "trainable_params": trainable, "trainable_percent": 100 * trainable / total}
        self.log({f"model/{name}": value for name, value in counts.items()}, step)

    @property
    def link(self) -> str | None:
        """The run's page at W&B, once there is one."""
        return next((sink.link for sink in self._sinks if isinstance(sink, WandbRun)), None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.log(rewrite_logs(logs), state.global_step)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log each name once a step: the Trainer logs the last evaluation's scores, which come again at the end."""
        new = {name: value for name, value in values.items() if (name, step) not in self._said}
        self._said |= {(name, step) for name in new}
        for sink in self._sinks if new else ():
            sink.log(new, step)

    def scores(self, scores: Scores, step: int) -> None:
        """Log an evaluation: its numbers, with the secondary scores under `generated_`, its confusion matrix and
        samples."""
        if scores.action is None:
            return
        prefix = "generated_" if scores.beside else ""  # a choice among allowed actions is always readable
        share = (scores.beside or scores.action).valid_json
        readable = {} if share is None else {f"eval/{prefix}valid_json": share}
        self.log(named(scores.action) | named(scores.beside, "generated_") | readable, step)
        chosen = choose_samples(scores.predictions) if self._sinks else ()
        samples = [{**entry, "picture": load_picture(entry["last_picture"], SHEET_PX)} for entry in chosen]
        for sink in self._sinks:
            sink.show(scores.action.confusion, samples, step)

    def finish(self, result: ActionMetrics | None) -> None:
        for sink in self._sinks:
            sink.finish(named(result))


def named(found: ActionMetrics | None, prefix: str = "") -> dict[str, float]:
    """Scores by the names of their curves."""
    if found is None:
        return {}
    return {f"eval/{prefix}action_accuracy": found.accuracy, f"eval/{prefix}macro_f1": found.macro_f1}


class TensorBoard:
    """Writes event files; values that an earlier attempt wrote beyond `step` are hidden, so that curves never double
    back."""

    def __init__(self, config: TrainConfig, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config = config
        self._writer: Any = SummaryWriter(
            str(without_links(Path(config.output_dir, "tensorboard"))), purge_step=step + 1 if step else 0
        )

    def log(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def show(self, confusion: Confusion, samples: Sequence[Entry], step: int) -> None:
        import numpy as np

        self._writer.add_image("eval/samples", np.asarray(sheet(samples)), step, dataformats="HWC")
        self._writer.add_text("eval/confusion", confusion_table(confusion), step)
        # An action is represented by the number of its column in that table, from 0.
        for title, said in zip(("targets", "predictions"), said_actions(confusion), strict=True):
            edges = np.arange(len(next(iter(confusion.values()))) + 1) - 0.5
            self._writer.add_histogram(f"eval/{title}", np.asarray(said), step, bins=edges)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the settings as hparams, tied to the final scores."""
        from torch.utils.tensorboard.summary import hparams

        settings = {k: v for k, v in dataclasses.asdict(self._config).items() if isinstance(v, (int, float, str))}
        for event in hparams(settings, dict(summary)):
            self._writer.file_writer.add_summary(event)
        self._writer.close()


def said_actions(confusion: Confusion) -> tuple[list[int], list[int]]:
    """(true actions, predicted actions) of all answers, each as its place among the columns of `confusion`."""
    names = list(next(iter(confusion.values())))
    pairs = [(truth, said) for truth, row in confusion.items() for said, count in row.items() for _ in range(count)]
    return [names.index(truth) for truth, _ in pairs], [names.index(said) for _, said in pairs]


def confusion_table(confusion: Confusion) -> str:
    """A Markdown table of counts: a row for each true action, a column for each answer."""
    names = list(next(iter(confusion.values())))
    rows = [["truth \\ answer", *names], ["---"] * (len(names) + 1)]
    rows += [[truth, *(str(row[name]) for name in names)] for truth, row in confusion.items()]
    return "\n".join("| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows)


def run_facts(config: TrainConfig, model: Any, described: Mapping[str, Any]) -> dict[str, Any]:
    """All facts about a run before it starts, for W&B's table of runs: settings, parameter counts, data and versions
    (`described`), and, if there is a run.json, its plan and commit."""
    trainable, total = model.get_nb_trainable_parameters()
    facts = dataclasses.asdict(config) | {
        "effective_batch_size": config.micro_batch_size * config.gradient_accumulation_steps * config.world_size,
        "parameters": {"total": total, "trainable": trainable},
        "dataset": described["data"],
        "versions": described["versions"],
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # started without a plan
        record = read_json(Path(config.output_dir, RECORD_NAME))
        spec, chosen = record["spec"], record["plan"]["chosen"]
        facts["plan"] = {name: spec[name] for name in ("gpus", "nodes", "gpu_type", "vram_gib")} | {
            "accelerate_config": chosen["label"],
            "predicted_peak_gib": round(chosen["estimate"]["peak_bytes"] / GIB, 2),
        }
        facts["git"] = record["git"]
    return facts
