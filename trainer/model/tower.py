"""The parts of a model that make features of pictures: loaded alone, and recognised by their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.anatomy import decoder_name
from trainer.model.base import auto_class, load_model_config, take_apart
from trainer.model.partial import LeftOff, class_of, partial_class
from trainer.model.refusal import refusing
from trainer.outcome import ConfigError

HASHING_THREADS = 8
# Keys of a configuration on which the tower's features do not depend, or that name the folder it was read from.
NOT_OF_TOWER = ("text_config", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


def stands_alone(model: str) -> bool:
    """Whether the parts beside the language model can be loaded without it: none lies inside it. Raises ConfigError."""
    _, found = take_apart(model, load_model_config(model))
    return bool(found.decoder) and not any(part.startswith(f"{found.decoder}.") for part in found.unquantized)


def load_tower(model: str, *, dtype: torch.dtype, device: Any) -> Any:
    """The model at `model` without its language model and its head, frozen: a tenth of the weights, or less. Raises
    ConfigError."""
    model_config = load_model_config(model)
    skeleton, _ = take_apart(model, model_config)
    head = skeleton.get_output_embeddings()
    left_off = [decoder_name(skeleton), *(name for name, module in skeleton.named_modules() if module is head)]
    kind = class_of(auto_class(model_config), model_config)
    with refusing(model, "loaded", "are its weights whole, those of its config.json, and *.safetensors?"):
        tower, found = partial_class(kind, left_off).from_pretrained(
            model, config=model_config, dtype=dtype, device_map={"": device}, trust_remote_code=False,
            use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
    if lacking := sorted(found["missing_keys"]):
        problem = f"lacks {len(lacking)} weights of its image tower ({lacking[0]}, ...)"
        raise ConfigError(problem, name="MODEL", given=model)
    tower.__class__ = kind
    return tower.requires_grad_(False).eval()


def tower_weights(base: Any) -> dict[str, Tensor]:
    """The weights of `base` that its features of pictures may depend on: all but those of language model and head."""
    beginnings = _of_text(base)
    return {name: tensor for name, tensor in base.state_dict().items() if not name.startswith(beginnings)}


def _of_text(base: Any) -> tuple[str, ...]:
    """The beginnings of the names of everything in language model and head; none where they were left off."""
    if any(isinstance(module, LeftOff) for module in base.modules()):
        return ()
    head = base.get_output_embeddings()
    paths = [decoder_name(base), *(name for name, module in base.named_modules() if module is head)]
    return tuple(f"{path}." for path in paths)


def made_by(model: str, weights: Mapping[str, Tensor], *, precision: torch.dtype) -> str:
    """A name for what makes the features: 40 digits that differ where any weight, the configuration, the libraries
    that compute, or the precision differ. The same on every machine, wherever the model lies.

    The weights are hashed whole: a file's size, date and header are the same after a weight was edited in place, and
    differ after a download.
    """
    names = sorted(weights)
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        sums = list(threads.map(lambda name: tensor_sum(weights[name]), names))
    config = load_model_config(model).to_dict()
    asked = {
        "weights": [[name, *told] for name, told in zip(names, sums, strict=True)],
        "configuration": {name: value for name, value in config.items() if name not in NOT_OF_TOWER},
        "libraries": [version("transformers"), torch.__version__.partition("+")[0]],
        "precision": str(precision),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:40]


def tensor_sum(tensor: Tensor) -> tuple[str, list[int], str]:
    """(type, shape, SHA-256 of the bytes) of a tensor."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return str(tensor.dtype), list(tensor.shape), hashlib.sha256(content).hexdigest()


def dropping(base: Any) -> str:
    """Why the same picture may get other features each time, in words; "" when nothing in the tower draws."""
    beginnings = _of_text(base)
    for name, module in base.named_modules():
        if f"{name}.".startswith(beginnings):
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"dropout in {name}"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            return f"{name} counts on from picture to picture"
    seen = getattr(base.config, "vision_config", None)
    for name, value in vars(seen).items() if seen is not None else ():
        if "drop" in name and type(value) in (int, float) and value > 0:
            return f"{name} of the tower is {value}"
    return ""
