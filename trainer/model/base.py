"""The base in 4 bits with LoRA on its language model (and tower, if asked); model.contract holds it to that.

Written around traps that raise nothing: skip lists that do not match, towers that are trained by accident,
half-precision weights that are upcast, attention kernels that ignore the image mask.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from trainer.architecture.quantized import check_unquantized
from trainer.config import TrainConfig
from trainer.model.refusal import UNFIT, refusing
from trainer.model.traits import UNUSED
from trainer.node.preflight import check_model
from trainer.node.start import device_map
from trainer.outcome import ConfigError, SickNode


@runtime_checkable
class Repacking(Protocol):
    """What bitsandbytes' 4-bit layers have."""

    support_avx512bf16_for_cpu: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """Where things are in a vision-language model, as module names."""

    decoder: str
    """The language model, for example model.language_model."""
    unquantized: tuple[str, ...]
    """Tower, projector and head: everything beside the decoder."""
    linears: tuple[str, ...]
    """The decoder's, as expressions for whole paths: any layer's number is \\d+."""
    vision_linears: tuple[str, ...]
    """The tower's and the projector's. Gemma 3's projection is a bare matrix and none of them."""


def build_skeleton(model_config: Any) -> Any:
    """The architecture without memory (meta tensors)."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(model_config)


def anatomy_of(skeleton: Any) -> Anatomy:
    decoder = skeleton.get_decoder()
    decoder_name = next(name for name, module in skeleton.named_modules() if module is decoder)
    backbone_name, _, _ = decoder_name.rpartition(".")
    backbone = skeleton.get_submodule(backbone_name)
    beside = [f"{backbone_name}.{name}" for name, child in backbone.named_children() if child is not decoder]
    heads = [name for name, child in skeleton.named_children() if name != backbone_name]
    return Anatomy(
        decoder=decoder_name,
        unquantized=(*beside, *heads),
        linears=_linears(skeleton, [decoder_name]),
        vision_linears=_linears(skeleton, beside),
    )


def _linears(skeleton: Any, parts: Sequence[str]) -> tuple[str, ...]:
    paths = [
        re.escape(name)
        for name, module in skeleton.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(tuple(f"{part}." for part in parts))
        if not UNUSED.search(name)
    ]
    return tuple(dict.fromkeys(re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", path) for path in paths))


def find_anatomy(model_config: Any) -> Anatomy:
    """Module names, read off the architecture."""
    return anatomy_of(build_skeleton(model_config))


def take_apart(model: str, model_config: Any) -> tuple[Any, Anatomy]:
    """The skeleton of `model` and where things are in it. Raises ConfigError."""
    with refusing(model, "taken apart", UNFIT):
        skeleton = build_skeleton(model_config)
        return skeleton, anatomy_of(skeleton)


def target_pattern(anatomy: Anatomy, vision: str = "frozen") -> str:
    """Of the linears that get an adapter, whole paths: a list of suffixes would hit the tower by accident."""
    return "|".join((*anatomy.linears, *(anatomy.vision_linears if vision == "lora" else ())))


def load_base(config: TrainConfig, anatomy: Anatomy, *, dtype: torch.dtype, device_map: Any) -> Any:
    """The base model, its decoder's linears in NF4 (unless quantization is none), everything else in `dtype`."""
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    quantization = None
    if config.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            # Packed into the compute dtype, ZeRO-3 can shard the quantized weights like any other.
            bnb_4bit_quant_storage=dtype if device_map is None else torch.uint8,
            # Whole paths: a bare "vision_tower" matches nothing, and any list drops the default for the head.
            llm_int8_skip_modules=list(anatomy.unquantized),
        )
    base = AutoModelForImageTextToText.from_pretrained(
        config.model,
        quantization_config=quantization,
        dtype=dtype,
        device_map=device_map,
        # FlashAttention ignores the bidirectional mask over image tokens; eager needs 537 MB a tower layer.
        attn_implementation="sdpa",
        trust_remote_code=False,
    )
    for module in base.modules():
        if isinstance(module, Repacking):
            # On CPUs with AVX512-BF16 the first forward in eval mode would repack the weights for an
            # inference kernel without a gradient, and training would go on with wrong ones.
            module.support_avx512bf16_for_cpu = False
    return base


def load_here(config: TrainConfig, state: Any) -> tuple[Any, Anatomy]:
    """The base in the launcher's precision, where this process of `state` computes, and where things are in it.

    Raises:
        ConfigError: no base to train.
    """
    _, anatomy = take_apart(config.model, load_model_config(config.model))
    dtype = torch.bfloat16 if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" else torch.float32
    with refusing(config.model, "loaded", "are its weights whole, and those of its config.json?"):
        return load_base(config, anatomy, dtype=dtype, device_map=device_map(state)), anatomy


def add_lora(base: Any, config: TrainConfig, anatomy: Anatomy) -> Any:
    """A PeftModel with fp32 adapters on the targeted linears; everything else frozen as it was loaded.

    `prepare_model_for_kbit_training` is left out on purpose: it would upcast embedding and tower to fp32.
    """
    from peft import LoraConfig, get_peft_model

    base.requires_grad_(False)
    base.config.use_cache = False
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target_pattern(anatomy, config.vision),
        task_type="CAUSAL_LM",
    )
    with refusing(config.model, "given adapters", UNFIT):
        model = get_peft_model(base, lora)
    if config.activation_checkpointing:
        # On the decoder alone and after PEFT: asked for on the whole model, hooks would make the frozen
        # tower's output require a gradient, and the tower be recomputed and back-propagated for nothing.
        for name in (anatomy.decoder, *(anatomy.unquantized if config.vision == "lora" else ())):
            part = base.get_submodule(name)
            if getattr(part, "supports_gradient_checkpointing", False):
                part.activation_checkpointing_enable({"use_reentrant": False})
    return model


def load_processor(model: str) -> Any:
    """The processor of a model, or of a folder that training wrote. Raises ConfigError or SickNode."""
    from trainer.model.processor import processor_of

    folder = Path(model)
    if not folder.is_dir() or (folder / "config.json").is_file():  # an adapter's folder has none
        load_model_config(model)
    with _loading(model):
        return processor_of(model)


def load_model_config(model: str) -> Any:
    """The model's configuration. Raises ConfigError, also for a model that takes no pictures or is quantized already,
    or SickNode."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    with _loading(model):
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ConfigError(
            f"MODEL={model}: {config.model_type} is no model of pictures and text: give one, as google/gemma-3-4b-it is"
        )
    check_unquantized(model, config.to_dict())
    return config


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """What keeps a processor or a configuration from being loaded, as ConfigError or SickNode."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    path = Path(model)
    advice = "give a model folder, or a hub id with access (HF_TOKEN in .env) and the licence accepted"
    if path.is_dir():
        advice = "is the folder whole, its processor's and tokenizer's files too?"
    try:
        with refusing(model, "loaded", advice):
            check_model(model, weights=False)  # asks once, where the hub's client would ask for minutes
            yield
    except (ConfigError, SickNode):
        # A hub id whose first half is a folder here is a mistyped folder.
        if not path.exists() and (path.is_absolute() or ("/" in model and path.parent.is_dir())):
            raise ConfigError(f"MODEL={model} is not there: give a model folder, or a hub id") from None
        raise
