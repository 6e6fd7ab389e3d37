"""Special needs of single model families for a batch and a processor; missing any of them raises no error."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

# Inputs that tell which tokens are a picture's. Without them Gemma 3 gets a causal mask over its image tokens,
# Qwen2.5-VL plain positions.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")


def lacking_token_types(base: Any, batch: dict[str, Tensor]) -> list[str]:
    """Names of the token types that the model takes and that the batch lacks."""
    takes = signature(type(base).forward).parameters
    return [name for name in TOKEN_TYPES if name in takes and name not in batch]


def ask_token_types(processor: Any, model_class: Any) -> None:
    """Let `processor` return the token types that its models take: some processors do so only on request."""
    if "mm_token_type_ids" in signature(model_class.forward).parameters:
        processor.return_mm_token_type_ids = True


def picture_features(base: Any, batch: dict[str, Tensor]) -> Tensor | None:
    """The output of tower and projector for a batch's pictures, as in training; None without pictures.

    Raises AttributeError or TypeError when a family has no such method, or its method needs more arguments.
    """
    if not any(tensor.is_floating_point() for tensor in batch.values()):
        return None
    owner = base if hasattr(base, "get_image_features") else base.base_model
    takes = signature(type(owner).get_image_features).parameters
    inputs = {name: tensor.to(base.device) for name, tensor in batch.items() if name in takes}
    found = owner.get_image_features(**inputs, return_dict=True).pooler_output
    return found if isinstance(found, Tensor) else torch.cat(tuple(found))


def next_positions(model: Any, batch: dict[str, Tensor], count: int) -> Tensor | None:
    """(batch, count) positions of the tokens behind `batch`, whose keys and values are kept; None when the model
    counts them itself.

    Qwen2-VL and its successors count a picture's tokens in two dimensions, and store in the model by how much the
    text after the last pictures is shifted. Text without pictures is not shifted.
    """
    backbone = next((module for module in model.modules() if hasattr(module, "rope_deltas")), None)
    if backbone is None:
        return None
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if "image_grid_thw" in batch:
        if backbone.rope_deltas is None:  # the attribute belongs to another family's class, and nothing is shifted
            return None
        start = mask.sum(-1, keepdim=True) + backbone.rope_deltas.to(mask.device)
    else:
        start = torch.full((len(ids), 1), ids.shape[1], device=ids.device)
    return start + torch.arange(count, device=ids.device)
