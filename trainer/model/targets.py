"""Chooses the `target_modules` for PEFT. For models whose experts are one tensor in transformers, PEFT rewrites them:
a linear whose last name is also an expert's (gate_proj) would mean the experts' tensors, and whole paths would become
last names, which the tower has too."""

from __future__ import annotations

import re
from typing import Any


def peft_targets(base: Any, pattern: str) -> tuple[str | list[str], list[str]]:
    """(the `target_modules` for PEFT in place of `pattern`, an expression for whole paths; the paths that PEFT cannot
    adapt)."""
    if _rewritten(base, pattern) == pattern:
        return pattern, []
    from torch import nn

    paths = [
        name for name, module in base.named_modules() if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    ]
    taken = {name for name in {path.rpartition(".")[2] for path in paths} if _rewritten(base, [name]) != {name}}
    lost = [path for path in paths if path.rpartition(".")[2] in taken]
    return sorted({*paths} - {*lost}), lost


def _rewritten(base: Any, targets: str | list[str]) -> Any:
    """The `target_modules` after PEFT's rewriting; None when PEFT refuses them."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    lora = LoraConfig(target_modules=targets)
    try:
        convert_peft_config_for_transformers(lora, base, None)
    except ValueError:  # one part of a tensor that holds several parts of the experts
        return None
    return lora.target_modules
