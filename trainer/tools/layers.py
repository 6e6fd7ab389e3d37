"""`python -m trainer layers --model M`: a model's linear layers, grouped, and what each choice of LoRA would train.

The architecture is built on torch's meta device: no weights are downloaded and no memory is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from torch import nn

from accelerate_configs.memory.known_models import KNOWN_MODELS
from trainer.config import LORA_PRESETS
from trainer.flags import Range, parse
from trainer.model.base import Anatomy, anatomy_of, build_skeleton, load_model_config, target_pattern
from trainer.outcome import FINISHED
from trainer.text import format_table

# The list that tutorials give as target_modules; in Gemma 3 it hits the tower's q, k and v by accident.
SUFFIXES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    model: str
    """Folder or hub id; only its config.json is read, and for models that the planner knows not even that."""
    lora_r: Annotated[int, Range(1, 1024)] = 64
    """Rank that the columns are computed for; the presets are shown as well."""
    json: bool = False
    """One JSON object instead of tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Linear layers of one name and shape in one part of the model."""

    part: str
    name: str
    inputs: int
    outputs: int
    count: int
    trained: str
    """When training puts an adapter there: always, with vision=lora, or - for never."""

    def lora_params(self, r: int) -> int:
        return self.count * r * (self.inputs + self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    name: str
    layers: int
    width: int
    """Sum of inputs and outputs of its layers: times the rank, the weights that are trained."""


def linear_groups(skeleton: nn.Module, anatomy: Anatomy) -> list[Group]:
    """The linears in the model's order, one Group for each part, name and shape."""
    found: dict[tuple[str, str, int, int, str], int] = {}
    for path, module in _linears(skeleton):
        part = next(p for p in (anatomy.decoder, *anatomy.unquantized, "") if _within(path, p))
        name = path.rpartition(".")[2]
        when = (("frozen", "always"), ("lora", "with vision=lora"))
        trained = (word for vision, word in when if re.fullmatch(target_pattern(anatomy, vision), path))
        key = (part, name, module.in_features, module.out_features, next(trained, "-"))
        found[key] = found.get(key, 0) + 1
    return [
        Group(part=part or "(elsewhere)", name=name, inputs=i, outputs=o, count=count, trained=trained)
        for (part, name, i, o, trained), count in found.items()
    ]


def choices(skeleton: Any, anatomy: Anatomy) -> list[Choice]:
    """What training does first, then what others do."""
    head = skeleton.get_output_embeddings()
    linears = [(path, m) for path, m in _linears(skeleton) if m is not head]
    ours = {
        "language model (vision=frozen, the default)": target_pattern(anatomy),
        "tower and projector too (vision=lora)": target_pattern(anatomy, "lora"),
    }
    picked = {
        **{name: [m for p, m in linears if re.fullmatch(pattern, p)] for name, pattern in ours.items()},
        "names ending in q_proj ... down_proj": [m for p, m in linears if p.endswith(SUFFIXES)],
        "all-linear, the tower included": [m for _, m in linears],
    }
    return [
        Choice(name=name, layers=len(some), width=sum(m.in_features + m.out_features for m in some))
        for name, some in picked.items()
    ]


def _linears(skeleton: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(path, m) for path, m in skeleton.named_modules() if isinstance(m, nn.Linear)]


def _within(path: str, part: str) -> bool:
    return not part or path == part or path.startswith(f"{part}.")


def _config(model: str) -> Any:
    from transformers import AutoConfig

    # A gated model's layers are no secret: the sizes that the planner knows are all it takes.
    return AutoConfig.for_model(**KNOWN_MODELS[model]) if model in KNOWN_MODELS else load_model_config(model)


def main(argv: Sequence[str]) -> int:
    """Raises ConfigError for a wrong option or a model that cannot be found."""
    question = parse(argv, Question, "usage: python -m trainer layers --model M [--lora_r 64] [--json]")
    skeleton = build_skeleton(_config(question.model))
    anatomy = anatomy_of(skeleton)
    groups, options = linear_groups(skeleton, anatomy), choices(skeleton, anatomy)
    ranks = {f"r={question.lora_r}": question.lora_r, **{name: r for name, (r, _) in LORA_PRESETS.items()}}
    if question.json:
        report: dict[str, Any] = {
            "model": question.model,
            "groups": [{**asdict(g), "lora_params": g.lora_params(question.lora_r)} for g in groups],
            "choices": [
                {"name": c.name, "layers": c.layers, "trained": {name: r * c.width for name, r in ranks.items()}}
                for c in options
            ],
        }
        print(json.dumps(report, indent=1))
        return FINISHED
    rows = [["part", "linear", "in x out", "layers", "weights", f"LoRA r={question.lora_r}", "trained"]]
    rows += [
        [
            g.part, g.name, f"{g.inputs} x {g.outputs}", str(g.count), f"{g.count * g.inputs * g.outputs:,}",
            f"{g.lora_params(question.lora_r):,}", g.trained,
        ]
        for g in groups
    ]  # fmt: skip
    head = ["choice", "layers", *ranks]
    table = [[c.name, str(c.layers), *(f"{r * c.width:,}" for r in ranks.values())] for c in options]
    print(format_table(rows, rules_before=(1,)) + "\n\n" + format_table([head, *table], rules_before=(1,)))
    return FINISHED
