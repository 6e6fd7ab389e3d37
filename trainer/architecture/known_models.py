"""Configurations of common models, for a login node without network or cache.

Values as in each model's config.json on the hub, only those that sizes depend on; what is left out there is
left out here and comes from the class defaults (trainer.families).
"""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]

_GEMMA3_VISION: Values = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
_QWEN2_VISION: Values = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4}
_QWEN2_5_VISION: Values = {"depth": 32, "hidden_size": 1280}
_SMOL_VISION: Values = {"hidden_size": 768, "image_size": 512, "patch_size": 16, "num_hidden_layers": 12}


def _gemma3(text: Values) -> Values:
    return {"model_type": "gemma3", "mm_tokens_per_image": 256, "text_config": text, "vision_config": _GEMMA3_VISION}


def _sizes(hidden: int, layers: int, mlp: int, heads: int, kv_heads: int, vocab: int) -> Values:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }


def _qwen2_5(text: Values, *, tied: bool, vision_mlp: int) -> Values:
    vision = {**_QWEN2_5_VISION, "intermediate_size": vision_mlp, "out_hidden_size": text["hidden_size"]}
    return {"model_type": "qwen2_5_vl", "tie_word_embeddings": tied, "vision_config": vision, **text}


def _qwen2(text: Values, *, tied: bool) -> Values:
    vision = {**_QWEN2_VISION, "hidden_size": text["hidden_size"]}
    return {"model_type": "qwen2_vl", "tie_word_embeddings": tied, "vision_config": vision, **text}


def _smolvlm(text: Values, *, scale: int, vision: Values) -> Values:
    return {"model_type": "idefics3", "scale_factor": scale, "text_config": text, "vision_config": vision}


_GEMMA3_4B = _gemma3({"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34})
_GEMMA3_12B = _gemma3(
    {
        "hidden_size": 3840,
        "intermediate_size": 15_360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    }
)
_GEMMA3_27B = _gemma3(
    {
        "hidden_size": 5376,
        "intermediate_size": 21_504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
    }
)

KNOWN_MODELS: dict[str, Values] = {
    "google/gemma-3-4b-it": _GEMMA3_4B,
    "google/gemma-3-4b-pt": _GEMMA3_4B,
    "google/gemma-3-12b-it": _GEMMA3_12B,
    "google/gemma-3-12b-pt": _GEMMA3_12B,
    "google/gemma-3-27b-it": _GEMMA3_27B,
    "google/gemma-3-27b-pt": _GEMMA3_27B,
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5(_sizes(2048, 36, 11_008, 16, 2, 151_936), tied=True, vision_mlp=3420),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5(_sizes(3584, 28, 18_944, 28, 4, 152_064), tied=False, vision_mlp=3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": _qwen2_5(_sizes(5120, 64, 27_648, 40, 8, 152_064), tied=False, vision_mlp=3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": _qwen2_5(_sizes(8192, 80, 29_568, 64, 8, 152_064), tied=False, vision_mlp=3456),
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2(_sizes(1536, 28, 8960, 12, 2, 151_936), tied=True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2(_sizes(3584, 28, 18_944, 28, 4, 152_064), tied=False),
    "HuggingFaceTB/SmolVLM-256M-Instruct": _smolvlm(_sizes(576, 30, 1536, 9, 3, 49_280), scale=4, vision=_SMOL_VISION),
    "HuggingFaceTB/SmolVLM-500M-Instruct": _smolvlm(_sizes(960, 32, 2560, 15, 5, 49_280), scale=4, vision=_SMOL_VISION),
    "HuggingFaceTB/SmolVLM-Instruct": _smolvlm(
        _sizes(2048, 24, 8192, 32, 32, 49_155),
        scale=3,
        vision={
            "hidden_size": 1152,
            "image_size": 384,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
    ),
}
