"""config.json of each family -> ModelShape, pure.

Hub files leave out what equals the class defaults, so the defaults below are those of transformers 5.23
(configuration_*.py of each family). Counts are exact: the tests compare them with the real classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.architecture.shape import ModelShape

Config = Mapping[str, Any]

GEMMA3_TEXT = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "attention_bias": False,
}
SIGLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
QWEN_TEXT = {
    "vocab_size": 152_064,
    "hidden_size": 8192,
    "intermediate_size": 29_568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
QWEN_VISION = {"depth": 32, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN2_5_VISION = {**QWEN_VISION, "hidden_size": 3584, "intermediate_size": 3420, "out_hidden_size": 3584}
QWEN2_VISION = {**QWEN_VISION, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4}
LLAMA_TEXT = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "attention_bias": False,
    "mlp_bias": False,
}
IDEFICS3_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}

# These families cut an image into as many pieces as its size asks for, so memory is planned for one
# common size.
QWEN_PLANNED_TOKENS = 784  # 784 x 784 px: 28 x 28 merged patches of 28 px
IDEFICS3_PLANNED_TILES = 13  # 4 x 3 and the overview: a 4:3 or 3:2 picture at the processor's longest edge


def _section(config: Config, key: str, defaults: Config) -> dict[str, Any]:
    """`config[key]` over the class's defaults; a key given as null counts as left out."""
    given = config.get(key) or {}
    return {**defaults, **{name: value for name, value in given.items() if value is not None}}


# (how many, in, out)
Linears = tuple[int, int, int]


def _vision(layers: int, *linears: Linears) -> dict[str, int]:
    """ModelShape's fields about the linears of tower and projector."""
    return {
        "vision_layers": layers,
        "vision_linears": sum(n for n, _, _ in linears),
        "vision_linears_in": sum(n * i for n, i, _ in linears),
        "vision_linears_out": sum(n * o for n, _, o in linears),
    }


def _siglip_vision(v: Config, *projector: Linears) -> dict[str, int]:
    d, f, n = v["hidden_size"], v["intermediate_size"], v["num_hidden_layers"]
    return _vision(n, (4 * n, d, d), (n, d, f), (n, f, d), *projector)


def _siglip_params(v: Config, *, patches: int) -> int:
    """Weights of a SigLIP-style tower (siglip, idefics3): patches, positions, encoder, last norm, pooling
    head."""
    d, f = v["hidden_size"], v["intermediate_size"]
    embeddings = v["num_channels"] * v["patch_size"] ** 2 * d + d + patches * d
    attention = 4 * (d * d + d)
    mlp = 2 * d * f + f + d
    layer = attention + mlp + 4 * d
    head = d + attention + 2 * d + mlp if v.get("vision_use_head") else 0
    return int(embeddings + v["num_hidden_layers"] * layer + 2 * d + head)


