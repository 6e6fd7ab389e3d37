"""What W&B watches of a model: its trained parameters alone."""

from __future__ import annotations

from typing import Any

from torch import nn


class _Parameters(nn.Module):
    def forward(self) -> None:
        """Calls the hook that W&B logs parameters in."""


def trained_parameters(model: nn.Module) -> nn.Module:
    """A module of the model's trained parameters, under their names, that runs whenever the model was run to train.

    W&B copies every parameter of a module that it watches to the host, frozen and packed ones too.
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
