"""Activations that a forward pass keeps for the backward: bytes a token and layer, term by term.

The number of values that a layer keeps was counted on the model's own layers (trainer/measure/trace.py), with the
inputs of norms in fp32. For Gemma 3 and Llama the sums agreed with the allocations that remained after the forward
within 0.1 %. Attention is sdpa's fused kernel, which saves no scores. `width` is bytes a value: 2, or 4 on CPU.
"""

from __future__ import annotations

from planner.job import JobSpec
from trainer.architecture.shape import Layer, ModelShape

FP32_BYTES = 4
MASK_BYTES = 1  # CUDA's dropout keeps a bool for each value, the CPU's a whole value
ROW_STATISTICS_BYTES = 64  # log-sum-exp of each head, reciprocal roots of the norms


def layer_bytes(spec: JobSpec, layer: Layer, *, width: int) -> int:
    """Bytes that one decoder layer of that sort keeps for one token."""
    layer = layer.adapted(spec.training.lora_targets)
    kept = FP32_BYTES * layer.fp32_values + width * layer.values
    masks = (
        width * layer.pair_values * spec.training.max_length
    )  # this token's row of the mask, converted in every layer
    lora = width * layer.adapters * spec.training.lora_r
    return kept + masks + lora + _lora_inputs(spec, layer, width=width) + ROW_STATISTICS_BYTES


def layers_bytes(spec: JobSpec, *, width: int, checkpointing: bool) -> int:
    """Bytes that all decoder layers keep for one token: with checkpointing the input of each, and whole what stands
    outside the layers."""
    return sum(
        layer.count
        * (spec.shape.hidden * width if checkpointing and layer.recomputed else layer_bytes(spec, layer, width=width))
        for layer in spec.shape.layers
    )


def _lora_inputs(spec: JobSpec, layer: Layer, *, width: int) -> int:
    """Bytes of the adapters' inputs. With dropout each adapter has its own copy and mask; without it copies are
    shared, except that PEFT's adapter on an unquantized linear goes through fp32 and back."""
    if spec.training.lora_dropout:
        return layer.adapter_inputs * (width + (MASK_BYTES if width == 2 else width))
    return width * (layer.kept_inputs if spec.training.quantization == "nf4" else layer.adapter_inputs)


def once_bytes(shape: ModelShape, *, width: int) -> int:
    """Bytes kept for one token outside the layers: embeddings before and after the image is inserted, the last norm
    and its output."""
    return shape.hidden * (3 * width + FP32_BYTES)


def layer_workspace_bytes(shape: ModelShape, layer: Layer, *, width: int) -> int:
    """Bytes for one token, on top of what is kept, while a layer is differentiated: two gradients of its widest
    value, the MLP's, and of the stream.

    Allocation peaks of a traced backward: 4f + 4h for Gemma 3 and Llama, a little less for Qwen2.5-VL.
    """
    return 2 * width * (layer.widest + shape.hidden)


def tower_bytes(shape: ModelShape, *, width: int) -> int:
    """Bytes of the frozen tower's forward for one patch: stream and normed stream (fp32 under autocast), the widest
    MLP stage.

    The forward keeps nothing for a backward. Three MLP-wide values occur in a gated MLP (Qwen2.5-VL); SigLIP's has
    two.
    """
    return 4 * width * shape.vision_hidden + 3 * width * shape.vision_mlp


def tower_layer_bytes(spec: JobSpec, *, width: int) -> int:
    """Bytes that one layer of a tower with adapters (vision=lora) keeps for one patch, as counted by
    trainer/measure/tower.py."""
    s = spec.shape
    layers = max(1, s.vision_layers)
    dropped = (
        s.vision_linears_in // layers * (width + (MASK_BYTES if width == 2 else width))
        if spec.training.lora_dropout
        else 0
    )
    adapters = s.vision_linears // layers
    return width * s.vision_values + dropped + width * adapters * spec.training.lora_r + ROW_STATISTICS_BYTES
