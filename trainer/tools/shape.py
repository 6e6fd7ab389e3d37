"""usage: python -m trainer shape --model M [--json]

Measures a model's shape, which the plan is made from, and keeps it beside the model (for a hub id, or a folder that
cannot be written to: in ~/.cache/trainyard/shapes). Reads config.json and the processor's files; no weights are
downloaded or made. Afterwards a login node without torch can plan the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.architecture.shape import ModelShape
from trainer.architecture.shape_file import plain
from trainer.env_file import take_env_file
from trainer.flags import parse
from trainer.outcome import FINISHED
from trainer.text import format_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    model: str
    """Folder or hub id."""
    json: bool = False
    """One JSON object instead of tables."""


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer shape`. Raises ConfigError for a wrong option, or a model that cannot be found or
    analysed."""
    asked = parse(argv, Question, __doc__)
    take_env_file()
    from trainer.measure.keep import measure_and_keep  # imports torch late, so that help and wrong options are fast

    shape, path = measure_and_keep(asked.model)
    print(json.dumps({"kept": str(path), "shape": plain(shape)}, indent=1) if asked.json else render(shape, path))
    return FINISHED


def render(shape: ModelShape, path: Path) -> str:
    """Two tables: the parameters by kind, the layers by sort."""
    kinds = {
        "linears, in 4 bits": shape.linear_params,
        "experts, at 16 bits": shape.expert_params,
        "embedding": shape.embedding_params,
        "head": shape.head_params,
        "norms and the rest": shape.text_extra_params,
        "image tower": shape.vision_params,
        "projector and others": shape.projector_params,
        "all": shape.total_params,
    }
    rows = [["parameters", shape.family], *([name, f"{n:,}"] for name, n in kinds.items() if n or name == "head")]
    layers = [["layers", "adapters", "LoRA a rank", "kept a token", "in fp32", "keys a token"]]
    layers += [
        [
            str(layer.count), str(layer.adapters), f"{layer.adapter_inputs + layer.adapter_outputs:,}",
            f"{layer.values:,}", f"{layer.fp32_values:,}", f"{layer.kv_width:,}",
        ]
        for layer in shape.layers
    ]  # fmt: skip
    picture = ""
    if shape.vision_params:
        same = ", whatever its size" if shape.fixed_pictures else " at 784 x 784 px"
        taken = f"{shape.tokens_per_image:,} tokens{same}, {shape.vision_patches:,} patches in the tower"
        picture = f"\n\na picture takes {taken}"
    last = len(rows) - 1
    tables = f"{format_table(rows, rules_before=(1, last))}\n\n{format_table(layers, rules_before=(1,))}"
    return f"{tables}{picture}\nkept in {path}"
