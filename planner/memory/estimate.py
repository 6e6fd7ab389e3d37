"""The memory that one GPU needs for a job: an itemised prediction in bytes, from sizes alone.

This file measures nothing and imports no torch, so a login node can use it. Weights and training state are counts
times widths. The peak is the largest of three: loading, a step, an evaluation. Saving never is, because it adds to
the memory between two steps at most one weight of the adapter. Three moments of an optimizer step compete for the
same memory (the tower's forward, the head, the first backward of a layer); the largest is the step's peak, and items
that are not alive at that moment are listed as 0.

The prediction relies on choices of the trainer: sdpa attention, AdamW without temporaries (fused, or bitsandbytes'),
the chunked head, ZERO3_SETTINGS under DeepSpeed.
"""

from __future__ import annotations

from planner.job import JobSpec
from planner.memory.activations import (
    layer_bytes,
    layer_workspace_bytes,
    layers_bytes,
    once_bytes,
    tower_bytes,
    tower_layer_bytes,
)
from planner.memory.evaluation import evaluation_items
from planner.plan import Estimate
from trainer.architecture.head_chunk import BYTES_PER_LOGIT, chunk_positions
from trainer.config import ZERO3_SETTINGS, Optimizer
from trainer.text import GIB

MIB = 1024**2
BF16_BYTES = 2
FP32_BYTES = 4

# NF4 with double quantization: QLoRA, arXiv:2305.14314, section 3, with bitsandbytes' block sizes.
NF4_BYTES_PER_PARAM = 0.5
ABSMAX_BLOCK = 64  # weights that share an int8 absmax
NESTED_BLOCK = 256  # absmax values that share an fp32 constant

# AdamW keeps two fp32 moments; bitsandbytes' 8-bit one two bytes, and two fp32 constants a block of 256. Its
# pages can move to the host under pressure; they are counted as if they never did.
ADAMW_BYTES_PER_PARAM = 8.0
ADAMW_8BIT_BYTES_PER_PARAM = 2 + 2 * FP32_BYTES / 256

# Memory on the card besides torch's tensors. Usual figures, not measured by this project.
CUDA_CONTEXT_BYTES = 500 * MIB
CUBLAS_WORKSPACE_BYTES = 64 * MIB  # 32 MiB on Hopper, less before; one for the forward, one for the backward thread
NCCL_BYTES = 400 * MIB  # the channels' buffers of one communicator
HOST_PROCESS_BYTES = 1536 * MIB  # Python with torch, transformers and trl: runs on the CPU only
ROUNDING_SHARE = 0.03  # blocks of 512 bytes and 2 MiB, and holes between them


def estimate(
    spec: JobSpec, *, config: str, checkpointing: bool, offload: bool, optimizer: Optimizer, micro_batch_size: int
) -> Estimate:
    """Predicted bytes on one GPU (in host memory for cpu_mps), every item of every configuration, in one order."""
    on_cpu, sharded = config == "cpu_mps", config == "deepspeed_zero3"
    width = FP32_BYTES if on_cpu else BF16_BYTES
    towerless = without_tower(spec, config)
    whole = _weights(spec, width=width, towerless=towerless)
    state = _training_state(spec, optimizer, sharded=sharded, offload=offload)
    fixed = _process(spec, on_cpu=on_cpu)
    tensors = {
        **(_shard(spec, whole) if sharded else {**whole, "gathered weights": 0}),
        **state,
        "communication buckets": _buckets(spec, config),
        **_transient(
            spec, micro_batch_size, width=width, checkpointing=checkpointing, sharded=sharded, towerless=towerless
        ),
    }
    evaluation = evaluation_items(spec, tensors, width=width, sharded=sharded, towerless=towerless)
    for items in filter(None, (tensors, evaluation)):
        items["allocator rounding"] = _ceil(sum(items.values()) * ROUNDING_SHARE)
    # ZeRO-3 does not reduce the loading peak: the whole model is on each GPU before anything is sharded, put there by
    # bitsandbytes, or without 4 bits by DeepSpeed's engine: zero3_init_flag is false, so no weight is sharded while
    # loading.
    one_layer = _largest_layer(spec) * width
    loading = _ceil((sum(whole.values()) + one_layer) * (1 + ROUNDING_SHARE)) + sum(fixed.values())
    return Estimate(
        items=tuple({**tensors, **fixed}.items()),
        load_peak_bytes=loading,
        evaluation=tuple({**evaluation, **fixed}.items()) if evaluation else (),
    )


