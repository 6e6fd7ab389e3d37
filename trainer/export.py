"""What a run leaves behind: the adapter with its processor, the metrics, the predictions, the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainConfig
from trainer.metrics import ActionMetrics

if TYPE_CHECKING:
    from trainer.heldout import Scores

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"
REPORT_FILE = "report.html"
ZERO_SHOT_FILE = "zero_shot.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    config: TrainConfig
    answer_field: str | None
    step: int
    """Of the adapter, the best evaluated one."""
    before: ActionMetrics | None
    """The base model's zero-shot score: of the likeliest allowed action, or of the answers where none is scored."""
    after: ActionMetrics | None
    generated_before: ActionMetrics | None = None
    """Of the answers that were written out, where actions were scored too."""
    generated_after: ActionMetrics | None = None
    train: dict[str, float]
    """Totals of the training: train_runtime (s), train_samples_per_second, train_loss, ..."""
    history: list[dict[str, float]]
    """Everything logged on the way, each with its step."""


def save_metrics(run_dir: Path, record: RunRecord, predictions: Sequence[dict[str, Any]]) -> None:
    """Write metrics.json and predictions.jsonl."""
    write_whole(run_dir / METRICS_FILE, json.dumps(dataclasses.asdict(record), indent=1) + "\n")
    write_whole(run_dir / PREDICTIONS_FILE, "".join(json.dumps(line) + "\n" for line in predictions))


def save_adapter(run_dir: Path, trainer: Any, processor: Any) -> None:
    """Write adapter/: LoRA weights in fp32 for PeftModel.from_pretrained, and the processor. On every process."""
    folder = run_dir / "adapter"
    save_weights(folder, trainer)
    if trainer.accelerator.is_main_process:
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()


def save_weights(folder: Path, trainer: Any) -> None:
    """Write the adapter in PEFT's form. On every process: under ZeRO-3 gathering the shards is a collective."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if accelerator.distributed_type.value == "DEEPSPEED":
        from deepspeed.utils import safe_get_full_fp32_param

        # The parameters themselves are bf16 there; the optimizer keeps the fp32 masters.
        weights = {name: safe_get_full_fp32_param(p) for name, p in weights.items()}
    if accelerator.is_main_process:
        model.save_pretrained(folder, state_dict=weights)


Summary = dict[str, ActionMetrics | None]


def summary(scores: Scores) -> Summary:
    """By prefix of the names in RunRecord: the score that counts, and that of the answers beside it."""
    return {"": scores.action, "generated_": scores.generated if scores.scored else None}


def save_zero_shot(run_dir: Path, scores: Summary) -> None:
    """Keep the base model's scores for attempts that go on from a checkpoint."""
    entry = {name: dataclasses.asdict(m) if m else None for name, m in scores.items()}
    write_whole(run_dir / ZERO_SHOT_FILE, json.dumps(entry) + "\n")


def load_zero_shot(run_dir: Path) -> Summary:
    try:
        entry = json.loads((run_dir / ZERO_SHOT_FILE).read_text(encoding="utf-8"))
        return {name: ActionMetrics(**entry[name]) if entry[name] else None for name in ("", "generated_")}
    except (OSError, ValueError, TypeError, KeyError):
        return {"": None, "generated_": None}


def save_report(run_dir: Path) -> None:
    from trainer.report import build_report

    write_whole(run_dir / REPORT_FILE, build_report(run_dir))


def write_whole(path: Path, text: str) -> None:
    """Write `text` so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
