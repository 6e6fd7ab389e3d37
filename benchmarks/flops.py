"""FLOPs of one training sample at Gemma 3 4B's true shape: this trainer beside the TRL that it is built on.

    .venv/cpu/bin/python -W ignore -m benchmarks.flops

Counted by PyTorch's FLOP counter on tensors without memory, so it needs no GPU, weights or minutes; the same figures
on every machine. LoRA r=64. Unpacking 4-bit weights is not counted, for any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, Gemma3Config
from transformers.modeling_outputs import BaseModelOutputWithPooling
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction, add_fused_lm_head

from trainer.config import TrainConfig
from trainer.model.base import add_lora, find_anatomy
from trainer.model.head import install_supervised_head
from trainer.model.partial import LeftOff

TEXT = {
    "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024,
}  # fmt: skip
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 896, "patch_size": 14,
}  # fmt: skip
SHAPE = Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=256)
TRL_OUTPUTS = ("log_probs", "entropy", "is_top1")  # what SFTTrainer asks its head for
LENGTHS = ((330, 16), (900, 80))  # tokens a sample, of which are scored


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    name: str
    head: Literal["ours", "TRL's"] = "ours"
    checkpointing: bool = False
    targets: str = ""
    """PEFT's target_modules, with the libraries' own checkpointing; if empty, both are the trainer's."""
    all_scored: bool = False
    """Whether the head runs on every position, not only on the answer's."""
    seen_before: bool = False
    """Whether the picture's features are kept from an earlier epoch."""
    made_ahead: bool = False
    """Whether the features were made before the run, whose model has no tower."""
    timed: tuple[str, ...] = ("cpu", "cuda")
    """Devices on which train_speed.py runs it."""
    counted: bool = True


RECIPES = (
    Recipe(name="Trainyard, first epoch"),
    Recipe(name="Trainyard, from the second epoch on", seen_before=True),
    Recipe(name="Trainyard, first epoch, features made ahead", made_ahead=True, timed=()),
    Recipe(name="Trainyard, first epoch, activation checkpointing", checkpointing=True),
    # Prompt and completion apart, the same LoRA, the frozen tower neither trained nor recomputed.
    Recipe(name="TRL 1.16, a careful user", head="TRL's"),
    Recipe(name="TRL 1.16, a careful user, checkpointing on the language model only", head="TRL's", checkpointing=True),
    Recipe(
        name="TRL 1.16, a careful user, its head as it runs on a CPU: at every position",
        head="TRL's", all_scored=True, timed=("cpu",), counted=False,
    ),
    Recipe(
        name="TRL 1.16 as it comes: `messages`, LoRA on `all-linear`, checkpointing",
        head="TRL's", checkpointing=True, targets="all-linear", all_scored=True,
    ),
)  # fmt: skip


def build(recipe: Recipe) -> Any:
    """The model with its adapters on meta tensors, ready to train."""
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(SHAPE, attn_implementation="sdpa", dtype=torch.bfloat16)
    # The model compares the number of image tokens with the features', and meta tensors have no values.
    image = base.config.image_token_id
    base.model.get_placeholder_mask = lambda ids, inputs_embeds, image_features: (ids == image).unsqueeze(-1)
    if recipe.made_ahead:
        for part in ("model.vision_tower", "model.multi_modal_projector"):  # as trainer/model/filling.py finds them
            base.set_submodule(part, LeftOff())
    if recipe.seen_before or recipe.made_ahead:
        kept = BaseModelOutputWithPooling(pooler_output=torch.empty(1, 256, 2560, dtype=torch.bfloat16, device="meta"))
        base.model.get_image_features = lambda *_, **__: kept
    return adapt(base, recipe, quantization="none").to(torch.bfloat16).train()


def adapt(base: Any, recipe: Recipe, *, quantization: str) -> Any:
    """The base model with the recipe's adapters and head."""
    if recipe.targets:
        lora = LoraConfig(r=64, lora_alpha=128, lora_dropout=0.05, target_modules=recipe.targets, task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
        # What transformers, PEFT and TRL do for gradient_checkpointing=True on a PEFT model.
        base.enable_input_require_grads()
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        config = TrainConfig(
            model="-", data="-", output_dir="-", run_id="-", quantization=quantization,
            activation_checkpointing=recipe.checkpointing,
        )  # fmt: skip
        model = add_lora(base, config, find_anatomy(base.config))
    if recipe.head == "ours":
        install_supervised_head(base)
    else:
        add_fused_lm_head(base, outputs=TRL_OUTPUTS)
    return model


def tflop(recipe: Recipe, model: Any, *, tokens: int, scored: int) -> float:
    """TFLOP of one sample's forward and backward pass."""

    def zeros(*size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.long, device="meta")

    batch = {name: zeros(1, tokens) for name in ("input_ids", "attention_mask", "token_type_ids")}
    batch["pixel_values"] = torch.zeros(1, 3, 896, 896, dtype=torch.bfloat16, device="meta")
    with FlopCounterMode(display=False) as counter:
        if recipe.head == "ours":
            model(**batch, loss_positions=zeros(scored), loss_targets=zeros(scored))["loss_sum"].backward()
        else:
            # What TRL's forward does with the states, which it picks by a mask that has no values here.
            base = model.get_base_model()
            states = base.base_model(**batch, use_cache=False).last_hidden_state
            picked = states[0, : tokens - 1 if recipe.all_scored else scored]
            weight = base.get_output_embeddings().weight
            tiles = (1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, TRL_OUTPUTS)
            with patch.object(torch, "is_autocast_enabled", lambda *_: False):  # which does not know meta tensors
                per_token = _ChunkedLogProbFunction.apply(picked, weight, None, zeros(len(picked)), *tiles)
            per_token[0].sum().backward()
    return counter.get_total_flops() / 1e12


def count() -> dict[str, list[float]]:
    """TFLOP a sample at each of LENGTHS, by recipe."""
    found = {}
    for recipe in (recipe for recipe in RECIPES if recipe.counted):
        model = build(recipe)
        found[recipe.name] = [tflop(recipe, model, tokens=t, scored=s) for t, s in LENGTHS]
    return found


def table(found: dict[str, list[float]]) -> str:
    """The result of `count` as a Markdown table."""
    ours = next(iter(found.values()))
    heads = " | ".join(f"{tokens} tokens, {scored} scored | times ours" for tokens, scored in LENGTHS)
    lines = [f"| TFLOP a sample | {heads} |", f"|---|{'---|---|' * len(LENGTHS)}"]
    for name, counts in found.items():
        cells = " | ".join(f"{n:.1f} | {n / best:.1f}" for n, best in zip(counts, ours, strict=True))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(count()))
