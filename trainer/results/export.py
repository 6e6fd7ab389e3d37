"""Writes the files that a run leaves behind: the adapter with its processor and card, the metrics, the predictions."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import __version__
from trainer.config import TrainConfig
from trainer.evaluation.metrics import ActionMetrics
from trainer.files import ADAPTER, EXAMPLE_FILE, METRICS_FILE, RECORD_NAME, read_json, without_links, write_whole
from trainer.outcome import node_name
from trainer.results.card import model_card
from trainer.results.trained import Usage, frames_of, write_usage

if TYPE_CHECKING:
    from trainer.data.records import Dataset
    from trainer.data.turns import Picture, Record
    from trainer.evaluation.heldout import Scores

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
PREDICTIONS_FILE = "predictions.jsonl"
ZERO_SHOT_FILE = "zero_shot.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """metrics.json, for other programs too: fields may be added; changing the meaning of a field raises `format`."""

    format: int = 1
    config: TrainConfig
    answer_field: str | None
    step: int
    """The step of the adapter, which is the best evaluated step."""
    before: ActionMetrics | None
    """The base model's zero-shot score: of the likeliest allowed actions, or of the written answers if actions are
    not scored."""
    after: ActionMetrics | None
    generated_before: ActionMetrics | None = None
    """The score of the written answers, when actions were scored too."""
    generated_after: ActionMetrics | None = None
    train: dict[str, float]
    """Totals of the training: train_runtime (s), train_samples_per_second, train_loss, ..."""
    history: list[dict[str, float]]
    """Everything logged during training, each entry with its step: loss, learning_rate, mean_token_accuracy, the
    speeds of trainer/tracking/throughput.py; for evaluations eval_loss, eval_action_accuracy and eval_macro_f1."""
    data: dict[str, Any]
    """sha256 of the JSONL, the kind of split, the number of train and eval records that were used, their answers,
    frames a picture."""
    versions: dict[str, str]
    peak_memory: dict[str, Any]
    """Bytes of the first process, evaluation included, and the kind of memory."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """began, ended (UTC), host and hardware of the first process, git (commit, dirty) and wandb, the run's page;
    unknown ones are missing."""


def describe_run(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Three fields of a RunRecord: the training data, the versions, the memory."""
    from trainer.tracking.peak import MEASURED, read_stage

    counts = {"train": len(dataset.train), "eval": len(dataset.eval), "frames": frames_of(dataset)}
    counts |= {f"{side}_answers": sum(len(r.answers) for r in getattr(dataset, side)) for side in ("train", "eval")}
    return {
        "data": {"sha256": dataset.sha256, "split": dataset.split, **counts},
        "versions": {"trainyard": __version__, **{name: metadata.version(name) for name in LIBRARIES}},
        "peak_memory": {"bytes": read_stage("peak", config).peak_bytes, "of": MEASURED[config.device]},
    }


def provenance(config: TrainConfig, link: str | None) -> dict[str, Any]:
    """The time, place and code of this process's training; `link` is the run's W&B page."""
    known: dict[str, Any] = {
        "ended": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "host": node_name(),
        "hardware": _hardware(config),
        "wandb": link,
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # started without a plan
        begun = read_json(Path(config.output_dir, RECORD_NAME))
        known |= {"git": begun["git"], "began": begun.get("began")}
    return known


def _hardware(config: TrainConfig) -> str:
    processes = f"{config.world_size} x " if config.world_size > 1 else ""
    if config.device == "cuda":
        import torch

        return f"{processes}{torch.cuda.get_device_name()}"
    if config.device == "mps":
        return "Apple's GPU"
    return f"{processes}CPU process{'es' * bool(processes)}, {os.cpu_count()} cores"


def save_record(
    record: RunRecord, predictions: Sequence[dict[str, Any]], usage: Usage, unquantized: Sequence[str], example: Record
) -> None:
    """Write metrics.json, predictions.jsonl and example.jsonl; into adapter/ the usage, and a model card in place of
    PEFT's empty one."""
    run_dir, entry = Path(record.config.output_dir), asdict(record)
    write_usage(run_dir / ADAPTER, usage)
    write_whole(run_dir / ADAPTER / "README.md", model_card(entry, run_dir / ADAPTER, usage, unquantized=unquantized))
    write_whole(run_dir / EXAMPLE_FILE, json.dumps(as_entry(example)) + "\n")
    write_whole(run_dir / PREDICTIONS_FILE, "".join(json.dumps(line) + "\n" for line in predictions))
    write_whole(run_dir / METRICS_FILE, json.dumps(entry, indent=1) + "\n")


def as_entry(record: Record) -> dict[str, Any]:
    """A record as a line of data, whatever its original form; its pictures have absolute paths."""
    frames: list[str] = []

    def part(shown: str | Picture) -> dict[str, str]:
        if isinstance(shown, str):
            return {"type": "text", "text": shown}
        paths = [str(Path(path).absolute()) for path in shown.paths]
        if len(paths) == 1:
            return {"type": "image", "path": paths[0]}
        frames.extend(paths)  # a record has one grid
        return {"type": "image"}

    turns = [{"role": turn.role, "content": [part(shown) for shown in turn.parts]} for turn in record.turns]
    said = {"role": "assistant", "content": [part(record.answer)]}
    return {"messages": [*turns, said], **({"frames": frames} if frames else {})}


def save_adapter(run_dir: Path, trainer: Any, processor: Any) -> None:
    """Write adapter/: LoRA weights in fp32 for PeftModel.from_pretrained, and the processor. Called on every
    process."""
    folder = run_dir / ADAPTER
    save_weights(folder, trainer)
    if trainer.accelerator.is_main_process:
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()


def save_weights(folder: Path, trainer: Any) -> None:
    """Write the adapter in PEFT's form. Called on every process: under ZeRO-3 gathering the shards is collective."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if accelerator.distributed_type.value == "DEEPSPEED":
        from deepspeed.utils import safe_get_full_fp32_param

        # DeepSpeed's parameters are bf16; its optimizer keeps the fp32 masters. One parameter is gathered at a time.
        for name, p in weights.items():
            whole = safe_get_full_fp32_param(p)
            weights[name] = whole.cpu() if accelerator.is_main_process else None
    if accelerator.is_main_process:
        model.save_pretrained(without_links(folder), state_dict=weights)


def save_zero_shot(run_dir: Path, scores: Scores) -> None:
    """Keep the base model's scores for attempts that continue from a checkpoint."""
    write_whole(run_dir / ZERO_SHOT_FILE, json.dumps(asdict(replace(scores, predictions=()))) + "\n")


def load_zero_shot(run_dir: Path) -> Scores:
    """The kept scores, without the predictions; empty Scores when the file is lost."""
    from trainer.evaluation.heldout import Scores

    try:
        entry = read_json(run_dir / ZERO_SHOT_FILE)
        scored, generated = (entry[name] and ActionMetrics(**entry[name]) for name in ("scored", "generated"))
        return Scores(scored=scored, generated=generated)
    except (OSError, ValueError, TypeError, KeyError):
        return Scores()
