"""A run's folder as a finished training leaves it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.evaluation.metrics import action_metrics
from trainer.results.export import RunRecord

TRUTHS = ["up"] * 8 + ["a"] * 6 + ["left"] * 6


ANSWERS = ["up"] * 8 + ["a"] * 5 + [None] + ["left"] * 4 + ["up", "b"]


def history(losses: list[float]) -> list[dict[str, float]]:
    rows = [
        {
            "step": 5 * (i + 1), "loss": loss, "learning_rate": 2e-4, "mean_token_accuracy": 0.5,
            "samples_per_second": 0.25 * (i + 1), "tokens_per_second": 330.0,
        }
        for i, loss in enumerate(losses)
    ]  # fmt: skip
    return [*rows, {"step": 5 * len(losses), "train_runtime": 112.4, "train_loss": 1.0}]


def write_run(folder: Path, *, images: list[str] | None = None, **changes: Any) -> Path:
    """Write a run's folder as trainer.export leaves it."""
    config = TrainConfig(model="acme/tiny-vl", data="d", output_dir="o", run_id="r1", device="cpu", micro_batch_size=4)
    record = RunRecord(
        config=config,
        answer_field="button",
        step=3,
        before=action_metrics(TRUTHS, ["a"] * len(TRUTHS)),
        after=action_metrics(TRUTHS, ANSWERS),
        train={"train_runtime": 112.4, "train_samples_per_second": 0.5},
        history=history([3.0, 2.0, 1.25]),
        data={"sha256": "abc123"},
        versions={"torch": "2.13.0"},
        peak_memory={"bytes": 3 << 29},
    )
    (folder / "metrics.json").write_text(json.dumps({**dataclasses.asdict(record), **changes}))
    lines = [
        {"truth": t, "prediction": p, "answer": json.dumps({"button": p}), "images": images or []}
        for t, p in zip(TRUTHS, ANSWERS, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
