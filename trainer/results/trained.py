"""A trained model on disk, and how it is asked. Export writes this beside the weights; infer and merge read it.

runs/x           a run: its adapter is taken
runs/x/adapter   LoRA weights, on the base that adapter_config.json names
runs/x/merged    whole weights, by `python -m trainer merge`
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Device, Quantization, TrainConfig
from trainer.node.start import device_map, join, prepare_libraries
from trainer.outcome import ConfigError

if TYPE_CHECKING:
    from trainer.data.records import Dataset
    from trainer.evaluation.heldout import HeldOut
    from trainer.evaluation.scoring import Choices

USAGE_FILE = "trainyard.json"
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """How to ask a model what it was trained to answer."""

    device: Device
    """As it was trained."""
    quantization: Quantization
    """Of the base it was trained and measured on."""
    answer_field: str | None
    choices: Choices | None
    """The allowed actions; None where they cannot be scored."""
    answer_tokens: int
    """The most that an answer is given room for."""
    frames: int
    """Image files of one picture: 4 for a grid of frames, 1 for ready pictures."""
    context: str | None
    question: str | None
    """What every training record says; None where they differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    model: Any
    processor: Any
    usage: Usage
    accelerator: Any


def usage_of(config: TrainConfig, dataset: Dataset, measured: HeldOut) -> Usage:
    """From what a run was told, its records and what it measured with."""
    from trainer.evaluation.generation import answer_budget

    return Usage(
        device=config.device,
        quantization=config.quantization,
        answer_field=measured.field,
        choices=measured.choices,
        answer_tokens=answer_budget(measured.processor.tokenizer, dataset.train),
        frames=frames_of(dataset),
        # messages and conversations have no context: then nothing stands before the question.
        context=shared_text(config.data, "context", where_none_has_it=""),
        question=shared_text(config.data, "question"),
    )


def frames_of(dataset: Dataset) -> int:
    return max((len(picture.paths) for record in dataset.train for picture in record.pictures), default=1)


def shared_text(data: str, key: str, *, where_none_has_it: str | None = None) -> str | None:
    """What every record says under `key`; None where they differ."""
    from trainer.data.records import data_files

    lines = (line for path in data_files(data) for line in path.read_bytes().splitlines() if line.strip())
    said = {text if isinstance(text := json.loads(line).get(key), str) else None for line in lines}
    if said == {None}:
        return where_none_has_it
    return said.pop() if len(said) == 1 else None


def write_usage(folder: Path, usage: Usage) -> None:
    (folder / USAGE_FILE).write_text(json.dumps(asdict(usage), indent=1) + "\n", encoding="utf-8")


def find_trained(path: Path) -> tuple[Path, Usage]:
    """The folder with the weights, `path` or its adapter/, and how they are asked. Raises ConfigError."""
    folder = next((folder for folder in (path, path / "adapter") if (folder / USAGE_FILE).is_file()), None)
    if folder is None:
        raise ConfigError(
            f"{path} holds no trained model ({USAGE_FILE} is not there): give a finished run, its adapter, "
            "or a merged folder"
        )
    from trainer.evaluation.scoring import Choices

    try:
        entry = json.loads((folder / USAGE_FILE).read_text(encoding="utf-8"))
        choices = entry["choices"] and Choices(**entry["choices"])
        return folder, Usage(**{**entry, "choices": choices})
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / USAGE_FILE} is not what training wrote ({error})") from None


def base_of(folder: Path) -> str | None:
    """The base that an adapter was trained on; None for whole weights."""
    path = folder / ADAPTER_FILE
    return str(json.loads(path.read_text())["base_model_name_or_path"]) if path.is_file() else None


def settings_for(model: str, usage: Usage, device: Device | None) -> TrainConfig:
    """What loading needs to know."""
    return TrainConfig(
        model=model, data="", output_dir="", run_id="", quantization=usage.quantization,
        device=device or usage.device,
    )  # fmt: skip


def load_base(config: TrainConfig) -> Any:
    """The base as a run would have it: NF4 or not, bf16 on a GPU, fp32 on the CPU."""
    import torch

    from trainer.model import base as model

    state = join(config)
    anatomy = model.find_anatomy(model.load_model_config(config.model))
    dtype = torch.float32 if config.device == "cpu" else torch.bfloat16
    return model.load_base(config, anatomy, dtype=dtype, device_map=device_map(state))


def put_adapter(base: Any, folder: Path) -> Any:
    """The adapter in `folder` on `base`. Raises ConfigError when it is damaged, or made for another base."""
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(base, str(folder))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise ConfigError(
            f"the adapter in {folder} cannot be put on its base ({reason}): is it whole, and made for this base?"
        ) from None


def load_trained(path: Path, *, device: Device | None = None, base: str | None = None) -> Trained:
    """The model at `path`, ready to be asked; an adapter on the base that it was trained on, or on `base`.

    Raises:
        ConfigError: there is no trained model, its base cannot be loaded, or this machine has no such device.
    """
    folder, usage = find_trained(path)
    base = base or base_of(folder)
    config = settings_for(base or str(folder), usage, device)
    prepare_libraries(config)
    from accelerate import Accelerator

    from trainer.model.base import load_processor

    processor = load_processor(str(folder))
    loaded = load_base(config)
    if base:
        loaded = put_adapter(loaded, folder)
    precision = "no" if config.device == "cpu" else "bf16"
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=precision)
    return Trained(model=loaded.eval(), processor=processor, usage=usage, accelerator=accelerator)
