"""Everything one training run can be told, typed and documented; read from `--name value` flags.

The planner writes these flags (accelerate_configs/choose.py); a person may write them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainer.outcome import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    model: str
    """Folder or hub id of an image-text-to-text model."""
    data: str
    """A JSONL file, or a folder holding train.jsonl and, if there is one, eval.jsonl."""
    output_dir: str
    """The run's folder: adapter, metrics, TensorBoard and W&B files go here."""
    run_id: str
    """Stable over attempts; also the W&B run id."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Asked for, never fallen back to."""
    world_size: int = 1
    """Processes that must be there, or the run stops before it starts."""
    micro_batch_size: int = 1
    """Samples a process and forward pass."""
    gradient_accumulation_steps: int = 8
    activation_checkpointing: bool = False
    """Recompute the language model's activations in the backward pass instead of keeping them."""
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    quantization: Literal["nf4", "none"] = "nf4"
    lora_r: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    max_length: int = 1024
    """Tokens a sample, image tokens included; longer records are left out, and said."""
    max_steps: int = 1500
    """Optimizer steps."""
    learning_rate: float = 2e-4
    """Peak; cosine decay to zero after the warm-up."""
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0
    logging_steps: int = 10
    eval_steps: int = 250
    save_steps: int = 250
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 3
    """The newest so many stay, and the best by held-out loss."""
    eval_fraction: float = 0.1
    """Share of the records held out, by session, when the data brings no eval.jsonl."""
    eval_samples: int = 256
    """Held-out records that answers are generated for, before and after training."""
    answer_field: str = "auto"
    """Key of the JSON answer that is the action; auto: the first key of the answers."""


def parse_flags(argv: Sequence[str]) -> TrainConfig:
    """TrainConfig from `--name value` pairs.

    Raises:
        ConfigError: an unknown or repeated name, a missing value or flag, a value of the wrong type.
    """
    types = get_type_hints(TrainConfig)
    values: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in types:
            raise ConfigError(f"unknown option {word!r}{_nearest(name, types)}; known: {', '.join(types)}")
        if name in values:
            raise ConfigError(f"--{name} was given twice")
        if not equals and (text := next(words, None)) is None:  # type: ignore[assignment]
            raise ConfigError(f"--{name} wants a value")
        values[name] = _convert(name, text, types[name])
    lacking = [
        f"--{f.name}"
        for f in dataclasses.fields(TrainConfig)
        if f.default is dataclasses.MISSING and f.name not in values
    ]
    if lacking:
        raise ConfigError(f"lacking {', '.join(lacking)}")
    return TrainConfig(**values)


def _convert(name: str, text: str, wanted: Any) -> Any:
    try:
        if get_origin(wanted) is Literal:
            if text not in get_args(wanted):
                raise ValueError
            return text
        if wanted is bool:
            return {"true": True, "false": False}[text]
        number = wanted(text)
    except (ValueError, KeyError):
        allowed = {int: "a whole number", float: "a number", bool: "true or false"}
        known = allowed.get(wanted) or " or ".join(get_args(wanted))
        raise ConfigError(f"--{name} takes {known}, got {text!r}") from None
    if wanted in (int, float) and not 0 <= number < float("inf"):
        raise ConfigError(f"--{name} must not be negative or infinite, got {text!r}")
    return number


def _nearest(name: str, known: Any) -> str:
    from difflib import get_close_matches

    match = get_close_matches(name, known, n=1)
    return f", did you mean --{match[0]}?" if match else ""
