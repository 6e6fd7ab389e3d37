"""What training relies on, looked at in the loaded model and one batch at every start; if broken, most is silent."""

from __future__ import annotations

import os
import re
from inspect import signature
from math import isclose
from typing import Any

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.model.base import Anatomy, target_pattern
from trainer.model.head import CHUNK_POSITIONS, supervised_loss
from trainer.model.refusal import UNFIT, refusing
from trainer.model.traits import lacking_token_types, picture_features
from trainer.outcome import ConfigError

SAME_LOSS = 0.01  # nats, or of the loss itself where it is larger; the same sums in another order differ by 1e-6


def check_contract(
    model: Any, config: TrainConfig, anatomy: Anatomy, batch: dict[str, Tensor]
) -> list[tuple[str, str]]:
    """(what, how it is) for every promise that training relies on, about the model and what it makes of a `batch`.

    Raises:
        ConfigError: a promise is broken, naming all that are; or the model cannot be asked.
    """
    with refusing(config.model, "trained", UNFIT):
        promises = _promises(model, config, anatomy, batch)
    if broken := [f"{what}: {found}, not {should}" for what, found, should in promises if found != should]:
        raise ConfigError(f"MODEL={config.model} is not what it should be: {'; '.join(broken)}")
    return [(what, str(found)) for what, found, _ in promises]


def _promises(
    model: Any, config: TrainConfig, anatomy: Anatomy, batch: dict[str, Tensor]
) -> tuple[tuple[str, object, object], ...]:
    """(what, how it is, how it should be)."""
    from bitsandbytes.nn import Linear4bit

    base = model.get_base_model()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    text = matching(base, target_pattern(anatomy))
    tuned = matching(base, target_pattern(anatomy, config.vision))
    # A ZeRO-3 shard knows its whole size.
    counted = sum(getattr(p, "ds_numel", p.numel()) for p in trainable.values())
    expected = sum(config.lora_r * (m.in_features + m.out_features) for m in tuned)
    outside = [name for name in trainable if f".{anatomy.decoder}." not in f".{name}"]
    precision = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in trainable.values()}))
    under_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    halved = under_deepspeed and os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
    masters = " masters of bfloat16 adapters (DeepSpeed)" if halved else ""
    four_bit = sum(isinstance(m, Linear4bit) for m in text)
    strays = sum(isinstance(m, Linear4bit) for m in base.modules()) - four_bit
    shared = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    attention = {getattr(m.config, "_attn_implementation", "") for m in (base, base.get_submodule(anatomy.decoder))}
    lacking = lacking_token_types(base, batch)
    features = picture_features(base, batch)
    asked = "with gradient" if config.vision == "lora" else "without gradient"
    if features is None:
        seen = asked = "none: the first record has no picture"
    else:
        seen = "with gradient" if features.requires_grad else "without gradient"
    return (
        ("trainable parameters", f"{counted:,}", f"{expected:,}"),
        ("trained outside the language model", len(outside), 2 * (len(tuned) - len(text))),
        ("adapter precision", precision + masters, f"float32{masters}"),
        ("4-bit linears in the language model", four_bit, len(text) if config.quantization == "nf4" else 0),
        ("4-bit linears elsewhere", strays, 0),
        ("head tied to the embedding", shared, bool(getattr(base.config, "tie_word_embeddings", False))),
        ("attention", ", ".join(sorted(attention)), "sdpa"),
        # Without them the model would take image tokens for text.
        ("token types", f"no {' or '.join(lacking)}" if lacking else "present", "present"),
        ("vision features", seen, asked),
        ("loss of our head", *(_compared(model, batch) if not under_deepspeed else ("not compared: ZeRO-3",) * 2)),
    )


@torch.no_grad()
def _compared(model: Any, batch: dict[str, Tensor]) -> tuple[str, str]:
    """The loss that training would take from the states, and how it should be: as from the model's own logits.

    A family may scale them, or mask them; nothing in its configuration need say so. Only what is supervised is
    computed, and no more of it than one chunk.
    """
    base, was_training = model.get_base_model(), model.training
    given = {name: tensor.to(base.device) for name, tensor in batch.items() if name != "labels"}
    positions, targets = (given.pop(name)[:CHUNK_POSITIONS] for name in ("loss_positions", "loss_targets"))
    columns, place = (positions % given["input_ids"].shape[1]).unique(return_inverse=True)
    model.eval()
    with torch.autocast(base.device.type, torch.bfloat16, os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"):
        ours = supervised_loss(base, **given, loss_positions=positions, loss_targets=targets)["loss_sum"]
        own = f"{ours / len(targets):.4f}"
        if "logits_to_keep" not in signature(type(base).forward).parameters:
            return (f"{own}, not compared: the model gives logits of all positions only",) * 2
        logits = base(**given, logits_to_keep=columns, use_cache=False).logits
    model.train(was_training)
    chosen = logits[positions // given["input_ids"].shape[1], place].float()
    theirs = torch.nn.functional.cross_entropy(chosen, targets)
    same = isclose(ours / len(targets), theirs, rel_tol=SAME_LOSS, abs_tol=SAME_LOSS)
    return own, own if same else f"{theirs:.4f} as by the model's own logits"


def matching(base: Any, pattern: str) -> list[Any]:
    """The linears at the paths that `pattern` means, below their adapters."""
    return [getattr(m, "base_layer", m) for name, m in base.named_modules() if re.fullmatch(pattern, name)]
