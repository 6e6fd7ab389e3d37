"""Tiny but real models of other families, for proof that nothing is made for Gemma 3 alone; random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training import built

HIDDEN = 64
PATCH_PX = 14
BYTES = 256
CHAT_TEMPLATE = """{%- for message in messages -%}
    {{ '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string -%}
        {{ message['content'] }}
    {%- else -%}
        {%- for item in message['content'] -%}
            {{ '<|vision_start|><|image_pad|><|vision_end|>' if item['type'] == 'image' else item['text'] }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip


def _letters(special: tuple[str, ...], *, eos: str) -> Any:
    """A tokenizer of single bytes behind `special`, the first of which pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=special[0],
        additional_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
    )


def _qwen_parts(max_pixels: int = 56 * 56) -> tuple[Any, Any]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    fast = _letters(SPECIAL_TOKENS, eos="<|im_end|>")
    fast.chat_template = CHAT_TEMPLATE
    return Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=max_pixels), fast


def qwen_processor(max_pixels: int) -> Any:
    """The processor of tiny Qwen2.5-VL, as the trainer makes it: without the part for videos."""
    from transformers import Qwen2_5_VLProcessor

    pictures, fast = _qwen_parts(max_pixels)
    own = {"get_attributes": classmethod(lambda _: ["image_processor", "tokenizer"])}
    kind: Any = type("Qwen2_5_VLProcessor", (Qwen2_5_VLProcessor,), own)
    return kind(pictures, fast, chat_template=CHAT_TEMPLATE)


def write_tiny_qwen(folder: Path) -> None:
    """Model, tokenizer and image processor as the hub has them; pictures of 56 x 56 become 4 tokens."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    pictures, fast = _qwen_parts()
    words = fast.get_vocab()
    fast.save_pretrained(folder)
    pictures.save_pretrained(folder)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
            "initializer_range": 0.1,
            "bos_token_id": None,
            "eos_token_id": words["<|im_end|>"],
            "pad_token_id": words["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
            "window_size": 2 * 2 * PATCH_PX,
            "initializer_range": 0.1,
        },
        image_token_id=words["<|image_pad|>"],
        video_token_id=words["<|video_pad|>"],
        vision_start_token_id=words["<|vision_start|>"],
        vision_end_token_id=words["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


IDEFICS_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)  # fmt: skip
IDEFICS_TEMPLATE = """<|im_start|>{% for message in messages %}
    {{- message['role'] | capitalize + ':' }}
    {%- for item in message['content'] -%}{{ item['text'] if item['type'] == 'text' else '<image>' }}{%- endfor -%}
    {{ '<end_of_utterance>\\n' }}
{%- endfor %}{{ 'Assistant:' if add_generation_prompt else '' }}"""


def write_tiny_idefics(folder: Path) -> None:
    """Pictures become tiles of 56 x 56 and an overview, 4 tokens each, with a mask of their pixels."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    tokenizer = _letters(IDEFICS_TOKENS, eos="<end_of_utterance>")
    Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE).save_pretrained(folder)
    _write_tiled(folder, Idefics3Config, Idefics3ForConditionalGeneration)


def write_tiny_smolvlm(folder: Path) -> None:
    """The same with SmolVLM's own classes, its files as the hub has them: its processor must have a part for videos."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = _letters(IDEFICS_TOKENS, eos="<end_of_utterance>")
    tokenizer.chat_template = IDEFICS_TEMPLATE
    tokenizer.save_pretrained(folder)
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}).to_dict()
    videos = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 56}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**pictures, "video_sampling": videos}))
    named = {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(named))
    _write_tiled(folder, SmolVLMConfig, SmolVLMForConditionalGeneration)


def _write_tiled(folder: Path, config_class: Any, model_class: Any) -> None:
    import torch

    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2}
    vocab = len(IDEFICS_TOKENS) + BYTES
    config = config_class(
        text_config={
            **sizes, "model_type": "llama", "vocab_size": vocab, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.1,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={**sizes, "num_attention_heads": 4, "image_size": 4 * PATCH_PX, "patch_size": PATCH_PX},
        image_token_id=IDEFICS_TOKENS.index("<image>"),
        tie_word_embeddings=False,
        pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)


MLLAMA_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|image|>", "<|python_tag|>")


def write_tiny_mllama(folder: Path, gate: float = 0.5) -> None:
    """Pictures are attended to from cross-attention layers, through a `gate` that begins at 0 (then the model is
    blind), and have no place among the tokens."""
    import torch
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    tokenizer = _letters(MLLAMA_TOKENS, eos="<|im_end|>")
    tokenizer.bos_token = "<|begin_of_text|>"
    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image|>")
    side = 4 * PATCH_PX
    pictures = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=2)
    MllamaProcessor(pictures, tokenizer, chat_template=template).save_pretrained(folder)
    config = MllamaConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}, "bos_token_id": 3,
            "eos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_global_layers": 1,
            "attention_heads": 4, "image_size": side, "patch_size": PATCH_PX, "vision_output_dim": 2 * HIDDEN,
            "intermediate_layers_indices": [0], "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=MLLAMA_TOKENS.index("<|image|>"),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MllamaForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                torch.nn.init.constant_(parameter, gate)
        model.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_idefics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("idefics"), write_tiny_idefics)


@pytest.fixture(scope="session")
def tiny_smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("smolvlm"), write_tiny_smolvlm)


@pytest.fixture(scope="session")
def tiny_mllama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("mllama"), write_tiny_mllama)


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("qwen"), write_tiny_qwen)


TEXT_TEMPLATE = """{%- for message in messages -%}
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"""


def write_tiny_llama(folder: Path) -> None:
    """A language model without pictures; its template takes every turn as text, as most such templates do."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _letters(SPECIAL_TOKENS, eos="<|im_end|>")
    tokenizer.chat_template = TEXT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1, bos_token_id=None, pad_token_id=0,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"), tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("llama"), write_tiny_llama)
