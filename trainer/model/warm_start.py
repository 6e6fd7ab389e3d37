"""Starts a run from an earlier run's adapter: the same adapter on the same base, else a refusal in one line."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from trainer.config import TrainConfig
from trainer.files import read_json
from trainer.node.pickles import refusal
from trainer.outcome import ConfigError


def adapter_folder(config: TrainConfig, project_dir: Path = Path()) -> Path:
    """The folder of the adapter that `init_adapter` names, itself or by the folder of the run that wrote it."""
    folder = project_dir / (config.init_adapter or "")
    return folder / "adapter" if (folder / "adapter").is_dir() else folder


def check_start(config: TrainConfig, project_dir: Path = Path()) -> None:
    """Raises ConfigError when there is no adapter, or an adapter with another rank, alpha or base. Reads no weights.
    Relative paths are relative to `project_dir`."""
    if config.init_adapter is None:
        return
    folder = adapter_folder(config, project_dir)
    try:
        saved = read_json(folder / "adapter_config.json")
        had = (saved["r"], saved["lora_alpha"], _name(saved["base_model_name_or_path"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            "no LoRA adapter", **_given(config), advice="give a run's folder, or the adapter in it"
        ) from None
    asked = (config.lora_r, config.lora_alpha, _name(config.model))
    told = [
        f"{what} {was}, not {now}"
        for what, was, now in zip(("lora_r", "lora_alpha", "model"), had, asked, strict=True)
        if was != now
    ]
    if told:
        raise ConfigError(f"it has {', '.join(told)}", **_given(config), advice="train with what it has")


def _given(config: TrainConfig) -> dict[str, str]:
    return {"name": "init_adapter", "given": config.init_adapter or ""}


def _name(model: str) -> str:
    """The last part of a model's name, in lower case: a folder may have been moved, and a mirror has another owner."""
    return model.rstrip("/").rpartition("/")[2].lower()


def load(peft_model: Any, config: TrainConfig) -> Path:
    """Put the earlier adapter's weights into the new one; returns the folder they come from. Raises ConfigError."""
    from safetensors import SafetensorError

    folder = adapter_folder(config)
    try:
        load_weights(peft_model, folder)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), **_given(config)) from None
    except (RuntimeError, SafetensorError, UnpicklingError) as error:  # tensors of other shapes; a file cut off; code
        raise damaged("cannot be loaded", error, **_given(config)) from None
    return folder


def damaged(what: str, error: Exception, **fields: str) -> ConfigError:
    """The refusal of an adapter whose weights cannot be loaded, with the `fields` of ConfigError."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    if isinstance(error, UnpicklingError):
        reason = f"its pickle {refusal(error)}"
    return ConfigError(f"{what} ({reason}): is it whole, and made for this base?", **fields)


def load_weights(peft_model: Any, folder: Path) -> None:
    """Load the weights in `folder`. Raises ValueError when they are not those of exactly this adapter's layers."""
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(folder), device="cpu")
    here, there = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False)), set(weights)
    if here != there:
        lacking, more = len(here - there), len(there - here)
        raise ValueError(
            f"{folder} adapts other layers: {lacking} of {len(here)} tensors are not in it, {more} are too many; "
            "were lora_targets and vision the same?"
        )
    set_peft_model_state_dict(peft_model, weights)
