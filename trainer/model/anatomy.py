"""Where things are in a model, read off its modules: what is put into 4 bits, what gets adapters, what is left alone.

No family's name and no module's name decides: the language model is what owns the embedding of the tokens, a tower is a
model inside it that takes something else than tokens, and a gate is a linear with a handful of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

GATE_WIDTH = 16
"""A linear with no more inputs or outputs than these is a gate or a router: 4 bits would change its choices, and an
adapter would be larger than the linear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """Where things are in a model, as module names."""

    decoder: str
    """The language model, for example model.language_model."""
    unquantized: tuple[str, ...]
    """Tower, projector and head: everything beside the decoder, and towers within it."""
    gates: tuple[str, ...]
    """The decoder's linears that are left alone, as expressions for whole paths: any layer's number is \\d+."""
    linears: tuple[str, ...]
    """The decoder's, as expressions for whole paths: any layer's number is \\d+."""
    vision_linears: tuple[str, ...]
    """The tower's and the projector's. Gemma 3's projection is a bare matrix and none of them."""
    unused: tuple[str, ...] = ()
    """Those of both that no loss depends on: paths of linears that get no adapter."""

    @property
    def in_16_bits(self) -> tuple[str, ...]:
        """The modules that stay at 16 bits, as bitsandbytes is told: expressions for the beginnings of paths."""
        return (*self.unquantized, *self.gates)

    def without(self, paths: Iterable[str]) -> Anatomy:
        """The same, with no adapters at these paths."""
        return replace(self, unused=tuple(sorted({*self.unused, *paths})))


def anatomy_of(skeleton: Any) -> Anatomy:
    """Raises ValueError for a model without an embedding of tokens."""
    names = {module: name for name, module in skeleton.named_modules()}
    decoder = names[_decoder(skeleton)]
    beside = tuple(_beside(skeleton, decoder))
    inside = tuple(_towers(skeleton, decoder))
    head = names.get(skeleton.get_output_embeddings())
    gates = [name for name, module in _linears(skeleton, [decoder], inside) if _is_gate(skeleton, name, module)]
    text = [name for name, _ in _linears(skeleton, [decoder], [*inside, *gates])]
    vision = [name for name, _ in _linears(skeleton, [*beside, *inside], [head] if head else [])]
    return Anatomy(
        decoder=decoder,
        unquantized=(*beside, *inside),
        gates=_generalised(gates),
        linears=_generalised(text),
        vision_linears=_generalised(vision),
    )


def target_pattern(anatomy: Anatomy, vision: str = "frozen") -> str:
    """The linears that get an adapter, as one expression for whole paths: a list of suffixes would hit the tower by
    accident."""
    paths = "|".join((*anatomy.linears, *(anatomy.vision_linears if vision == "lora" else ())))
    if not anatomy.unused:
        return paths
    return f"(?!(?:{'|'.join(map(re.escape, anatomy.unused))})$)(?:{paths})"


def _decoder(skeleton: Any) -> nn.Module:
    """The innermost model that owns the embedding of the tokens."""
    from transformers import PreTrainedModel

    embedding = skeleton.get_input_embeddings()
    owners = [
        module
        for module in skeleton.modules()  # from the outside in
        if isinstance(module, PreTrainedModel) and any(inner is embedding for inner in module.modules())
    ]
    if not owners:
        raise ValueError("it has no embedding of tokens")
    return owners[-1]


def _beside(skeleton: Any, decoder: str) -> Iterator[str]:
    """Whatever is not on the way from the outermost module to the decoder, the innermost first."""
    steps = decoder.split(".") if decoder else []
    for depth in range(len(steps) - 1, -1, -1):
        owner = ".".join(steps[:depth])
        for name, _ in skeleton.get_submodule(owner).named_children():
            if name != steps[depth]:
                yield f"{owner}.{name}".lstrip(".")


def _towers(skeleton: Any, decoder: str) -> Iterator[str]:
    """Models inside the decoder that take pictures or sounds."""
    from transformers import PreTrainedModel

    found: list[str] = []
    for name, module in skeleton.get_submodule(decoder).named_modules(prefix=decoder):
        tower = isinstance(module, PreTrainedModel) and module.main_input_name != "input_ids"
        if tower and name != decoder and not name.startswith(tuple(f"{outer}." for outer in found)):
            found.append(name)
            yield name


def _linears(skeleton: Any, parts: Iterable[str], but: Iterable[str]) -> Iterator[tuple[str, nn.Linear]]:
    """(path, module) of the linears in `parts`, without those that are, or lie in, one of `but`. "" is all of it."""
    into, out = (tuple(f"{part}." if part else "" for part in some) for some in (parts, but))
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.".startswith(into) and not f"{name}.".startswith(out):
            yield name, module


def _is_gate(skeleton: Any, name: str, linear: nn.Linear) -> bool:
    """Whether it chooses among experts, or weighs a few things: it has as few outputs (or inputs) as GATE_WIDTH, or
    as many as there are experts beside it."""
    if min(linear.in_features, linear.out_features) <= GATE_WIDTH:
        return True
    owner = skeleton.get_submodule(name.rpartition(".")[0])
    around = [module for module in owner.children() if module is not linear]
    return any(linear.out_features in _experts(module) for module in around)


def _experts(module: nn.Module) -> set[int]:
    """How many experts a module holds: as one tensor of three dimensions, or as modules in a row."""
    if isinstance(module, nn.modules.conv._ConvNd):  # three dimensions too, and its first is a width
        return set()
    counts = {parameter.shape[0] for parameter in module.parameters(recurse=False) if parameter.ndim == 3}
    if isinstance(module, nn.ModuleList) and len({type(inner) for inner in module}) == 1:
        counts.add(len(module))
    return counts


def _generalised(paths: Iterable[str]) -> tuple[str, ...]:
    """One expression for the same linear of every layer."""
    expressions = (re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(path)) for path in paths)
    return tuple(dict.fromkeys(expressions))
