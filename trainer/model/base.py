"""The base in 4 bits with LoRA on its language model (and tower, if asked); model.contract checks the result.

The code avoids mistakes that raise no error: skip lists that match nothing, towers that are trained by accident,
half-precision weights that are upcast, attention kernels that ignore the image mask.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from trainer.architecture.folder import NoTemplate, check_is_model
from trainer.architecture.kind import encoder_decoder_refusal, wordless_refusal
from trainer.architecture.quantized import check_unquantized
from trainer.config import TrainConfig
from trainer.flags import EXAMPLES
from trainer.model.anatomy import Anatomy, anatomy_of, target_pattern
from trainer.model.kind import check_known, check_reads_onward, without_words
from trainer.model.partial import class_of, partial_class
from trainer.model.refusal import UNFIT, refusing
from trainer.model.size_limits import few_modules, small_config
from trainer.model.targets import peft_targets
from trainer.node.preflight import check_model
from trainer.node.start import device_map
from trainer.outcome import ConfigError, SickNode

ROOM = 1.2  # the memory that a model without quantization must find on a GPU, over that of its weights


@runtime_checkable
class Repacking(Protocol):
    """The attributes of bitsandbytes' 4-bit layers."""

    support_avx512bf16_for_cpu: bool


def build_skeleton(model_config: Any) -> Any:
    """The model's architecture without memory (meta tensors)."""
    with torch.device("meta"), few_modules():
        return auto_class(model_config).from_config(model_config, trust_remote_code=False)


def find_anatomy(model_config: Any) -> Anatomy:
    """Module names, taken from the architecture."""
    return anatomy_of(build_skeleton(model_config))


def take_apart(model: str, model_config: Any) -> tuple[Any, Anatomy]:
    """(the skeleton of `model`, its anatomy). Raises ConfigError."""
    with refusing(model, "taken apart", UNFIT):
        skeleton = build_skeleton(model_config)
        anatomy = anatomy_of(skeleton)
    check_reads_onward(model, model_config, skeleton.get_submodule(anatomy.decoder))
    return skeleton, anatomy


def load_base(
    config: TrainConfig, anatomy: Anatomy, *, dtype: torch.dtype, device_map: Any, left_off: Sequence[str] = ()
) -> Any:
    """The base model, its decoder's linears in NF4 (unless quantization is none), everything else in `dtype`; without
    the modules at the paths `left_off`, whose weights are not read."""
    from transformers import AutoConfig, BitsAndBytesConfig

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
            llm_int8_skip_modules=list(anatomy.in_16_bits),
        )
    model_config = AutoConfig.from_pretrained(config.model, trust_remote_code=False)
    # FlashAttention ignores the bidirectional mask over image tokens; eager needs 537 MB a tower layer of Gemma 3's.
    # Without a word a part that has no sdpa gets eager, where "sdpa" would be refused.
    model_config._attn_implementation = None
    kind = class_of(auto_class(model_config), model_config)
    base, found = (partial_class(kind, left_off) if left_off else auto_class(model_config)).from_pretrained(
        config.model,
        config=model_config,
        quantization_config=quantization,
        dtype=dtype,
        device_map=device_map,
        trust_remote_code=False,
        use_safetensors=True,  # pickles are programs
        output_loading_info=True,
    )
    if left_off:
        base.__class__ = kind
    # transformers draws them at random, and training would go on with that: with a head that a folder saved from the
    # model inside does not have, too. What is tied, or computed, it does not count as missing.
    if lacking := sorted(found["missing_keys"]):
        advice = "give a checkpoint that is whole and of this very type"
        head = base.get_output_embeddings()
        if head is not None and len(lacking) == 1 and base.get_parameter(lacking[0]) is head.weight:
            advice += "; if its head is the embedding, write tie_word_embeddings true into config.json"
        raise ConfigError(
            f"lacks {len(lacking)} of its weights ({lacking[0]}, ...): {advice}", name="MODEL", given=config.model
        )
    for module in base.modules():
        if isinstance(module, Repacking):
            # On CPUs with AVX512-BF16 the first forward in eval mode would repack the weights for an
            # inference kernel without a gradient, and training would go on with wrong ones.
            module.support_avx512bf16_for_cpu = False
    return base


def precision_here() -> torch.dtype:
    """The precision in which the launcher lets this process compute."""
    return torch.bfloat16 if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" else torch.float32


