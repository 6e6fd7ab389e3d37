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


def lost_at_loading(model: Any) -> list[str]:
    """Paths of the linears whose adapters PEFT looks for under other names when it loads what it has saved:
    transformers renames weights of some families as they load, and PEFT does the same to adapters."""
    from peft import get_peft_model_state_dict
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    (adapter,) = model.peft_config
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    found = convert_peft_adapter_state_dict_for_transformers(model, model.peft_config[adapter], dict(saved), adapter)
    return sorted({path_of(name) for name in saved if name not in found})


def path_of(name: str) -> str:
    """The path of the linear that a parameter of an adapter belongs to."""
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


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
