"""No FLOP is wasted at Gemma 3 4B's true shape: counted by PyTorch on tensors without memory."""

from __future__ import annotations

import pytest

GEMMA3_4B_TEXT = {
    "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024,
}  # fmt: skip
GEMMA3_4B_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 896, "patch_size": 14,
}  # fmt: skip


def step_tflop(*, tokens: int, supervised: int, checkpointing: bool) -> float:
    """TFLOP of one sample's forward and backward pass through the model as the trainer builds it, r=64."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForImageTextToText, Gemma3Config

    from trainer.config import TrainConfig
    from trainer.head import install_supervised_head
    from trainer.model import add_lora, find_anatomy

    shape = Gemma3Config(text_config=GEMMA3_4B_TEXT, vision_config=GEMMA3_4B_VISION, mm_tokens_per_image=256)
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(
            shape, attn_implementation="sdpa", dtype=torch.bfloat16
        )
    config = TrainConfig(
        model="-",
        data="-",
        output_dir="-",
        run_id="-",
        quantization="none",
        activation_checkpointing=checkpointing,
    )
    model = add_lora(base, config, find_anatomy(shape)).to(torch.bfloat16).train()
    install_supervised_head(base)
    # The model compares the number of image tokens with the features', and meta tensors have no values.
    image = base.config.image_token_id
    base.model.get_placeholder_mask = lambda ids, inputs_embeds, image_features: (ids == image).unsqueeze(-1)

    def zeros(*size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.long, device="meta")

    with FlopCounterMode(display=False) as counter:
        outputs = model(
            input_ids=zeros(1, tokens),
            attention_mask=zeros(1, tokens),
            token_type_ids=zeros(1, tokens),
            pixel_values=torch.zeros(1, 3, 896, 896, dtype=torch.bfloat16, device="meta"),
            loss_positions=zeros(supervised),
            loss_targets=zeros(supervised),
        )
        outputs["loss_sum"].backward()
    return counter.get_total_flops() / 1e12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "supervised", "checkpointing", "most"),
    [(330, 16, True, 12.5), (330, 16, False, 10.3), (900, 80, False, 18.6)],
)
def test_a_step_computes_no_more_than_it_must(
    tokens: int, supervised: int, checkpointing: bool, most: float
) -> None:
    found = step_tflop(tokens=tokens, supervised=supervised, checkpointing=checkpointing)
    assert 0.9 * most < found <= most