def precision_name() -> str:
    """The same in a word, as the list of filled stores has it: bfloat16 or float32."""
    return str(precision_here()).removeprefix("torch.")


def load_here(config: TrainConfig, state: Any, left_off: Sequence[str] = ()) -> tuple[Any, Anatomy]:
    """(the base in the launcher's precision, on the device of this process of `state`, without the modules `left_off`;
    its anatomy).

    Raises:
        ConfigError: the model cannot be trained.
    """
    _, anatomy = take_apart(config.model, load_model_config(config.model))
    if strange := [part for part in left_off if part not in anatomy.unquantized]:
        raise ConfigError(
            f"has no part {strange[0]!r} beside its language model: make features", name="MODEL", given=config.model
        )
    with refusing(
        config.model,
        "loaded",
        "are its weights whole, those of its config.json, and *.safetensors? Pickles are not loaded",
    ):
        base = load_base(config, anatomy, dtype=precision_here(), device_map=device_map(state), left_off=left_off)
        # DeepSpeed leaves it on the CPU until the first step, where checks and the first scores take long.
        if config.quantization == "none" and _has_room(base, state.device):
            base.to(state.device)
        return base, anatomy


def _has_room(base: Any, device: torch.device) -> bool:
    """Whether `device` holds the whole of `base` and a fifth more: ZeRO-3 trains what fits a GPU only in shards."""
    if device.type != "cuda" or base.device == device:
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return bool(ROOM * base.get_memory_footprint() <= free_bytes)


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
        target_modules=peft_targets(base, target_pattern(anatomy, config.vision, config.lora_targets))[0],
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


def load_processor(model: str, base: str | None = None) -> Any:
    """The processor of a model, or of a folder that training wrote beside an adapter on `base`.

    Raises:
        ConfigError: it cannot be loaded, or has no chat template.
        SickNode: this machine cannot load it.
    """
    from trainer.model.processor import processor_of
    from trainer.model.traits import ask_token_types

    folder = Path(model)
    # An adapter's folder has no configuration of the model.
    described = model if not folder.is_dir() or (folder / "config.json").is_file() else base
    config = load_model_config(described) if described else None
    with _loading(model), small_config(model, "processor_config.json"):
        processor = processor_of(model)
        if config is not None:
            ask_token_types(processor, auto_class(config)._model_mapping[type(config)])
    # Some repositories have it in the tokenizer's file alone, where plain transformers does not look for it. A class
    # that takes none would lose it again when the processor beside the adapter is loaded.
    if not getattr(processor, "chat_template", None) and "chat_template" in signature(type(processor)).parameters:
        processor.chat_template = processor.tokenizer.chat_template
    if not getattr(processor, "chat_template", None):
        raise NoTemplate(model)
    return processor


def load_model_config(model: str) -> Any:
    """The model's configuration.

    Raises:
        ConfigError: for a model that reads neither pictures with text nor text, reads its prompt in an encoder, or is
            already quantized.
        SickNode: this machine cannot load it.
    """
    from transformers import AutoConfig

    if Path(model).is_dir():
        check_is_model(model, Path(model))
    with _loading(model), small_config(model):
        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        except Exception:
            check_known(model)
            raise
        # The file may name a kernel of the hub: code, which transformers would fetch and run.
        config._attn_implementation = None
    if auto_class(config) is None:
        raise ConfigError(
            f"{config.model_type} is no model that reads text and writes it: give one, as {EXAMPLES['model']} is",
            name="MODEL",
            given=model,
        )
    if config.is_encoder_decoder:
        raise encoder_decoder_refusal(model, config.model_type)
    with refusing(model, "loaded", UNFIT):
        silent = without_words(config, auto_class(config))
    if silent:
        raise wordless_refusal(model, silent)
    check_reads_onward(model, config)
    check_unquantized(model, config.to_dict())
    return config


def auto_class(model_config: Any) -> Any:
    """transformers' loader for models with such a configuration, with pictures if the model takes any; None for
    models that do not write text."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    if type(model_config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM if type(model_config) in MODEL_FOR_CAUSAL_LM_MAPPING else None


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """Turns errors of loading a processor or a configuration into ConfigError or SickNode."""
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
            raise ConfigError("is not there: give a model folder, or a hub id", name="MODEL", given=model) from None
        raise
