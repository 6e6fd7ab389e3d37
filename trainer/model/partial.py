"""Loads a model without some of its parts: their weights are read from no file and reach no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class LeftOff(nn.Module):
    """Stands in the place of a part that was left off."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("this part of the model was left off")


def partial_class(kind: Any, left_off: Sequence[str]) -> Any:
    """The model class `kind`, whose instances are made without the modules at the paths `left_off`."""

    def make(self: Any, config: Any, *args: Any, **options: Any) -> None:
        kind.__init__(self, config, *args, **options)
        for path in left_off:
            self.set_submodule(path, LeftOff())
        tied = getattr(self, "all_tied_weights_keys", None) or {}
        beginnings = tuple(f"{path}." for path in left_off)
        # transformers asks for each tied weight by its name.
        self.all_tied_weights_keys = {
            own: other
            for own, other in tied.items()
            if not own.startswith(beginnings) and not other.startswith(beginnings)
        }

    # With another module's name transformers would take it for a class of the user's own, and rename no weights.
    return type(kind.__name__, (kind,), {"__init__": make, "__module__": kind.__module__})


def class_of(auto_class: Any, model_config: Any) -> Any:
    """The model class that `auto_class` would make for `model_config`."""
    found = auto_class._model_mapping[type(model_config)]
    return found[0] if isinstance(found, (list, tuple)) else found
