"""What model families want of a batch and a processor, all of it here; each is silent when missed."""

from __future__ import annotations

import json
import re
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Which tokens are a picture's. Without it Gemma 3 gets a causal mask over its image tokens, Qwen2.5-VL plain positions.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")

# SigLIP's pooling head is built where the configuration does not say no, and read by none of these models: adapters
# there would never get a gradient, which DDP waits for.
UNUSED = re.compile(r"\.head\.")


def processor_of(model: str) -> Any:
    """The processor of `model` (or beside an adapter) for text and pictures: we show no videos, and the part for them
    needs torchvision."""
    from transformers import AutoConfig, ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
    from transformers.video_processing_utils import BaseVideoProcessor

    # Beside an adapter there is no configuration of the model; beside the model the class need not be named.
    named = ProcessorMixin.get_processor_dict(model)[0].get("processor_class")
    config = None if named else AutoConfig.from_pretrained(model, trust_remote_code=False)
    whole = processor_class_from_name(named) if named else PROCESSOR_MAPPING[type(config)]
    parts = [name for name in whole.get_attributes() if name != "video_processor"]

    def save_pretrained(self: Any, folder: Any, **more: Any) -> Any:
        """With the base's settings for videos: without any, plain AutoProcessor refuses what was saved."""
        saved = whole.save_pretrained(self, folder, **more)
        path = Path(folder) / "processor_config.json"
        settings, _ = BaseVideoProcessor.get_video_processor_dict(model)
        entry = {**json.loads(path.read_text(encoding="utf-8")), "video_processor": settings}
        path.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        return saved

    # Under its own name: it is saved beside the adapter.
    own: dict[str, Any] = {"get_attributes": classmethod(lambda _: parts)}
    if len(parts) < len(whole.get_attributes()):
        own["save_pretrained"] = save_pretrained
    kind: Any = type(whole.__name__, (whole,), own)
    return kind.from_pretrained(model, trust_remote_code=False)


def lacking_token_types(base: Any, batch: dict[str, Tensor]) -> list[str]:
    """Names of the token types that the model takes and the batch does not bring."""
    takes = signature(type(base).forward).parameters
    return [name for name in TOKEN_TYPES if name in takes and name not in batch]


def picture_features(base: Any, batch: dict[str, Tensor]) -> Tensor | None:
    """What the tower and the projector make of a batch's pictures, as in training; None without pictures."""
    takes = signature(type(base).get_image_features).parameters
    inputs = {name: tensor.to(base.device) for name, tensor in batch.items() if name in takes}
    if not inputs:
        return None
    found = base.get_image_features(**inputs, return_dict=True).pooler_output
    return found if isinstance(found, Tensor) else torch.cat(tuple(found))


def next_positions(model: Any, batch: dict[str, Tensor], count: int) -> Tensor | None:
    """(batch, count) positions of what follows `batch`, its keys and values kept; None where the model knows itself.

    Qwen2-VL and its successors count a picture's tokens in two dimensions, and leave in the model by how much the
    text after the last pictures is moved. Text alone is not moved, whatever came before it.
    """
    backbone = next((module for module in model.modules() if hasattr(module, "rope_deltas")), None)
    if backbone is None:
        return None
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if "image_grid_thw" in batch:
        start = mask.sum(-1, keepdim=True) + backbone.rope_deltas.to(mask.device)
    else:
        start = torch.full((len(ids), 1), ids.shape[1], device=ids.device)
    return start + torch.arange(count, device=ids.device)