def _gemma3(config: Config) -> ModelShape:
    t = _section(config, "text_config", GEMMA3_TEXT)
    v = _section(config, "vision_config", SIGLIP_VISION)
    h, layers, head = t["hidden_size"], t["num_hidden_layers"], t["head_dim"]
    q, kv = t["num_attention_heads"] * head, t["num_key_value_heads"] * head
    biases = q + 2 * kv + h if t["attention_bias"] else 0
    patches = (v["image_size"] // v["patch_size"]) ** 2
    return ModelShape(
        family="gemma3",
        hidden=h,
        layers=layers,
        mlp=t["intermediate_size"],
        q_width=q,
        kv_width=kv,
        vocab=t["vocab_size"],
        tied_embedding=config.get("tie_word_embeddings") is not False,
        text_extra_params=layers * (4 * h + 2 * head + biases) + h,
        vision_params=_siglip_params(v, patches=patches),
        vision_hidden=v["hidden_size"],
        vision_mlp=v["intermediate_size"],
        vision_patches=patches,
        **_siglip_vision(v),  # the projection is a bare matrix
        projector_params=v["hidden_size"] * h + v["hidden_size"],
        tokens_per_image=config.get("mm_tokens_per_image") or 256,
    )


def _qwen(
    config: Config, *, width: int, mlp: int, ups: int, out: int, v: Config, block: int, merger_norm: int
) -> ModelShape:
    """Both Qwen2 generations: `width` and `mlp` of the tower, which has `ups` linears into the MLP, `block` weights of
    one of its layers."""
    # Hub files of these families keep the text values at the top level; transformers 5 nests them.
    t = _section({"text_config": config.get("text_config") or config}, "text_config", QWEN_TEXT)
    h, layers, heads = t["hidden_size"], t["num_hidden_layers"], t["num_attention_heads"]
    kv = t["num_key_value_heads"] * (h // heads)
    tied = bool(config.get("tie_word_embeddings") or t.get("tie_word_embeddings"))
    merged = v["spatial_merge_size"] ** 2
    channels = (config.get("vision_config") or {}).get("in_chans", v["in_channels"])
    patch = channels * v["temporal_patch_size"] * v["patch_size"] ** 2
    wide, n = width * merged, v["depth"]
    return ModelShape(
        family=config["model_type"],
        hidden=h,
        layers=layers,
        mlp=t["intermediate_size"],
        q_width=heads * (h // heads),
        kv_width=kv,
        vocab=t["vocab_size"],
        tied_embedding=tied,
        text_extra_params=layers * (2 * h + heads * (h // heads) + 2 * kv) + h,
        vision_params=patch * width + v["depth"] * block,
        vision_hidden=width,
        vision_mlp=mlp,
        vision_patches=QWEN_PLANNED_TOKENS * merged,
        **_vision(
            n,
            (n, width, 3 * width),
            (n, width, width),
            (ups * n, width, mlp),
            (n, mlp, width),
            (1, wide, wide),
            (1, wide, out),
        ),
        projector_params=merger_norm + wide * wide + wide + wide * out + out,
        tokens_per_image=QWEN_PLANNED_TOKENS,
    )


def _qwen2_5_vl(config: Config) -> ModelShape:
    v = _section(config, "vision_config", QWEN2_5_VISION)
    d, f = v["hidden_size"], v["intermediate_size"]
    block = 4 * d * d + 4 * d + 3 * d * f + 2 * f + d + 2 * d
    return _qwen(config, width=d, mlp=f, ups=2, out=v["out_hidden_size"], v=v, block=block, merger_norm=d)


def _qwen2_vl(config: Config) -> ModelShape:
    v = _section(config, "vision_config", QWEN2_VISION)
    d = v["embed_dim"]
    f = int(d * v["mlp_ratio"])
    block = 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d
    return _qwen(config, width=d, mlp=f, ups=1, out=v["hidden_size"], v=v, block=block, merger_norm=2 * d)


def _idefics3(config: Config) -> ModelShape:
    """Idefics3 and SmolVLM: a SigLIP tower over tiles, a pixel shuffle, a Llama."""
    t = _section(config, "text_config", LLAMA_TEXT)
    v = _section(config, "vision_config", IDEFICS3_VISION)
    h, layers, heads, f = (t["hidden_size"], t["num_hidden_layers"], t["num_attention_heads"], t["intermediate_size"])
    head = t["head_dim"] or h // heads
    q, kv = heads * head, (t["num_key_value_heads"] or heads) * head
    biases = (q + 2 * kv + h if t["attention_bias"] else 0) + (2 * f + h if t["mlp_bias"] else 0)
    scale = config.get("scale_factor", 2) ** 2
    patches = (v["image_size"] // v["patch_size"]) ** 2
    return ModelShape(
        family=config["model_type"],
        hidden=h,
        layers=layers,
        mlp=f,
        q_width=q,
        kv_width=kv,
        vocab=t["vocab_size"],
        tied_embedding=bool(config.get("tie_word_embeddings", False)),
        text_extra_params=layers * (2 * h + biases) + h,
        vision_params=_siglip_params(v, patches=patches),
        vision_hidden=v["hidden_size"],
        vision_mlp=v["intermediate_size"],
        vision_patches=IDEFICS3_PLANNED_TILES * patches,
        **_siglip_vision(v, (1, v["hidden_size"] * scale, h)),
        projector_params=v["hidden_size"] * scale * h,
        tokens_per_image=IDEFICS3_PLANNED_TILES * (patches // scale),
    )


PARSERS: dict[str, Callable[[Config], ModelShape]] = {
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_vl": _qwen2_vl,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
}
