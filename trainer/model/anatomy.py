"""Finds the parts of a model in its modules: which are put into 4 bits, which get adapters, which stay unchanged.

No name of a family or a module decides: the language model is the module that owns the embedding of the tokens, a
tower is a model inside it that takes something other than tokens, and a gate is a linear with a handful of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trainer.architecture.targets import ALL, is_target

GATE_WIDTH = 16
"""A linear with at most so many inputs or outputs is a gate or a router: 4 bits would change its choices, and an
adapter would be larger than the linear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """The parts of a model, as module names."""

    decoder: str
    """The language model, for example model.language_model."""
    unquantized: tuple[str, ...]
    """Tower, projector and head: everything beside the decoder, and towers within it."""
    gates: tuple[str, ...]
    """The decoder's linears that stay unchanged, as expressions for whole paths: any layer's number is \\d+."""
    linears: tuple[str, ...]
    """The decoder's linears that get adapters, as expressions for whole paths: any layer's number is \\d+."""
    vision_linears: tuple[str, ...]
    """The linears of the tower and the projector. Gemma 3's projection is a bare matrix, and so not among them."""
    unused: tuple[str, ...] = ()
    """Paths of linears, in decoder or tower, that get no adapter because no loss depends on them."""

    @property
    def in_16_bits(self) -> tuple[str, ...]:
        """The modules that stay at 16 bits, in the form for bitsandbytes: expressions for the beginnings of paths."""
        return (*self.unquantized, *self.gates)

    def without(self, paths: Iterable[str]) -> Anatomy:
        """A copy with no adapters at these paths."""
        return replace(self, unused=tuple(sorted({*self.unused, *paths})))


def anatomy_of(skeleton: Any) -> Anatomy:
    """The parts of a skeleton. Raises ValueError for a model without an embedding of tokens."""
    names = {module: name for name, module in skeleton.named_modules()}
    decoder = decoder_name(skeleton)
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


def target_pattern(anatomy: Anatomy, vision: str = "frozen", targets: str = ALL) -> str:
    """One expression for the whole paths of the linears that get an adapter: the `targets` in the language model, and
    with vision=lora those of the tower. A list of suffixes would also match linears in the tower."""
    text = (linear for linear in anatomy.linears if is_target(path_inside(anatomy, linear), targets))
    paths = "|".join((*text, *(anatomy.vision_linears if vision == "lora" else ())))
    if not anatomy.unused:
        return paths
    return f"(?!(?:{'|'.join(map(re.escape, anatomy.unused))})$)(?:{paths})"


def path_inside(anatomy: Anatomy, linear: str) -> str:
    """The path in the language model of one of its `linears`, as the setting lora_targets sees it: N for a number."""
    path = re.sub(r"\\(.)", r"\1", linear.replace(r"\d+", "N"))
    return path.removeprefix(f"{anatomy.decoder}.")


def decoder_name(skeleton: Any) -> str:
    """The path of the innermost model that owns the embedding of the tokens. Raises ValueError when there is none."""
    from transformers import PreTrainedModel

    embedding = skeleton.get_input_embeddings()
    owners = [
        name
        for name, module in skeleton.named_modules()  # from the outside in
        if isinstance(module, PreTrainedModel) and any(inner is embedding for inner in module.modules())
    ]
    if not owners:
        raise ValueError("it has no embedding of tokens")
    return owners[-1]


def _beside(skeleton: Any, decoder: str) -> Iterator[str]:
    """Names of all modules that are not on the way from the outermost module to the decoder, the innermost first."""
    steps = decoder.split(".") if decoder else []
    for depth in range(len(steps) - 1, -1, -1):
        owner = ".".join(steps[:depth])
        for name, _ in skeleton.get_submodule(owner).named_children():
            if name != steps[depth]:
                yield f"{owner}.{name}".lstrip(".")


def _towers(skeleton: Any, decoder: str) -> Iterator[str]:
    """Names of the models inside the decoder that take pictures or sounds."""
    from transformers import PreTrainedModel

    found: list[str] = []
    for name, module in skeleton.get_submodule(decoder).named_modules(prefix=decoder):
        tower = isinstance(module, PreTrainedModel) and module.main_input_name != "input_ids"
        if tower and name != decoder and not name.startswith(tuple(f"{outer}." for outer in found)):
            found.append(name)
            yield name


def _linears(skeleton: Any, parts: Iterable[str], but: Iterable[str]) -> Iterator[tuple[str, nn.Linear]]:
    """(path, module) of the linears in `parts`, without those that are, or lie in, one of `but`. "" is the whole
    model."""
    into, out = (tuple(f"{part}." if part else "" for part in some) for some in (parts, but))
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.".startswith(into) and not f"{name}.".startswith(out):
            yield name, module


def _is_gate(skeleton: Any, name: str, linear: nn.Linear) -> bool:
    """Whether a linear chooses among experts, or weighs a few things: it has at most GATE_WIDTH outputs (or inputs),
    or as many outputs as there are experts beside it."""
    if min(linear.in_features, linear.out_features) <= GATE_WIDTH:
        return True
    owner = skeleton.get_submodule(name.rpartition(".")[0])
    around = [module for module in owner.children() if module is not linear]
    return any(linear.out_features in _experts(module) for module in around)


def _experts(module: nn.Module) -> set[int]:
    """The possible numbers of experts in a module: in one tensor of three dimensions, or as modules in a row."""
    if isinstance(module, nn.modules.conv._ConvNd):  # also three dimensions, but the first is a width
        return set()
    counts = {parameter.shape[0] for parameter in module.parameters(recurse=False) if parameter.ndim == 3}
    if isinstance(module, nn.ModuleList) and len({type(inner) for inner in module}) == 1:
        counts.add(len(module))
    return counts


def _generalised(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths as expressions, one for the same linear of every layer."""
    expressions = (re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(path)) for path in paths)
    return tuple(dict.fromkeys(expressions))
