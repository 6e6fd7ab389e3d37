"""A family of models that no line of the project knows: classes of its own under a new model_type. For tests alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def registered() -> tuple[Any, Any, Any]:
    """The family's classes of configuration, model and processor, by now known to transformers."""
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        AutoProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    class HouseConfig(LlavaConfig):
        model_type = "house_vl"

    class HouseModel(LlavaForConditionalGeneration):
        config_class = HouseConfig

    class HouseProcessor(LlavaProcessor):
        pass

    AutoConfig.register("house_vl", HouseConfig)
    AutoModelForImageTextToText.register(HouseConfig, HouseModel)
    AutoProcessor.register(HouseConfig, HouseProcessor)
    return HouseConfig, HouseModel, HouseProcessor


def taken_the_whole_way(folder: Path) -> int:
    """Write a tiny model of the family into `folder`/model, measure it, and take it through training, scores, infer,
    merge, plain PEFT and its card; what tests/try_models.py says of that goes into `folder`/found."""
    import torch
    from toy_models import letters
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from try_models import taken

    from trainer.measure.keep import SHAPE_FILE, measure_and_keep

    config_class, model_class, processor_class = registered()
    tokenizer = letters(["<image>"], {})
    tokenizer.chat_template = None
    side = {"height": 56, "width": 56}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=side)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"model_type": "llama", **sizes, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    config = config_class(
        text_config={**text, "initializer_range": 0.1, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None},
        vision_config={"model_type": "clip_vision_model", **sizes, "image_size": 56, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = model_class(config)
    model.save_pretrained(folder / "model")
    processor_class(
        pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder / "model")  # fmt: skip
    shape, path = measure_and_keep(str(folder / "model"))
    assert path == folder / "model" / SHAPE_FILE
    assert shape.total_params == sum(p.numel() for p in model.parameters())
    assert shape.linear_params == sum(
        m.weight.numel() for n, m in model.model.language_model.named_modules() if n.endswith("_proj")
    )
    (folder / "found").write_text(json.dumps(taken(folder)))
    return 0


TEMPLATE = """{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- for item in message['content'] -%}{{ '<image>' if item['type'] == 'image' else item['text'] }}{%- endfor -%}
{{ '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