def without_tower(spec: JobSpec, config: str) -> bool:
    """Whether a job with that configuration loads no image tower, since all features are kept. Records without pictures
    have none, and the model is loaded whole."""
    return bool(spec.records.features_ahead and spec.records.images_per_sample) and config != "deepspeed_zero3"


def merge_bytes(spec: JobSpec, *, on_cpu: bool = False) -> int:
    """Bytes on one GPU while `merge` puts a finished run's adapter into weights of 16 bits, which all are there at
    once; on the CPU bytes of host memory, for weights of 32 bits. (`infer` needs less than an evaluation: it has no
    optimizer.)"""
    width = FP32_BYTES if on_cpu else BF16_BYTES
    whole = _weights(spec.but(quantization="none"), width=width, towerless=False)
    tensors = sum(whole.values()) + spec.lora_params * FP32_BYTES
    process = HOST_PROCESS_BYTES if on_cpu else CUDA_CONTEXT_BYTES + CUBLAS_WORKSPACE_BYTES
    return _ceil(tensors * (1 + ROUNDING_SHARE)) + process


def _largest_layer(spec: JobSpec) -> int:
    """Weights that are on the GPU twice while the model loads: a layer's linears until they are packed, and its
    experts, which are loaded one by one and then joined."""
    packed = spec.training.quantization == "nf4"
    return max((layer.linear_params if packed else 0) + layer.expert_params for layer in spec.shape.layers)


def processes_gib(spec: JobSpec) -> int:
    """GiB of host memory that a node's processes take before anything is loaded."""
    return _ceil(max(1, spec.resources.gpus) * HOST_PROCESS_BYTES / GIB)


