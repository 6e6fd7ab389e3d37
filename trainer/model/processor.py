"""The processor of a model for text and pictures: no videos are shown, and the part for them needs torchvision."""

from __future__ import annotations

import copy
from typing import Any

from transformers import AutoConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.video_processing_utils import VideoProcessorMixin

VIDEO = "video_processor"


class VideoSettings(VideoProcessorMixin):
    """A model's settings for videos, without what would apply them. They are saved as they came: without any, plain
    AutoProcessor refuses what was saved."""

    num_frames = fps = None  # SmolVLM's processor hands them on with every chat template

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.settings = settings

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.settings)


def processor_of(model: str) -> Any:
    """The processor of `model`, or beside an adapter."""
    # Beside an adapter there is no configuration of the model; beside the model the class need not be named.
    named = ProcessorMixin.get_processor_dict(model)[0].get("processor_class")
    config: Any = None if named else AutoConfig.from_pretrained(model, trust_remote_code=False)
    whole: Any = processor_class_from_name(named) if named else PROCESSOR_MAPPING[type(config)]
    parts = whole.get_attributes()
    if VIDEO not in parts:
        return whole.from_pretrained(model, trust_remote_code=False)
    others = [name for name in parts if name != VIDEO]
    without: Any = type(whole.__name__, (whole,), {"get_attributes": classmethod(lambda _: others)})

    def load_parts(_: Any, *args: Any, **kwargs: Any) -> list[Any]:
        loaded = dict(zip(others, without._get_arguments_from_pretrained(*args, **kwargs), strict=True))
        return [loaded[name] if name in loaded else VideoSettings.from_pretrained(model) for name in parts]

    def check(self: Any, name: str, part: Any) -> Any:  # of a video part only torchvision's would do
        return type(part) if name == VIDEO else whole.check_argument_for_proper_class(self, name, part)

    own = {"_get_arguments_from_pretrained": classmethod(load_parts), "check_argument_for_proper_class": check}
    # Under its own name: it is saved beside the adapter.
    kind: Any = type(whole.__name__, (whole,), own)
    return kind.from_pretrained(model, trust_remote_code=False)
