"""Measures the parts beside the language model: the tower for pictures, and the projector that joins the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from inspect import signature
from itertools import chain

from torch import nn

from trainer.measure.parts import layers_of

TURNED = ("rot", "position_emb")  # names of a layer's arguments for positions, by which queries and keys are rotated


def tower_sizes(beside: Sequence[nn.Module], linears: Sequence[nn.Linear], vision: object) -> dict[str, int]:
    """ModelShape's fields about tower and projector; all 0 for a model that has none.

    `beside` are the modules beside the language model, `linears` those that get an adapter with vision=lora. The
    tower is the module whose configuration is the model's `vision` configuration; if there is none, the largest
    module.
    """
    sizes = {module: sum(p.numel() for p in module.parameters()) for module in beside}
    seeing = [module for module in beside if type(getattr(module, "config", None)) is type(vision)]
    tower = max(seeing or beside, key=lambda module: sizes[module], default=None)
    layers = layers_of(tower) if tower is not None else None
    inside = [m for m in layers[0].modules() if isinstance(m, nn.Linear)] if layers else []
    reads = Counter(m.in_features for m in inside)
    hidden = reads.most_common(1)[0][0] if reads else 0
    return {
        "vision_params": sizes[tower] if tower else 0,
        "projector_params": sum(sizes.values()) - (sizes[tower] if tower else 0),
        "vision_layers": len(layers) if layers else 0,
        "vision_hidden": hidden,
        "vision_mlp": max(reads, default=0),
        "vision_linears": len(linears),
        "vision_linears_in": sum(m.in_features for m in linears),
        "vision_linears_out": sum(m.out_features for m in linears),
        "vision_values": _kept(layers[0], inside, hidden) if layers and inside else 0,
    }


def _kept(layer: nn.Module, linears: Sequence[nn.Linear], hidden: int) -> int:
    """Values that a layer with adapters keeps of a patch, as counted on traced layers of SigLIP and Qwen2.5-VL: the
    output of each linear, the inputs of linears (a shared input once), the norms' fp32 inputs, rotated positions in
    fp32, and a gate's product."""
    widest = max(m.in_features for m in linears)
    gives = sum(m.out_features for m in linears)
    read = 3 * hidden + widest
    arguments = chain.from_iterable(signature(part.forward).parameters for part in layer.modules())
    turned = 3 * hidden if any(name.startswith(TURNED) for name in arguments) else 0
    gated = widest if sum(m.out_features == widest for m in linears) > 1 else 0
    return gives + read + 3 * hidden + turned + gated
