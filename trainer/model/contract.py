"""Conditions that training relies on, checked on the loaded model and one batch at every start; most break silently.

If another way of working meets a condition, it is used and logged: the model's own head, adapters left out. Any other
broken condition is a refusal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from trainer.architecture.targets import check_targets
from trainer.config import TrainConfig
from trainer.model.anatomy import Anatomy, path_inside, target_pattern
from trainer.model.base import add_lora
from trainer.model.behaviour import (
    LEAKED,
    compare_heads,
    is_of_pictures,
    leaked,
    picture_counts,
    share_left_alone,
    token_losses,
    without_gradient,
)
from trainer.model.kind import check_tokens, checked_tokens
from trainer.model.refusal import UNFIT, refusing
from trainer.model.targets import lost_at_loading, path_of, peft_targets
from trainer.model.traits import lacking_token_types, picture_features
from trainer.outcome import ConfigError

MOST_KINDS = 3  # kinds of linears that a message names
Promise = tuple[str, object, object]
"""(what, how it is, how it should be)."""


def adapt(
    base: Any, config: TrainConfig, anatomy: Anatomy, batch: dict[str, Tensor], say: Callable[[str], object]
) -> tuple[Any, Anatomy, str]:
    """(`base` with its adapters, without those that no loss depends on; its anatomy; the loss of its head in words).

    Raises:
        ConfigError: the model cannot be tested, nothing in it can be trained, or its tokenizer is another model's.
    """
    check_tokens(config.model, base.get_input_embeddings(), batch["loss_targets"])
    check_targets((path_inside(anatomy, linear) for linear in anatomy.linears), config.lora_targets)
    _, taken = peft_targets(base, target_pattern(anatomy, config.vision, config.lora_targets))
    if taken:
        say(f"{len(taken)} linears get no adapter, as PEFT takes their names for experts': {_kinds(taken)}")
        anatomy = anatomy.without(taken)
    model = add_lora(base, config, anatomy)
    with refusing(config.model, "given adapters", UNFIT):
        lost = lost_at_loading(model)
    if lost:
        say(f"{len(lost)} linears get no adapter, as PEFT would not find it again under their names: {_kinds(lost)}")
        torch.manual_seed(config.seed)  # as if they had never had an adapter
        anatomy = anatomy.without(lost)
        model = add_lora(model.unload(), config, anatomy)
    with refusing(config.model, "trained", UNFIT):
        with checked_tokens(config.model, base.get_input_embeddings()):
            head = compare_heads(model, batch)
        # DeepSpeed shards the model only later. Until then each GPU holds all of it, and may lack room for gradients.
        unused = [] if under_deepspeed() else without_gradient(model, batch)
    if not unused:
        return model, anatomy, head
    say(f"{len(unused)} linears get no adapter, as no loss depends on them: {_kinds(unused)}")
    torch.manual_seed(config.seed)  # as if the unused linears had never had an adapter
    anatomy = anatomy.without(unused)
    return add_lora(model.unload(), config, anatomy), anatomy, head


def _kinds(paths: Collection[str]) -> str:
    """The first kinds of these paths; the same linear of all layers is one kind."""
    kinds = list(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".N", path) for path in paths))
    more = f" and {len(kinds) - MOST_KINDS} more kinds" if len(kinds) > MOST_KINDS else ""
    return f"{', '.join(kinds[:MOST_KINDS])}{more}"


def check_contract(
    model: Any,
    config: TrainConfig,
    anatomy: Anatomy,
    batch: dict[str, Tensor],
    *,
    ends: Collection[int] = (),
    head: str | None = None,
) -> list[tuple[str, str]]:
    """(what, how it is) for every promise that training relies on, about the model and its behaviour on a `batch`.
    `ends` are the tokens that end an answer, if they are known; `head` is the third result of `adapt`.

    Raises:
        ConfigError: naming all broken promises; or the model cannot be tested.
    """
    with refusing(config.model, "trained", UNFIT):
        promises = [*_built(model, config, anatomy, batch)]
        # The tests of `adapt` are not repeated, unless it has changed the model.
        known, head = head is not None and not anatomy.unused, head or compare_heads(model, batch)
        idle = None if under_deepspeed() else 0 if known else len(without_gradient(model, batch))
        promises += _behaves(model, batch, ends, head, idle)
    if broken := [f"{what}: {found}, not {should}" for what, found, should in promises if found != should]:
        raise ConfigError(f"is not what it should be: {'; '.join(broken)}", name="MODEL", given=config.model)
    return [(what, str(found)) for what, found, _ in promises]


def under_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def _built(model: Any, config: TrainConfig, anatomy: Anatomy, batch: dict[str, Tensor]) -> tuple[Promise, ...]:
    """Promises about the kinds of the modules."""
    from bitsandbytes.nn import Linear4bit

    base = model.get_base_model()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    text, tuned = (
        _matching(base, target_pattern(anatomy, vision, config.lora_targets)) for vision in ("frozen", config.vision)
    )
    # A ZeRO-3 shard knows its whole size.
    counted = sum(getattr(p, "ds_numel", p.numel()) for p in trainable.values())
    expected = sum(config.lora_r * (m.in_features + m.out_features) for m in tuned.values())
    outside = [name for name in trainable if path_of(name) not in text]
    precision = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in trainable.values()}))
    halved = under_deepspeed() and os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
    masters = " masters of bfloat16 adapters (DeepSpeed)" if halved else ""
    inside = _matching(base, "|".join(anatomy.linears))
    four_bit = sum(isinstance(m, Linear4bit) for m in inside.values())
    strays = sum(isinstance(m, Linear4bit) for m in base.modules()) - four_bit
    part = base.get_submodule(anatomy.decoder)
    attention = {getattr(m.config, "_attn_implementation", "") for m in (base, part)}
    offered = {"sdpa" if m._supports_sdpa else "eager" for m in (base, part)}
    lacking = lacking_token_types(base, batch)
    may = _matching(base, target_pattern(anatomy))  # without 4 bits, what lora_targets leaves out is left alone
    left = share_left_alone(base, [*may.values()], anatomy.decoder)
    return (
        ("trainable parameters", f"{counted:,}", f"{expected:,}"),
        ("trained outside the language model", len(outside), 2 * (len(tuned) - len(text))),
        ("adapter precision", precision + masters, f"float32{masters}"),
        ("4-bit linears in the language model", four_bit, len(inside) if config.quantization == "nf4" else 0),
        ("4-bit linears elsewhere", strays, 0),
        ("neither in 4 bits nor adapted", *(f"{left:.1%} of the language model",) * 2),
        ("head tied to the embedding", *_tied(base)),
        ("attention", ", ".join(sorted(attention)), ", ".join(sorted(offered))),
        # Without token types the model would take image tokens for text.
        ("token types", f"no {' or '.join(lacking)}" if lacking else "present", "present"),
        ("vision features", *_features(base, config, batch)),
    )


def _tied(base: Any) -> tuple[str, str]:
    shared = getattr(base.get_output_embeddings(), "weight", None) is base.get_input_embeddings().weight
    asked = bool(getattr(base.config, "tie_word_embeddings", False))
    own = " (its weights have a head of their own: write tie_word_embeddings false into config.json, text_config too)"
    return f"{shared}{own if asked and not shared else ''}", f"{asked}"


def _features(base: Any, config: TrainConfig, batch: dict[str, Tensor]) -> tuple[str, str]:
    try:
        features = picture_features(base, batch)
    except (TypeError, AttributeError, ValueError):  # the family's method has other arguments
        return ("not asked: the family has its own way to them",) * 2
    if features is None:
        return ("none: the first record has no picture",) * 2
    asked = "with gradient" if config.vision == "lora" else "without gradient"
    return "with gradient" if features.requires_grad else "without gradient", asked


def _behaves(
    model: Any, batch: dict[str, Tensor], ends: Collection[int], head: str, idle: int | None
) -> tuple[Promise, ...]:
    """Promises about the model's behaviour on the batch; `idle` linears have no gradient, or None: nobody asked."""
    losses = token_losses(model, batch)
    moved = leaked(model, batch, losses)
    learned = not ends or not {*batch["loss_targets"].tolist()}.isdisjoint(ends)
    pictured = any(map(is_of_pictures, batch.values()))
    counts = "another loss" if not pictured or picture_counts(model, batch, losses) else "the same loss"
    return (
        ("loss of our head", head, head),
        *([] if idle is None else [("adapters without a gradient", idle, 0)]),
        ("another picture", counts if pictured else "none: the first record has no picture",
         "another loss" if pictured else "none: the first record has no picture"),
        ("later words of an answer", _moves(moved), _moves(moved if moved <= LEAKED else 0.0)),
        ("the end of an answer", "learned" if learned else "not among the trained tokens", "learned"),
    )  # fmt: skip


def _moves(nats: float) -> str:
    return f"move an earlier loss by {nats:.2f} nats" if nats > LEAKED else "move no earlier loss"


def _matching(base: Any, pattern: str) -> dict[str, Any]:
    """The linears at the paths that `pattern` matches, without their adapters."""
    return {
        name: getattr(m, "base_layer", m) for name, m in base.named_modules() if pattern and re.fullmatch(pattern, name)
    }
