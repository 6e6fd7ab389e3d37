"""Loads the processor that turns text and pictures into tensors, without its part for videos, which are never shown
and need torchvision; for a language model, its tokenizer."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from transformers import AutoConfig, AutoTokenizer, AutoVideoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.utils.import_utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

VIDEO = "video_processor"
VIDEO_CLASS = "video_processor_type"


class VideoSettings(VideoProcessorMixin):
    """A model's settings for videos, without the code that applies them. They are saved unchanged, because plain
    AutoProcessor refuses a processor saved without them."""

    num_frames = fps = None  # SmolVLM's processor passes these on with every chat template

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.settings = settings

    def __getattr__(self, name: str) -> Any:
        """The value of a setting, because some processors read their own settings from this object, as MiniCPM-V's
        does."""
        if name == "settings" or name not in self.settings:
            raise AttributeError(f"the settings for videos have no {name}")
        return self.settings[name]

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.settings)


class TextProcessor:
    """The tokenizer of a language model, with the interface of a processor."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @property
    def chat_template(self) -> Any:
        return self.tokenizer.chat_template

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, **options)

    def __call__(self, *, text: Sequence[str], images: Any = None, **options: Any) -> Any:
        """The tokenizer's tensors. Raises ValueError for pictures."""
        if images:
            raise ValueError("the model takes no pictures")
        return self.tokenizer(text, **options)

    def decode(self, tokens: Any, **options: Any) -> Any:
        return self.tokenizer.decode(tokens, **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        self.tokenizer.save_pretrained(folder)


def processor_of(model: str) -> Any:
    """The processor of `model`, or the one saved beside an adapter."""
    # An adapter's folder has no configuration of the model; a model's folder need not name the processor class.
    named = ProcessorMixin.get_processor_dict(model)[0].get("processor_class")
    whole: Any = processor_class_from_name(named) if named else _class_for(model)
    if whole is None:
        return TextProcessor(AutoTokenizer.from_pretrained(model, trust_remote_code=False))
    parts = whole.get_attributes()
    if VIDEO not in parts:
        return whole.from_pretrained(model, trust_remote_code=False)
    others = [name for name in parts if name != VIDEO]
    without: Any = type(whole.__name__, (whole,), {"get_attributes": classmethod(lambda _: others)})

    def load_parts(_: Any, *args: Any, **kwargs: Any) -> list[Any]:
        loaded = dict(zip(others, without._get_arguments_from_pretrained(*args, **kwargs), strict=True))
        return [loaded[name] if name in loaded else _video_settings(model) for name in parts]

    def check(self: Any, name: str, part: Any) -> Any:  # for videos the original check accepts only torchvision's class
        return type(part) if name == VIDEO else whole.check_argument_for_proper_class(self, name, part)

    own = {"_get_arguments_from_pretrained": classmethod(load_parts), "check_argument_for_proper_class": check}
    # Under the original class name, because the processor is saved beside the adapter.
    kind: Any = type(whole.__name__, (whole,), own)
    return kind.from_pretrained(model, trust_remote_code=False)


def _video_settings(model: str) -> VideoSettings:
    """The model's settings for videos, which name the class that applies them where that is known. A model's own files
    may leave it to the type of its configuration, and beside an adapter there is no configuration."""
    found: VideoSettings = VideoSettings.from_pretrained(model)
    if VIDEO_CLASS not in found.settings and is_torchvision_available():
        with suppress(Exception):  # whatever plain transformers refuses here is not needed for pictures
            found.settings[VIDEO_CLASS] = type(
                AutoVideoProcessor.from_pretrained(model, trust_remote_code=False)
            ).__name__
    return found


def _class_for(model: str) -> Any:
    """The processor class for the configuration in `model`; None for a language model, and for a folder without a
    configuration, as beside the adapter of a language model."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if os.path.isdir(model) and not os.path.isfile(os.path.join(model, "config.json")):
        return None
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    # transformers lists a few language models among those that take pictures, without a processor.
    return PROCESSOR_MAPPING.get(type(config), None)
