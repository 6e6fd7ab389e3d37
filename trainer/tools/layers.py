"""usage: python -m trainer layers --model M [--lora_r 64] [--json]

A model's linear layers, grouped, and what each choice of LoRA would train. The architecture is built on torch's meta
device: no weights are downloaded and no memory is taken.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from trainer.architecture.targets import ATTENTION
from trainer.config import LORA_PRESETS
from trainer.env_file import take_env_file
from trainer.flags import Range, parse
from trainer.outcome import FINISHED
from trainer.text import format_table

# The target_modules of many tutorials; in Gemma 3 they also match the tower's q, k and v.
SUFFIXES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    model: str
    """Folder or hub id. Only its config.json is read; nothing is read for models that the planner knows."""
    lora_r: Annotated[int, Range(1, 1024)] = 64
    """Rank that the columns are computed for; the presets are shown as well."""
    json: bool = False
    """One JSON object instead of tables."""


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer layers`. Raises ConfigError for a wrong option or a model that cannot be found."""
    asked = parse(argv, Question, __doc__)
    take_env_file()
    report = describe(asked.model, asked.lora_r)
    print(json.dumps(report, indent=1) if asked.json else render(report))
    return FINISHED


def describe(model: str, lora_r: int) -> dict[str, Any]:
    """The linears in the model's order, one entry for each part, name and shape; and the linears of each choice of
    LoRA."""
    # torch and transformers are imported here, so that help and wrong options are fast.
    from torch import nn

    from trainer.model.anatomy import target_pattern
    from trainer.model.base import take_apart

    skeleton, anatomy = take_apart(model, _config(model))
    head = skeleton.get_output_embeddings()
    linears = {path: module for path, module in skeleton.named_modules() if isinstance(module, nn.Linear)}
    frozen, tuned = (re.compile(target_pattern(anatomy, vision)) for vision in ("frozen", "lora"))
    groups: Counter[tuple[str, str, int, int, str]] = Counter()
    for path, module in linears.items():
        parts = (part for part in (anatomy.decoder, *anatomy.unquantized) if f"{path}.".startswith(f"{part}."))
        when = "always" if frozen.fullmatch(path) else "with vision=lora" if tuned.fullmatch(path) else "-"
        name = path.rpartition(".")[2]
        groups[next(parts, "(elsewhere)"), name, module.in_features, module.out_features, when] += 1
    attention = re.compile(target_pattern(anatomy, targets=ATTENTION) or "(?!)")
    picked = {  # the trainer's own choices first, then those of others
        "language model (vision=frozen, the default)": [m for path, m in linears.items() if frozen.fullmatch(path)],
        "attention alone (lora_targets=attention)": [m for path, m in linears.items() if attention.fullmatch(path)],
        "tower and projector too (vision=lora)": [m for path, m in linears.items() if tuned.fullmatch(path)],
        "names ending in q_proj ... down_proj": [m for path, m in linears.items() if path.endswith(SUFFIXES)],
        "all-linear, the tower included": [m for m in linears.values() if m is not head],
    }
    ranks = {f"r={lora_r}": lora_r, **LORA_PRESETS}
    widths = {name: sum(m.in_features + m.out_features for m in some) for name, some in picked.items()}
    return {
        "model": model,
        "groups": [
            {
                "part": part, "name": name, "inputs": inputs, "outputs": outputs, "count": count, "trained": when,
                "lora_params": count * lora_r * (inputs + outputs),
            }
            for (part, name, inputs, outputs, when), count in groups.items()
        ],
        "choices": [
            {"name": name, "layers": len(some), "trained": {rank: r * widths[name] for rank, r in ranks.items()}}
            for name, some in picked.items()
        ],
    }  # fmt: skip


def _config(model: str) -> Any:
    # The layers of a gated model are public, and the published sizes are enough.
    from trainer.measure.ship import published_config
    from trainer.model.base import load_model_config

    return published_config(model) or load_model_config(model)


def render(report: dict[str, Any]) -> str:
    ranks = list(report["choices"][0]["trained"])
    rows = [["part", "linear", "in x out", "layers", "weights", f"LoRA {ranks[0]}", "trained"]]
    for g in report["groups"]:
        sizes, weights = f"{g['inputs']} x {g['outputs']}", g["count"] * g["inputs"] * g["outputs"]
        numbers = [str(g["count"]), f"{weights:,}", f"{g['lora_params']:,}"]
        rows.append([g["part"], g["name"], sizes, *numbers, g["trained"]])
    table = [["choice", "layers", *ranks]]
    table += [[c["name"], str(c["layers"]), *(f"{n:,}" for n in c["trained"].values())] for c in report["choices"]]
    return format_table(rows, rules_before=(1,)) + "\n\n" + format_table(table, rules_before=(1,))
