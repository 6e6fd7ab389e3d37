"""Counts the parameters of a skeleton by kind, and sorts its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

MEAT = 0.5  # least share of a module's weights that its list of layers holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How many parameters of each kind a module has."""

    linear: int
    experts: int
    embedding: int
    other: int


def weights_of(module: nn.Module, packed: frozenset[nn.Module], without: Iterable[nn.Module] = ()) -> Weights:
    """The number of parameters of each kind, each parameter once, by the module that owns it. `packed` are the
    linears that are packed into 4 bits; the parts in `without` are left out."""
    counted: Counter[str] = Counter()
    seen = {id(parameter) for part in without for parameter in part.parameters()}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                counted["linear" if owner in packed and name == "weight" else _kind(owner, parameter)] += (
                    parameter.numel()
                )
    return Weights(**{kind: counted[kind] for kind in ("linear", "experts", "embedding", "other")})


def _kind(owner: nn.Module, parameter: nn.Parameter) -> str:
    if isinstance(owner, nn.Embedding):
        return "embedding"
    convolution = isinstance(owner, nn.modules.conv._ConvNd)
    return "experts" if parameter.dim() > 2 and not convolution else "other"


def layers_of(module: nn.Module) -> nn.ModuleList | None:
    """The list of the module's layers: the outermost list that holds most of its weights; None when there is no
    list."""
    whole = sum(p.numel() for p in module.parameters())
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part)]
    sizes = [(sum(p.numel() for p in part.parameters()), part) for part in lists]
    big = [part for size, part in sizes if size >= MEAT * whole]
    return big[0] if big else max(sizes, key=lambda pair: pair[0], default=(0, None))[1]


def sorts_of(layers: Iterable[nn.Module]) -> list[tuple[nn.Module, int]]:
    """(first layer of a sort, number of layers of that sort), in the model's order. Layers of one class whose
    parameters have the same names and shapes are of one sort."""
    found: dict[Any, tuple[nn.Module, int]] = {}
    for layer in layers:
        key = (type(layer), tuple((name, tuple(p.shape)) for name, p in layer.named_parameters()))
        first, count = found.get(key, (layer, 0))
        found[key] = (first, count + 1)
    return list(found.values())


def matching(model: nn.Module, pattern: str) -> list[nn.Linear]:
    """The linears whose whole path the pattern matches."""
    paths = re.compile(pattern)
    return [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and paths.fullmatch(name)]
