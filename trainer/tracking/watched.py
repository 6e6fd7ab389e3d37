"""The part of a model that W&B watches: only its trained parameters."""

from __future__ import annotations

from typing import Any

from torch import nn


class _Parameters(nn.Module):
    def forward(self) -> None:
        """Calls the hook that W&B logs parameters in."""


def trained_parameters(model: nn.Module) -> nn.Module:
    """A module with the model's trained parameters, under their names, which runs whenever the model runs in
    training.

    For a watched module W&B copies every parameter to the host, also frozen and packed ones.
    """
    found = _Parameters()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            *path, last = name.split(".")
            place: nn.Module = found
            for part in path:
                if part not in dict(place.named_children()):
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.register_parameter(last, parameter)

    def run(module: nn.Module, *_: Any) -> None:
        if module.training:
            found()

    model.register_forward_hook(run)
    return found
