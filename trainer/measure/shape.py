"""Measures the ModelShape of a configuration: builds the skeleton without memory, counts it and traces it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainer.architecture.shape import Layer, Linear, ModelShape
from trainer.measure.parts import layers_of, matching, sorts_of, weights_of
from trainer.measure.tower import tower_sizes
from trainer.measure.trace import Kept, trace
from trainer.model.anatomy import Anatomy, target_pattern
from trainer.model.base import take_apart
from trainer.model.refusal import UNFIT, is_of_machine, refusing


def measure(model: str, config: Any, *, tokens_per_image: int = 0, patches: int = 0, fixed: bool = False) -> ModelShape:
    """The shape of `config`, a transformers configuration; `model` names it in errors.

    Raises ConfigError for a model whose parts cannot be found.
    """
    skeleton, anatomy = take_apart(model, config)
    with refusing(model, "measured", UNFIT):
        return _measure(skeleton, anatomy, config, tokens_per_image, patches, fixed)


def _measure(
    skeleton: Any, anatomy: Anatomy, config: Any, tokens_per_image: int, patches: int, fixed: bool
) -> ModelShape:
    skeleton.to(torch.bfloat16)  # as in training; on the meta device this moves no data
    decoder = skeleton.get_submodule(anatomy.decoder)
    beside = _outermost([skeleton.get_submodule(name) for name in anatomy.unquantized])
    head = skeleton.get_output_embeddings()
    beside = [module for module in beside if module is not head]
    targets = matching(skeleton, target_pattern(anatomy))
    tower = [m for m in matching(skeleton, target_pattern(anatomy, "lora")) if m not in set(targets)]
    embedding = skeleton.get_input_embeddings().weight
    layers = layers_of(decoder)
    if layers is None:
        raise ValueError("its language model has no list of layers")
    tied = head is None or head.weight is embedding
    packed = frozenset[nn.Module](targets)
    rest = weights_of(decoder, packed, without=(layers, *beside))
    inside = set(layers.modules())
    outside = [m for m in targets if m not in inside]
    found = _layers(decoder, layers, packed, outside, embedding.shape[1])
    return ModelShape(
        family=config.model_type,
        hidden=embedding.shape[1],
        vocab=embedding.shape[0],
        layers=tuple(found),
        embedding_params=rest.embedding,
        head_params=0 if tied else head.weight.numel(),
        other_params=rest.other + rest.experts,
        largest_linear=max((m.weight.numel() for m in targets), default=0),
        tokens_per_image=tokens_per_image if beside else 0,
        fixed_pictures=fixed,
        vision_patches=patches if beside else 0,
        **tower_sizes(beside, tower, getattr(config, "vision_config", None)),
    )


def _layers(
    decoder: Any, layers: nn.ModuleList, targets: frozenset[nn.Module], outside: Sequence[nn.Linear], hidden: int
) -> list[Layer]:
    sorts = sorts_of(layers)
    own = [
        ([m for m in first.modules() if isinstance(m, nn.Linear) and m in targets], weights_of(first, targets))
        for first, _ in sorts
    ]
    paths = _paths(decoder)
    kept, beside = _kept(decoder, layers, [first for first, _ in sorts], targets, hidden)
    found = [
        Layer(
            count=count,
            linear_params=weights.linear,
            expert_params=weights.experts,
            other_params=weights.other + weights.embedding,
            linears=_linears(linears, paths, seen.inputs),
            values=seen.values,
            fp32_values=seen.fp32_values,
            pair_values=seen.pair_values,
            active_expert_params=seen.active_expert_params,
            q_width=seen.q_width,
            kv_width=seen.kv_width,
            widest=seen.widest,
        )
        for (_, count), (linears, weights), seen in zip(sorts, own, kept, strict=True)
    ]
    return [*found, *([_outside(decoder, outside, beside, hidden)] if outside else [])]


def _paths(decoder: nn.Module) -> dict[nn.Module, str]:
    """The path of each module in the language model, N in place of numbers."""
    return {module: re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name, module in decoder.named_modules()}


def _linears(
    linears: Sequence[nn.Linear], paths: Mapping[nn.Module, str], inputs: Mapping[nn.Module, tuple[int, int]]
) -> tuple[Linear, ...]:
    """The linears of a layer, in its order, those of one path together. One that the forward did not run reads a value
    that something else keeps."""
    groups: dict[str, list[nn.Linear]] = {}
    for linear in linears:
        groups.setdefault(paths[linear], []).append(linear)
    unread = len(inputs)
    return tuple(
        Linear(
            path=path,
            count=len(some),
            inputs=sum(m.in_features for m in some),
            outputs=sum(m.out_features for m in some),
            reads=inputs.get(some[0], (unread + number, 0))[0],
            kept_inputs=sum({reads: kept for reads, kept in (inputs.get(m, (0, 0)) for m in some)}.values()),
        )
        for number, (path, some) in enumerate(groups.items())
    )


def _kept(
    decoder: Any, layers: nn.ModuleList, firsts: Sequence[nn.Module], targets: frozenset[nn.Module], hidden: int
) -> tuple[list[Kept], Kept]:
    """The values that each sort of layer keeps, traced on the shortest stack of layers that holds every sort; and those
    that are kept outside the layers."""
    stack = list(layers)
    places = [next(n for n, layer in enumerate(stack) if layer is first) for first in firsts]
    del layers[max(places) + 1 :]
    try:
        kept, outside = trace(decoder, layers, targets)
    # the forward needs values, which these tensors do not have; the sizes are known all the same
    except Exception as error:
        if is_of_machine(error):
            raise
        kept, outside = [Kept()] * len(layers), Kept()
    found = [kept[place] for place in places]
    # A layer that this forward did not run, such as one that attends only to pictures, is counted from its linears.
    run = [seen if seen.values else counted(first, targets, hidden) for first, seen in zip(firsts, found, strict=True)]
    return run, outside


def _targeted(layer: nn.Module, targets: frozenset[nn.Module]) -> list[nn.Linear]:
    return [m for m in layer.modules() if isinstance(m, nn.Linear) and m in targets]


def counted(layer: nn.Module, targets: frozenset[nn.Module], hidden: int) -> Kept:
    """The most that a layer keeps, by its linears alone: the output of each, a gate's product, the inputs of four
    norms."""
    linears = _targeted(layer, targets)
    widest = max((m.in_features for m in linears), default=hidden)
    gives = sum(m.out_features for m in linears)
    # Linears of one part that read the same width are taken to read the same value.
    parts = {linear: (name.rpartition(".")[0], linear.in_features) for name, linear in layer.named_modules()
             if linear in linears}  # fmt: skip
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts.values()))}
    return Kept(
        values=gives + widest, fp32_values=4 * hidden, pair_values=1, q_width=hidden, kv_width=hidden, widest=widest,
        inputs={linear: (numbers[part], part[1]) for linear, part in parts.items()},
    )  # fmt: skip


def _outside(decoder: nn.Module, linears: Sequence[nn.Linear], kept: Kept, hidden: int) -> Layer:
    """The linears outside the layers as one sort, such as those of embeddings that each layer has for itself. The last
    norm's input (`hidden` wide, fp32) is kept there in every model, and is no part of the sort."""
    gives = sum(m.out_features for m in linears)
    inputs: dict[nn.Module, tuple[int, int]] = {m: (number, m.in_features) for number, m in enumerate(linears)}
    weights = sum(m.weight.numel() for m in linears)
    sizes = dict.fromkeys(Layer.__dataclass_fields__, 0)
    sizes |= {"count": 1, "linear_params": weights, "values": gives, "widest": max(m.out_features for m in linears)}
    sizes["fp32_values"] = max(0, kept.fp32_values - hidden)
    del sizes["linears"]
    return Layer(**sizes, linears=_linears(linears, _paths(decoder), inputs))


def _outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    inner = {part for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if module not in inner]