def _ceil(size: float) -> int:
    return int(-(-size // 1))


def _weights(spec: JobSpec, *, width: int, towerless: bool) -> dict[str, int]:
    """Bytes of the whole frozen model."""
    shape, n = spec.shape, spec.shape.linear_params
    linears, constants = n * width, 0
    if spec.training.quantization == "nf4":
        linears = _ceil(n * NF4_BYTES_PER_PARAM)
        constants = _ceil(n / ABSMAX_BLOCK) + _ceil(n / (ABSMAX_BLOCK * NESTED_BLOCK)) * FP32_BYTES
    return {
        "language model": linears,
        "quantization constants": constants,
        "experts in 16 bits": shape.expert_params * width,
        "embedding and head": (shape.embedding_params + shape.head_params + shape.text_extra_params) * width,
        "image tower": 0 if towerless else (shape.vision_params + shape.projector_params) * width,
    }


def _shard(spec: JobSpec, whole: dict[str, int]) -> dict[str, int]:
    """Bytes of the frozen model under ZeRO-3: this rank's share, and the weights gathered at the peak.

    The constants belong to bitsandbytes' quantization state, which DeepSpeed does not see. A parameter is gathered
    whole: the largest is a tied embedding, or the head.
    """
    world, shape = spec.num_processes, spec.shape
    shares = {name: _ceil(size / world) for name, size in whole.items()}
    shares["quantization constants"] = whole["quantization constants"]
    live = ZERO3_SETTINGS["stage3_max_live_parameters"] + ZERO3_SETTINGS["stage3_prefetch_bucket_size"]
    layers = whole["language model"] + whole["experts in 16 bits"]
    gathered = min(live * BF16_BYTES, layers) + shape.embedding_params * BF16_BYTES
    return {**shares, "gathered weights": gathered}


def _training_state(spec: JobSpec, optimizer: Optimizer, *, sharded: bool, offload: bool) -> dict[str, int]:
    """Bytes of fp32 adapters with their gradients and moments; under DeepSpeed's bf16 engine bf16 adapters and
    gradients with fp32 masters, all in shards."""
    lora = spec.lora_params
    per_param = ADAMW_BYTES_PER_PARAM if optimizer == "adamw" else ADAMW_8BIT_BYTES_PER_PARAM
    if not sharded:
        fp32 = lora * FP32_BYTES
        return {"LoRA weights": fp32, "gradients": fp32, "optimizer": _ceil(lora * per_param)}
    share = -(-lora // spec.num_processes)
    masters, moments = (0, 0) if offload else (share * FP32_BYTES, _ceil(share * per_param))
    return {"LoRA weights": share * BF16_BYTES + masters, "gradients": share * BF16_BYTES, "optimizer": moments}


def _buckets(spec: JobSpec, config: str) -> int:
    """Bytes of the buckets for communication: DDP copies every gradient into flat fp32 buckets; DeepSpeed reduces
    through one bucket of a fixed size."""
    if config == "multi_gpu":
        return spec.lora_params * FP32_BYTES
    return ZERO3_SETTINGS["reduce_bucket_size"] * BF16_BYTES if config == "deepspeed_zero3" else 0


def _transient(
    spec: JobSpec, micro: int, *, width: int, checkpointing: bool, sharded: bool, towerless: bool
) -> dict[str, int]:
    """The bytes that live for a part of a step, at the moment of their largest sum."""
    shape, tokens = spec.shape, micro * spec.training.max_length
    kept = layers_bytes(spec, width=width, checkpointing=checkpointing) + once_bytes(shape, width=width)
    activations = tokens * kept
    patches = micro * spec.patches_per_sample if spec.training.vision == "lora" else 0
    tower_layer = patches * tower_layer_bytes(spec, width=width)
    stream = patches * shape.vision_hidden * width
    tower = shape.vision_layers * (stream if checkpointing else tower_layer)
    activations += tower
    # Autocast keeps a bf16 copy of each fp32 adapter while the forward runs. Then only the graph holds them, and with
    # checkpointing the graph is that of the one layer that is computed again.
    in_bf16 = 0 if sharded or width == FP32_BYTES else BF16_BYTES * spec.training.lora_r
    copies = in_bf16 * spec.lora_params // spec.training.lora_r
    tuned = [layer.adapted(spec.training.lora_targets) for layer in shape.layers]
    of_layer = in_bf16 * max(layer.adapter_inputs + layer.adapter_outputs for layer in tuned)
    of_tower = in_bf16 * (shape.vision_linears_in + shape.vision_linears_out) * (spec.training.vision == "lora")
    scored = micro * spec.records.supervised_tokens
    head = min(scored, chunk_positions(shape.vocab, sharded=sharded)) * shape.vocab * BYTES_PER_LOGIT
    head += 2 * scored * shape.hidden * width
    dequantized = shape.largest_linear * width if spec.training.quantization == "nf4" else 0
    backward = dequantized + tokens * max(
        (layer_bytes(spec, layer, width=width) if checkpointing else 0)
        + layer_workspace_bytes(shape, layer, width=width)
        for layer in shape.layers
    )
    tower_forward = 0 if towerless else tower_forward_bytes(spec, micro, width=width)
    moments: tuple[dict[str, int], ...] = (
        {"autocast copies": copies, "activations": activations, "head": head},
        {
            "autocast copies": of_layer if checkpointing else copies,
            "activations": activations,
            "backward of a layer": backward,
        },
        # The end of a step with vision=lora; by then the language model keeps nothing.
        {"autocast copies": of_tower, "activations": tower, "backward of a layer": tower_layer},
        {"image tower forward": tower_forward},
    )
    peak = max(moments, key=lambda moment: sum(moment.values()))
    return {name: peak.get(name, 0) for moment in moments for name in moment}


def tower_forward_bytes(spec: JobSpec, micro: int, *, width: int) -> int:
    """Bytes that the frozen tower takes for the pictures of `micro` samples at once."""
    return micro * spec.patches_per_sample * tower_bytes(spec.shape, width=width)


def _process(spec: JobSpec, *, on_cpu: bool) -> dict[str, int]:
    return {
        "NCCL": NCCL_BYTES if spec.num_processes > 1 and not on_cpu else 0,
        "CUDA context": 0 if on_cpu else CUDA_CONTEXT_BYTES + CUBLAS_WORKSPACE_BYTES,
        "Python process": HOST_PROCESS_BYTES if on_cpu else 0,
    }
