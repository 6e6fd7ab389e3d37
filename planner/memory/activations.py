"""What a forward pass keeps for the backward: bytes a token and layer, term by term.

Read off the tensors that autograd saves (torch.autograd.graph.saved_tensors_hooks on transformers 5.23 with
PEFT 0.21 in bf16 autocast) for Gemma 3, Qwen2.5-VL and Llama layers; the sums agreed with the allocations
that remained after the forward within 0.1 %. Attention is sdpa's fused kernel, which saves no scores.
`width` is bytes a value: 2, or 4 on CPU.
"""

from __future__ import annotations

from planner.job import JobSpec
from trainer.architecture.shape import ModelShape

FP32_BYTES = 4
MASK_BYTES = 1  # CUDA's dropout keeps a bool for each value; the CPU's a whole value
ROW_STATISTICS_BYTES = 64  # log-sum-exp of each head, reciprocal roots of the norms

# Gemma 3 has norms before and after both blocks, and on queries and keys; the others before both blocks only.
SANDWICH_NORM_FAMILIES = ("gemma3",)


def layer_bytes(spec: JobSpec, *, width: int) -> int:
    """Kept by one decoder layer for one token."""
    s = spec.shape
    h, f, q, kv = s.hidden, s.mlp, s.q_width, s.kv_width
    sandwich = s.family in SANDWICH_NORM_FAMILIES
    norms = FP32_BYTES * ((4 * h + q + kv) if sandwich else 2 * h)  # each norm's input, in fp32
    attention = width * 4 * q  # queries, keys and values repeated to the queries' width, output
    attention += width * spec.max_length  # this token's row of the mask, converted in every layer
    mlp = width * 3 * f  # gate before and after its activation, up
    lora = width * 7 * spec.lora_r
    return norms + attention + mlp + lora + _lora_inputs(spec, width=width) + ROW_STATISTICS_BYTES


def _lora_inputs(spec: JobSpec, *, width: int) -> int:
    """What the seven adapters read. Dropout gives each its own copy and mask; without it copies are shared,
    except that PEFT's adapter on an unquantized linear goes through fp32 and back."""
    s = spec.shape
    seven = 5 * s.hidden + s.q_width + s.mlp
    if spec.lora_dropout:
        return seven * (width + (MASK_BYTES if width == 2 else width))
    return width * (2 * s.hidden + s.mlp) if spec.quantization == "nf4" else width * seven


def once_bytes(shape: ModelShape, *, width: int) -> int:
    """Kept for one token outside the layers: embeddings before and after the image goes in, last norm and
    its output."""
    return shape.hidden * (3 * width + FP32_BYTES)


def layer_workspace_bytes(shape: ModelShape, *, width: int) -> int:
    """For one token, on top of what is kept, while a layer is differentiated: the MLP's two gradients and
    the stream's.

    Allocation peaks of a traced backward: 4f + 4h for Gemma 3 and Llama, a little less for Qwen2.5-VL.
    """
    return 2 * width * (shape.mlp + shape.hidden)


def tower_bytes(shape: ModelShape, *, width: int) -> int:
    """The frozen tower's forward for one image: stream and normed stream (fp32 under autocast), the widest
    MLP stage.

    Nothing is kept for a backward. Three MLP-wide values is a gated MLP (Qwen2.5-VL); SigLIP's has two.
    """
    return shape.vision_patches * (4 * width * shape.vision_hidden + 3 * width * shape.vision_mlp)


def tower_layer_bytes(spec: JobSpec, *, width: int) -> int:
    """Kept for one patch by one layer of a tower with adapters (vision=lora).

    Measured as above on SigLIP (22d + 4f, six adapters) and Qwen2.5-VL (28d + 8f: positions turned in fp32, a gated
    MLP), to the byte but for 2 % of constants; Qwen2-VL is counted like its successor.
    """
    s = spec.shape
    d, f = s.vision_hidden, s.vision_mlp
    of_streams, of_mlp = (14, 4) if s.family.startswith("qwen") else (11, 2)
    kept = width * (of_streams * d + of_mlp * f)
    dropped = (
        s.vision_linears_in // s.vision_layers * (width + (MASK_BYTES if width == 2 else width))
        if spec.lora_dropout
        else 0
    )
    adapters = s.vision_linears // s.vision_layers
    return kept + dropped + width * adapters * spec.lora_r + ROW_STATISTICS_BYTES
