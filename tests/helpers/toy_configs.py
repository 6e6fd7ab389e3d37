"""The configuration of any image-text-to-text type of transformers, its default made small: each number by what its key
says, and what toy_families.py adds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from toy_families import FAMILIES, Family

VOCAB = 512
WIDTH, HEADS, HEAD_DIM, LAYERS = 64, 4, 16, 2
SIDE_PATCHES = 4
LAYER_COUNT = r"(\w+_)?num_(\w+_)?layers|(encoder_|decoder_)?layers|(resampler_)?depth|n_layers|aligner_num_add_layers"
SMALL: tuple[tuple[str, Any], ...] = (
    (r".*vocab_size.*|vocab_offset", VOCAB),
    (r"num_kv_shared_layers|mtp.*|num_nextn_predict_layers", 0),
    (r"n_groups", 2),
    (r"first_k_dense_replace|n_group|topk_group", 1),
    (LAYER_COUNT, LAYERS),
    (r"(\w+_)?(num|n)_key_value_heads|num_kv_heads", 2),
    (r"linear_num_\w+|mamba_num_heads|(\w+_)?(num_|n_)?(attention_)?heads", HEADS),
    (r"qk_rope_head_dim|qk_nope_head_dim|index_head_dim", 8),
    (r"qk_head_dim|(\w+_)?head_dim|d_kv|resampler_dim_head", HEAD_DIM),
    (r"(q|kv|o)_lora_rank", 32),
    (r"moe_\w*intermediate_size|share_expert_dim|moe_hidden_size", 32),
    (r"(\w+_)?(intermediate_size|ffn_dim|mlp_dim|d_ff|intermediate_size_mlp)", 2 * WIDTH),
    (r"hidden_size_per_layer_input", 16),
    (
        r"(\w+_)?hidden_size|d_model|embed_dim|projection_dim|\w*projector_\w*dim|output_dim|word_embed_proj_dim|"
        r"adapter_(in|out)_dim|adapter_input_size|image_token_embed_dim|projection_hidden_dim",
        WIDTH,
    ),
    (r"vision_output_dim", 2 * WIDTH),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts", 4),
    (r"\w*experts_per_tok|moe_topk|moe_k", 2),
    (r"num_position_embeddings|num_patches", SIDE_PATCHES**2),
    (r"image_seq_length|mm_tokens_per_image|vision_soft_tokens_per_image|num_image_tokens", 4),
    (r"num_query_tokens|latent_query_num|resampler_n(um)?_latents", 4),
    (r"laurel_rank|hc_lowrank", 8),
)
"""The first expression that a key matches says what its number becomes at most."""


class NotBuildable(Exception):
    """Why no tiny model of a type can be made where this runs."""


class NeedsTorchvision(NotBuildable):
    """It can be made in a process that has torchvision."""


def shrunk(value: Any, key: str = "", layers: int = 0) -> Any:
    """A configuration's values, made small; `layers` is how many the part had that they belong to."""
    if isinstance(value, dict):
        if key == "per_layer_config" or (value and all(str(name).isdigit() for name in value) and "layer" in key):
            kept = list({json.dumps(inner, default=str): inner for inner in value.values()}.values())
            return {n: shrunk(inner, "", LAYERS) for n, inner in zip((LAYERS - 1,), kept[-1:], strict=False)}
        if "rope_type" in value or key.startswith("rope"):
            return _rope(value)
        deep = next(
            (n for name, n in value.items() if re.fullmatch(LAYER_COUNT, str(name)) and isinstance(n, int)), layers
        )
        return {name: shrunk(inner, str(name), deep) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return _listed(key, list(value), layers)
    if isinstance(value, bool) or not isinstance(value, int):
        return 0.1 if key == "initializer_range" else value
    small = next((small for pattern, small in SMALL if re.fullmatch(pattern, key)), value)
    return min(small, value)


def pinpoints(side: int) -> list[list[int]]:
    """Shapes that a picture is cut in."""
    return [[side, side], [side, 2 * side], [2 * side, side]]


def _rope(value: dict[str, Any]) -> dict[str, Any]:
    inner = {name: _rope(one) if isinstance(one, dict) else one for name, one in value.items()}
    # Where positions have three dimensions, their classes have sizes in the code.
    return {**inner, **({"mrope_section": [2, 3, 3]} if "rope_type" in inner else {})}


def _listed(key: str, value: list[Any], layers: int) -> list[Any]:
    if value and len(value) == layers:  # one for each layer: as many kinds as there is room for
        kinds = list({json.dumps(one): one for one in value}.values())
        smaller = [shrunk(one, key, layers) for one in (kinds * LAYERS)[:LAYERS]]
        return smaller
    if re.search(r"layers|index|idx", key) and value and all(isinstance(one, int) for one in value):
        return [LAYERS - 1] if any(one >= LAYERS for one in value) else value
    return value


def toy_config(kind: str) -> Any:
    """The default of the type's configuration class, made small."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[kind]
    default = cls()
    lacking = [name for name in cls.sub_configs if getattr(default, name, None) is None and "vision" in name]
    entry = cls(**{name: cls.sub_configs[name]() for name in lacking}).to_dict()
    small = shrunk(entry)
    for whole, part in zip(_parts(entry), _parts(small), strict=False):
        for name in ("image_size", "resolution"):
            if isinstance(part.get(name), int):
                patch = part.get("patch_size") or 14
                part[name] = SIDE_PATCHES * (patch if isinstance(patch, int) else patch[0])
        if part.get("image_grid_pinpoints"):
            part["image_grid_pinpoints"] = pinpoints(SIDE_PATCHES * 14)
        for heads, keys in (("num_attention_heads", "num_key_value_heads"),):
            if heads in part and keys in part and whole.get(heads) == whole.get(keys):
                part[keys] = part[heads]
        for name, token in part.items():
            if re.fullmatch(r"\w+_(token_)?(id|index)", str(name)) and isinstance(token, int) and token >= VOCAB:
                part[name] = 2
    for name in ("architectures", "_name_or_path", "transformers_version", "dtype", "model_type"):
        small.pop(name, None)
    for path, value in FAMILIES.get(kind, Family()).config.items():
        *owners, key = path.split(".")
        part = small
        for owner in owners:
            part[owner] = part.get(owner) or {}
            part = part[owner]
        part[key] = {**part[key], **value} if key.endswith("_config") and isinstance(part.get(key), dict) else value
    return cls.from_dict(small)


def _parts(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield entry
    for value in entry.values():
        if isinstance(value, dict):
            yield from _parts(value)
