"""What the configuration of a type, or its hub files, would say and its classes' defaults do not: sizes that must agree
with each other, the processor class where transformers names none, marks of pictures. For tests alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIDE_PX = 56
"""Of a picture that becomes 4 x 4 patches of 14 px."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Values by key; a key with dots is a path into the parts of a configuration."""

    config: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
    """Values of the image processor."""
    processor: str | None = None
    """Its processor class, where transformers has no mapping: the hub's files name it."""
    image_processor: str | None = None
    given: dict[str, Any] = field(default_factory=dict)
    """Values that the processor is given."""
    videos: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    """Special tokens that its processor looks up by their own names."""
    ids: dict[str, str] = field(default_factory=dict)
    """Values of the configuration that are ids of such tokens."""
    mark: str | None = None
    """What its chat template writes for a picture."""
    architecture: str | None = None
    """The class that the published config.json names, where it is not the one that transformers loads for the type."""
    template: bool = True
    """Whether the published models of this type have a chat template."""


CODES = {"<image>": 9, **{f"IMGIMG{letter}Z": 100 + n for n, letter in enumerate("ABCDEFGH")}}
VISUALS = {"<image>": 9, "<|extra_200|>": 99, **{f"<|visual token {n:06d}|>": 100 + n for n in range(16)}}
SMALL_VQ = {"base_channels": 32, "latent_channels": 32, "embed_dim": 8, "num_embeddings": 8, "num_res_blocks": 1}
TIMM = {"architecture": "resnet10t", "hidden_size": 512}
MOLMO = (
    "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>",
    "<im_low>", "<|image|>", "<|video|>",
)  # fmt: skip
OVIS = ("<IMG_ATOM>", "<image>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
SLICES = {"slice_mode": True, "downsample_mode": "16x"}
FAMILIES: dict[str, Family] = {
    "aria": Family(
        config={
            "vision_config.patch_size": 98, "vision_config.image_size": 980,
            "projector_patch_to_query_dict": {25: 4, 100: 8}, "max_value_projector_patch_to_query_dict": 8,
        },
        pictures={"max_image_size": 490, "min_image_size": 336},
        given={"size_conversion": {490: 4, 980: 8}},
    ),
    "blip-2": Family(config={"image_token_index": 9}, template=False),
    "chameleon": Family(
        config={"vocabulary_map": CODES, "image_token_id": 9, "vq_config": {**SMALL_VQ, "resolution": 32}},
        pictures={"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        given={"image_seq_length": 4},
    ),
    "cohere2_vision": Family(pictures={"patch_size": 2}),
    "cohere_compass": Family(
        config={"text_config.rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}
    ),
    "cosmos3_omni": Family(processor="Qwen3VLProcessor"),
    "deepseek_ocr2": Family(
        config={
            "vision_config.sam_config.downsample_channels": [32, 64],
            "text_config.mlp_layer_types": ["dense", "sparse"],
            "text_config.num_experts_per_tok": 2, "text_config.n_group": 1, "text_config.topk_group": 1,
        }
    ),
    "deepseek_vl_hybrid": Family(pictures={"high_res_size": {"height": 64, "width": 64}}),
    "dots3_note": Family(pictures={"temporal_patch_size": 1}),
    "emu3": Family(
        config={
            "vocabulary_map": VISUALS, "image_token_id": 9,
            "vq_config": {
                "codebook_size": 16, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "hidden_size": 32,
                "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
                "temporal_downsample_factor": 1,
            },
        },
        pictures={"min_pixels": 1024, "max_pixels": 4096, "spatial_factor": 8},
    ),
    "ernie4_5_vl_moe": Family(config={"text_config.rope_parameters.mrope_section": [3, 3, 2]}, videos={"font": ""}),
    "fast_vlm": Family(
        processor="LlavaProcessor",
        image_processor="llava",
        config={f"vision_config.{name}": value for name, value in {**TIMM, "model_args": None}.items()},
        given={"patch_size": 28, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
    ),
    "gemma3n": Family(config={f"vision_config.{name}": value for name, value in TIMM.items()}),
    "gemma4_unified": Family(
        config={
            "vision_config.mm_embed_dim": 64, "vision_config.output_proj_dims": 64, "vision_config.mm_posemb_size": 64,
            "vision_config.patch_size": 4,
        },
        pictures={"patch_size": 4},
    ),
    "glm4v_moe": Family(config={"text_config.rope_parameters.mrope_section": [1, 1, 2]}),
    "glm_ocr": Family(processor="Glm46VProcessor", image_processor="glm46v"),
    "glmga": Family(processor="Glm46VProcessor", image_processor="glm46v"),
    "got_ocr2": Family(
        # Its processor writes 256 tokens whatever the tower: 64 x 64 patches.
        config={
            "vision_config.patch_size": 4, "vision_config.image_size": 256, "vision_config.window_size": 8,
            "vision_config.global_attn_indexes": [],
        },
        pictures={"size": {"height": 256, "width": 256}},
    ),
    "granite4_vision": Family(
        config={
            "downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]], "vision_config.patch_size": 14,
            "vision_config.image_size": SIDE_PX,
        }
    ),
    "fuyu": Family(tokens=("|SPEAKER|", "|NEWLINE|"), template=False),
    "hunyuan_vl": Family(config={"text_config.head_dim": 16}, mark="<|image_start|><|image|><|image_end|>"),
    "inkling2": Family(pictures={"size": {"height": 40, "width": 40}}),
    "instructblip": Family(config={"image_token_index": 9}, template=False),
    "janus": Family(config={f"vq_config.{name}": value for name, value in SMALL_VQ.items()}),
    "kimi_k25": Family(config={"text_config.head_dim": 8}),
    "kosmos-2": Family(processor="Kosmos2Processor", template=False),
    "kosmos-2.5": Family(processor="Kosmos2_5Processor", template=False),
    "llama4": Family(
        config={"vision_config.intermediate_size": 256, "vision_config.vision_output_dim": 64},
        ids={"image_token_index": "<|patch|>"},
    ),
    "minicpm_ocr": Family(config={"image_token_id": 9, "video_token_id": 8}, videos=SLICES),
    "minicpmv4_6": Family(config={"image_token_id": 9, "video_token_id": 8}, videos=SLICES),
    "minicpmv4_7": Family(config={"image_token_id": 9, "video_token_id": 8}, videos=SLICES),
    "molmo2": Family(
        config={"adapter_config.vision_feature_layer": [1, 0]},
        pictures={"overlap_margins": [1, 1]},
        tokens=MOLMO,
        ids={"image_patch_id": "<im_patch>", "image_start_token_id": "<im_start>", "image_end_token_id": "<im_end>"},
    ),
    "muse_glimmer": Family(config={"out_hidden_size": 256}),
    "muse_spark": Family(config={"out_hidden_size": 256}),
    "nemotron_h_omni": Family(config={"image_token_id": 9, "video_token_id": 8, "audio_token_id": 7}),
    "ovis2": Family(
        config={"visual_indicator_token_ids": [20, 21, 22, 23, 24]}, tokens=OVIS, ids={"image_token_id": OVIS[0]}
    ),
    "perception_lm": Family(
        config={
            "vision_config.architecture": "vit_pe_core_large_patch14_336",
            "vision_config.model_args": {
                "embed_dim": 64, "img_size": [SIDE_PX, SIDE_PX], "depth": 2, "global_pool": "", "init_values": 0.1,
                "use_post_transformer_norm": False, "ref_feat_shape": [4, 4],
            },
        },
        pictures={"tile_size": SIDE_PX},
        given={"patch_size": 14, "pooling_ratio": 1},
    ),
    "qwen2_5_omni_thinker": Family(
        processor="Qwen2_5OmniProcessor", image_processor="qwen2_vl", config={"vision_start_token_id": 5}
    ),
    "qwen3_omni_moe_thinker": Family(
        processor="Qwen3OmniMoeProcessor", image_processor="qwen3_vl", config={"vision_start_token_id": 5}
    ),
    "qwen4_exp": Family(
        config={
            "text_config.indexer_n_heads": 2, "text_config.indexer_kv_heads": 1, "text_config.indexer_head_dim": 16,
            "text_config.indexer_budget": 64, "text_config.indexer_compress_ratio": 4,
        }
    ),
    "shieldgemma2": Family(architecture="ShieldGemma2ForImageClassification"),
    "step3p7": Family(config={"text_config.sliding_window": 64}),
    "unlimited_ocr": Family(config={"vision_config.sam_config.downsample_channels": [32, 64]}),
    "vipllava": Family(config={"vision_feature_layer": [-1, -2]}),
}  # fmt: skip
