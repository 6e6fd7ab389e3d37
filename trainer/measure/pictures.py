"""Measures one picture: its positions in the language model, by the model's processor, and its rows in the tower."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from trainer.architecture.folder import NoTemplate
from trainer.architecture.shape import PLANNED_PX
from trainer.data.template import bounded
from trainer.data.tensors import tensor_layout
from trainer.evaluation.memory import patches_of
from trainer.model.base import load_processor

SMALL_PX = 448  # a second side, which shows whether every picture takes the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """The measurements of a picture of PLANNED_PX x PLANNED_PX."""

    tokens: int
    patches: int
    fixed: bool
    """Whether a small picture takes as many positions and rows."""
    beside: bool = False
    """Whether pictures lie beside the text, in cross-attention, and have no positions."""
    asked: bool = False
    """Whether the model's processor gave these numbers, and not its configuration alone."""


def picture_of(model: str, config: Any) -> Picture:
    """The measurements by the processor of `model`, or by the configuration when the processor cannot be used. Raises
    NoTemplate for a processor that training would refuse."""
    processor = _processor(model)
    with suppress(Exception):  # the shape of the model can be measured without its processor
        planned, small = (_shown(processor, config, side) for side in (PLANNED_PX, SMALL_PX))
        if planned[0]:
            beside = tensor_layout(processor).beside
            return Picture(tokens=planned[0], patches=planned[1], fixed=planned == small, beside=beside, asked=True)
    return _by_configuration(config)


def _processor(model: str) -> Any:
    """The processor of `model`, or None if it cannot be loaded here. Raises NoTemplate."""
    try:
        return load_processor(model)
    except NoTemplate:
        raise
    except Exception:  # such as files that were not copied, or a library that only other machines have
        return None


def _shown(processor: Any, config: Any, side: int) -> tuple[int, int]:
    """(positions, rows of the tower) of one grey picture of that side."""
    from PIL import Image

    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    with bounded():
        text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    picture = Image.new("RGB", (side, side), (128, 128, 128))
    batch = processor(text=[text], images=[[picture]], return_tensors="pt")
    mark = next(
        found
        for name in ("image_token_id", "image_token_index")
        if isinstance(found := getattr(config, name, None), int)
    )
    pixels = next((tensor for name, tensor in batch.items() if name.startswith("pixel_values")), None)
    return int((batch["input_ids"] == mark).sum()), patches_of(config, pixels)


def _by_configuration(config: Any) -> Picture:
    """One view of the tower's own size, with the number of positions that the configuration names."""
    vision = getattr(config, "vision_config", None)
    side, patch = (_number(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    patches = max(1, (side // patch) ** 2) if side and patch else PLANNED_PX
    merged = _number(getattr(vision, "spatial_merge_size", None)) or 1
    named = (_number(getattr(config, name, None)) for name in ("mm_tokens_per_image", "image_seq_length"))
    return Picture(tokens=next(filter(None, named), patches // merged**2) or 1, patches=patches, fixed=False)


def _number(value: Any) -> int:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return first if isinstance(first, int) and not isinstance(first, torch.Tensor) else 0
