"""Estimates the memory that this process may still use, and the memory that one record needs."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainer.evaluation.rows import Asked, Sizes
from trainer.node.cgroups import memory_limits
from trainer.outcome import is_out_of_memory

T = TypeVar("T")


def tried(work: Callable[[], T]) -> tuple[T | None, str]:
    """(the result of `work`, ""), or (None, why) when memory was lacking."""
    try:
        return work(), ""
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    free_unused()  # only now: until this point the error kept the tensors of the failed computation alive
    return None, why


def free_unused() -> None:
    """Give the memory of everything that nothing refers to back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Free bytes: on a GPU with what torch's allocator has reserved but does not use; on the host this process's
    share of the available memory, within its limits."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        allowed = int(total * torch.cuda.get_per_process_memory_fraction(device))
        return max(0, min(free + torch.cuda.memory_reserved(device), allowed) - used)
    import psutil

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    shared = min([psutil.virtual_memory().available, *(left for _, left in memory_limits())])
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    own = [] if limit == resource.RLIM_INFINITY else [limit - psutil.Process().memory_info().data]
    return max(0, min([shared // processes, *own]))


def cost_of(model: Any, example: Mapping[str, Tensor], written: int, candidates: Sequence[int]) -> tuple[Sizes, Asked]:
    """The memory cost of an evaluation whose longest prompt has these tensors: the model's sizes, and the record's."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    asked = Asked(
        tokens=example["input_ids"].shape[1],
        patches=patches_of(base.config, example.get("pixel_values")),
        written=written,
        candidates=tuple(candidates),
    )
    return sizes_of(base.config, width=base.get_input_embeddings().weight.element_size()), asked


def sizes_of(config: Any, *, width: int) -> Sizes:
    """The sizes in a model's configuration; `width` is bytes a value."""
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    tower = _first(vision, "embed_dim", "hidden_size")
    return Sizes(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=_first(text, "intermediate_size") or 4 * text.hidden_size,
        q_width=heads * head,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head,
        vocab=text.vocab_size,
        vision_hidden=tower,
        vision_mlp=_first(vision, "intermediate_size") or int(tower * getattr(vision, "mlp_ratio", 4)),
        width=width,
    )


def patches_of(config: Any, pixels: Tensor | None) -> int:
    """Rows that the tower works on for these pictures."""
    vision = getattr(config, "vision_config", None)
    if pixels is None or vision is None:
        return 0
    channels = _first(vision, "in_channels", "in_chans", "num_channels") or 3
    side, deep = _first(vision, "patch_size") or 14, _first(vision, "temporal_patch_size") or 1
    return pixels.numel() // (channels * side * side * deep)


def _first(config: Any, *names: str) -> int:
    """The first of these attributes that has a value; for a value per layer the largest; 0 when there is none."""
    value = next((found for name in names if (found := getattr(config, name, None))), 0)
    return max(value) if isinstance(value, (list, tuple)) else value
