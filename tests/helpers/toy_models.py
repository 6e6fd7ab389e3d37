"""A tiny model of any image-text-to-text type of transformers: its own configuration and processor classes, random
weights.

A processor that wants another special token says so as it is made, and one that wants more or fewer tokens of a picture
as it is used: what it asks for is given, and it is asked again.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_configs import SIDE_PATCHES, NeedsTorchvision, NotBuildable, pinpoints, toy_config
from toy_families import FAMILIES, Family
from transformers.utils import is_timm_available, is_torchvision_available

BACKENDS = {"torchvision": is_torchvision_available, "timm": is_timm_available}
TEMPLATE = """{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for item in message['content'] -%}
{{ 'MARK' if item['type'] == 'image' else item['text'] }}
{%- endfor -%}{%- endif -%}
{{ '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
BASIC = ("<|pad|>", "<|bos|>", "<|end|>", "<|unk|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>")
MOST_WEIGHTS = 20e6
SPARE = tuple(f"<|spare_{n}|>" for n in range(40))


@dataclass
class Parts:
    kind: Any
    """The processor class, without the parts that are not shown."""
    pictures: Any
    special: list[str]
    extra: dict[str, str]
    given: dict[str, Any]
    others: dict[str, Any]
    """The parts for sounds and videos."""
    template: bool

    def build(self, mark: str = "") -> Any:
        takes = inspect.signature(self.kind.__init__).parameters
        tokenizer = letters(self.special, self.extra)
        parts = {"image_processor": self.pictures, "tokenizer": tokenizer}
        absent = {name: part for name, part in self.others.items() if name in takes}
        made = self.kind(**{k: v for k, v in parts.items() if k in takes}, **absent, **self.given)
        made.chat_template = TEMPLATE.replace("MARK", mark) if self.template else None
        return made


def letters(special: list[str], extra: dict[str, str]) -> Any:
    """A tokenizer of single bytes behind special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = list(dict.fromkeys([*BASIC, *special, *extra.values(), *SPARE]))
    words = {word: n for n, word in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>", unk_token="<|unk|>",
        clean_up_tokenization_spaces=False, **({"extra_special_tokens": extra} if extra else {}),
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": [n for n in names if n not in BASIC[:4]]}, False)
    return made


def processor_class(kind: str) -> Any:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import processing_auto as auto

    name = family(kind).processor or auto.PROCESSOR_MAPPING_NAMES.get(kind)
    if name is None and not CONFIG_MAPPING[kind].sub_configs:
        raise NotBuildable("a language model in this transformers, without a part for pictures")
    if name is None:
        raise NotBuildable("transformers names no processor for it")
    cls: Any = auto.processor_class_from_name(name)
    if lacking := [name for name in getattr(cls, "_backends", ()) if not BACKENDS[name]()]:
        raise NeedsTorchvision(f"its processor needs {', '.join(lacking)}")
    return cls


def family(kind: str) -> Family:
    return FAMILIES.get(kind, Family())


def picture_part(kind: str, side: int, patch: int, merge: int) -> Any:
    from transformers.models.auto import image_processing_auto as auto
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES as PROCESSORS

    mapping = auto.IMAGE_PROCESSOR_MAPPING_NAMES
    # A type whose processor is another's has its pictures' part too.
    shared = (other for other, name in PROCESSORS.items() if name == PROCESSORS.get(kind))
    alike = [family(kind).image_processor, kind, *shared]
    names: dict[str, Any] = next((n for one in alike if (n := mapping.get(one))), {})
    found = names.get("pil") or (names.get("torchvision") if is_torchvision_available() else None)
    if not found and names:
        raise NeedsTorchvision("its image processor needs torchvision")
    if not found:
        raise NotBuildable("transformers names no image processor for it")
    cls: Any = auto.get_image_processor_class_from_name(found)
    given: dict[str, Any] = {}
    for name, value in cls().to_dict().items():
        if name in ("size", "crop_size", "max_image_size", "pad_size", "min_size") and isinstance(value, dict):
            area = name == "size" and min(v for v in value.values() if v) > 3000
            given[name] = dict.fromkeys(value, side * side if area else side)
        elif name in ("size", "crop_size", "max_image_size", "image_size") and isinstance(value, int):
            given[name] = side
        elif name == "patch_size":
            given[name] = dict.fromkeys(value, patch) if isinstance(value, dict) else patch
        elif name in ("min_pixels", "max_pixels") and isinstance(value, int):
            given[name] = side * side
        elif name == "image_grid_pinpoints":
            given[name] = pinpoints(side)
        elif name == "max_patches":
            given[name] = min(2, value) if isinstance(value, int) else value
    return cls(**given | family(kind).pictures)


def toy_parts(kind: str, config: Any) -> Parts:
    whole = processor_class(kind)
    vision = getattr(config, "vision_config", None) or config
    vision = vision if not isinstance(vision, dict) else config
    patch = getattr(vision, "patch_size", None) or 14
    patch = patch if isinstance(patch, int) else 14
    side = getattr(vision, "image_size", None) or SIDE_PATCHES * patch
    side = side if isinstance(side, int) else SIDE_PATCHES * patch
    pictures = picture_part(kind, side, patch, 1)
    takes = inspect.signature(whole.__init__).parameters
    special = [
        *family(kind).tokens,
        *(p.default for p in takes.values()
        if isinstance(p.default, str) and re.match(r"[<\[].{1,30}$", p.default) and "{" not in p.default),
    ]  # fmt: skip
    given: dict[str, Any] = {}
    for name in takes:
        for holder in (vision, config, getattr(config, "text_config", None)):
            value = getattr(holder, name, None)
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                given[name] = value
                break
        if name in ("image_seq_length", "image_seq_len", "num_image_tokens"):
            given.setdefault(name, 4)
        if name == "img_size":
            given[name] = side
        if name == "num_additional_image_tokens":
            given.setdefault(name, 1)

    def check(self: Any, name: str, part: Any) -> Any:
        return type(part)

    from transformers.models.auto.feature_extraction_auto import (
        FEATURE_EXTRACTOR_MAPPING_NAMES,
        feature_extractor_class_from_name,
    )

    from trainer.model.processor import VideoSettings

    given |= family(kind).given
    others: dict[str, Any] = {"video_processor": VideoSettings(**family(kind).videos)}
    sounds: dict[str, str] = {}
    if "feature_extractor" in takes:
        named = FEATURE_EXTRACTOR_MAPPING_NAMES.get(kind)
        sounds = {f"{name}_token": f"<|{name}|>" for name in ("audio", "boa", "eoa")}
        others["feature_extractor"] = feature_extractor_class_from_name(named or "WhisperFeatureExtractor")()
    if "qformer_tokenizer" in takes:
        others["qformer_tokenizer"] = letters([], {})
    kind_of: Any = type(whole.__name__, (whole,), {"check_argument_for_proper_class": check})
    parts = Parts(kind=kind_of, pictures=pictures, special=special, extra=sounds, given=given, others=others,
                  template=family(kind).template)  # fmt: skip
    if getattr(pictures, "image_seq_length", None) is None:
        pictures.image_seq_length = (side // patch) ** 2
    for _ in range(30):
        try:
            made = parts.build()
            known = made.tokenizer.get_vocab()
            lacking = [str(v) for n, v in vars(made).items() if n.endswith("_token") and v and str(v) not in known]
            if not lacking:
                return parts
            parts.special += lacking
        except (AttributeError, ValueError) as error:
            found = re.search(r"(?:has no|missing required) attribute '?(\w+?)_token(_id)?'?", str(error))
            if not found or f"{found[1]}_token" in parts.extra:
                raise
            parts.extra[f"{found[1]}_token"] = f"<|{found[1]}|>"
    raise NotBuildable("its processor asks for ever more tokens")


def name_tokens(kind: str, config: Any, processor: Any) -> None:
    """Let a configuration mean by its tokens what the processor means."""
    ids = processor.tokenizer.convert_tokens_to_ids
    image = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None) or "<image>"
    holders = (processor.tokenizer, processor)
    number = next((n for one in holders if (n := getattr(one, "image_token_id", None))), None) or ids(str(image))
    known = {"pad": "<|pad|>", "eos": "<|end|>", "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    spare = iter(SPARE)
    for part in _configs(config):
        for name in list(vars(part)):
            found = re.fullmatch(r"(\w+?)_token_(id|index)", name)
            if not found or not isinstance(getattr(part, name), int):
                continue
            word = known.get(found[1]) or getattr(processor, f"{found[1]}_token", None)
            if found[1] == "image":
                setattr(part, name, number)
            elif isinstance(word, str) and ids(word) is not None:
                setattr(part, name, ids(word))
            elif found[1] != "bos":
                setattr(part, name, ids(next(spare)))
    for name, word in family(kind).ids.items():
        setattr(config, name, ids(word))
    if isinstance(codes := getattr(config, "vocabulary_map", None), dict):
        codes["<image>"] = number


def _configs(config: Any) -> Iterator[Any]:
    from transformers import PreTrainedConfig

    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)


def marks(config: Any, processor: Any, parts: Parts) -> Iterator[str]:
    """What may stand for a picture in the chat template."""
    image = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None)
    image = str(image) if image else "<image>"
    if any(hasattr(part, "vision_start_token_id") for part in _configs(config)):
        yield f"<|vision_start|>{image}<|vision_end|>"
    yield image
    for name in ("boi_token", "fake_image_token"):
        if word := getattr(processor, name, None):
            yield str(word)
    yield from dict.fromkeys(word for word in (*parts.special, *parts.extra.values()) if "im" in word.lower())


def write_toy(kind: str, folder: Path) -> None:
    """Model, tokenizer and processor as the hub has them; of what is refused by its configuration that alone.

    Raises NotBuildable, or whatever the library raises.
    """
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    from trainer.data.tensors import processed
    from trainer.model.traits import ask_token_types

    config = toy_config(kind)
    if published := family(kind).architecture:
        config.architectures = [published]
    if config.is_encoder_decoder or published:  # refused before anything else is read
        config.save_pretrained(folder)
        return
    parts = toy_parts(kind, config)
    processor = parts.build()
    name_tokens(kind, config, processor)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
    if size > MOST_WEIGHTS:
        raise NotBuildable(f"{size / 1e6:.0f} million weights are left at its smallest")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():  # what begins at nought is blind
            if (parameter.ndim > 1 or parameter.numel() == 1) and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    if not family(kind).template:  # refused for want of it
        processor.save_pretrained(folder)
        model.save_pretrained(folder)
        return
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    said: list[str] = []
    counted = [name for name in parts.given if re.search(r"image_seq_len|num_\w*image_tokens", name)]
    for length in (None, *((0, 1, 4, 16, 9, 64, 256) if counted else ())):
        parts.given |= {name: length for name in counted if length is not None}
        for mark in dict.fromkeys([family(kind).mark] if family(kind).mark else marks(config, processor, parts)):
            try:
                trial = parts.build(mark)
                ask_token_types(trial, type(model))
                messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}]
                text = trial.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                inputs = processed(trial, text, [picture])
                with torch.no_grad():
                    model.eval()(**inputs)
            except Exception as error:
                if os.environ.get("TOY_TRACEBACK"):
                    traceback.print_exc()
                said.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
                continue
            trial.save_pretrained(folder)
            (folder / "video_preprocessor_config.json").write_text(json.dumps(family(kind).videos))
            model.save_pretrained(folder)
            return
    raise NotBuildable(f"its forward fails ({said[0] if said else 'no mark'})")
