"""What a plan says beside its figures: assumptions, what saves little, and what the finished run will need."""

from __future__ import annotations

from planner.job import JobSpec
from planner.memory.estimate import estimate, merge_bytes, without_tower
from planner.plan import Candidate
from trainer.text import gib

LITTLE = 0.1  # of the usable memory: a plan calls smaller savings little


def notes_on(spec: JobSpec, chosen: Candidate) -> list[str]:
    """Sentences for a person about a plan whose candidate is chosen."""
    training, records = spec.training, spec.records
    notes = []
    if chosen.label == records.measured_with:
        notes.append(
            f"Micro-batch {records.measured_batch} was measured to fit, with {records.measured_peak_gib:.2f} GiB at "
            "its peak (find-batch-size, beside the data); what stands below is predicted."
        )
    if not chosen.fits:
        over = gib(chosen.estimate.peak_bytes - chosen.usable_bytes)
        notes.append(f"CONFIG={training.accelerate_config} was asked for; it is predicted to overflow by {over} GiB.")
    if spec.shape.expert_params:
        notes.append(_experts_note(spec))
    if without_tower(spec, chosen.config):
        notes.append("The features of all pictures are kept: the image tower never reaches the GPU.")
        whole = estimate(
            spec.but(features_ahead=None), config=chosen.config, checkpointing=chosen.checkpointing,
            offload=chosen.offload, optimizer=chosen.optimizer, micro_batch_size=chosen.micro_batch_size,
        )  # fmt: skip
        more = gib(whole.peak_bytes - chosen.estimate.peak_bytes)
        notes.append(f"A run that has to load the image tower after all says why, and needs {more} GiB more.")
    if spec.too_short_for_pictures:
        notes.append(f"{spec.too_short_for_pictures}, unless the records are text alone.")
    if unmeasured := spec.assumed_pictures:
        notes.append(unmeasured)
    if spec.resources.device == "mps":
        notes.append(
            "DEVICE=mps: nobody has run this on Apple's GPU yet. It trains without 4 bits, in fp32; what PyTorch "
            "cannot do there, it does on the CPU."
        )
    if spec.resources.device == "cpu" and spec.resources.gpus:
        notes.append("DEVICE=cpu: planned as for GPUs, but it will run on the CPU (for test beds with pretend GPUs).")
    if spec.num_processes > 1 and training.quantization == "nf4":
        notes.append(_zero3_note(spec, chosen.usable_bytes))
    return notes


def merge_note(spec: JobSpec, chosen: Candidate) -> list[str]:
    """A note where the GPU that trains the model cannot merge it afterwards."""
    size, host = merge_bytes(spec), merge_bytes(spec, on_cpu=True)
    if chosen.config == "cpu_mps" or size <= chosen.usable_bytes:
        return []
    return [
        f"Merging the finished run takes {gib(size)} GiB on one GPU, for all weights in 16 bits; or python -m trainer "
        f"merge --run runs/RUN --device cpu, which takes {gib(host)} GiB of host memory."
    ]


def _experts_note(spec: JobSpec) -> str:
    """A note that 4 bits do little for a mixture of experts, with the size that they would otherwise give."""
    experts = spec.shape.expert_params
    share = experts / spec.shape.total_params
    packed = "" if spec.training.quantization == "none" else f"; in 4 bits they would take {gib(experts // 2)}"
    return (
        f"{share:.0%} of the weights are fused experts, which bitsandbytes does not pack and LoRA does not adapt: they "
        f"stay at 16 bits, {gib(2 * experts)} GiB{packed}. Only what is beside them is trained."
    )


def _zero3_note(spec: JobSpec, usable_bytes: int) -> str:
    """A note on the memory that sharding saves over DDP, all else equal: little when 4-bit weights are small beside
    the card."""
    ddp, zero = (
        estimate(
            spec, config=config, checkpointing=True, offload=False, optimizer="adamw", micro_batch_size=1
        ).peak_bytes
        for config in ("multi_gpu", "deepspeed_zero3")
    )
    saved = ddp - zero
    gain = "gains nothing" if saved <= 0 else "gains little" if saved < LITTLE * usable_bytes else "helps"
    return (
        f"ZeRO-3 {gain} here: {gib(zero)} GiB a GPU where DDP takes {gib(ddp)} (micro-batch 1, "
        "checkpointing). What is sharded is gathered again to be used, and loading puts the whole 4-bit "
        "model on every GPU first."
    )
