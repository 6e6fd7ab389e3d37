"""The command and environment of a job, from what was asked for and the candidate that was chosen."""

from __future__ import annotations

from planner.job import Candidate, JobSpec
from trainer.flags import word
from trainer.launch import Launch, shipped
from trainer.node.gpus import PEAK_ENV, VRAM_ENV
from trainer.outcome import SWEEP_ENV
from trainer.text import GIB


def launch_of(spec: JobSpec, candidate: Candidate) -> Launch:
    """The job's command, run in the checkout."""
    return Launch(
        configuration=shipped(candidate.config),
        processes=spec.num_processes,
        machines=spec.nodes,
        overrides=_overrides(spec, candidate),
        module="trainer.train",
        settings=_settings(spec, candidate),
    )


def _overrides(spec: JobSpec, candidate: Candidate) -> tuple[str, ...]:
    """What one candidate changes in its YAML; `accelerate launch` lets the command line win."""
    offload = ("--offload_optimizer_device", "cpu") if candidate.offload else ()
    # A single process gets ACCELERATE_USE_CPU from this flag, whatever the environment says; with several
    # processes the flag would make accelerate start one only, and the environment decides.
    cpu = ("--cpu",) if spec.device == "cpu" and spec.num_processes == 1 else ()
    return (*offload, *cpu)


def _settings(spec: JobSpec, candidate: Candidate) -> dict[str, str]:
    values: dict[str, str | int | float | bool] = {
        "model": spec.model,
        "data": spec.data,
        "output_dir": spec.run_dir,
        "run_id": spec.run_id,
        "device": spec.device,
        "world_size": spec.num_processes,
        "micro_batch_size": candidate.micro_batch_size,
        "gradient_accumulation_steps": candidate.gradient_accumulation_steps,
        "activation_checkpointing": candidate.checkpointing,
        "optimizer": candidate.optimizer,
        "quantization": spec.quantization,
        "vision": spec.vision,
        "lora_r": spec.lora_r,
        "lora_alpha": spec.lora_alpha,
        "lora_dropout": spec.lora_dropout,
        "max_length": spec.max_length,
        "max_steps": spec.max_steps,
        "learning_rate": spec.learning_rate,
        "seed": spec.seed,
    }
    if spec.config_file is not None:
        # So marked, a file that contradicts what was decided here is refused instead of overridden.
        values |= {"config": spec.config_file, "planned": True}
    return {name: word(value) for name, value in values.items()}


def launch_env(spec: JobSpec, candidate: Candidate) -> tuple[tuple[str, str], ...]:
    """Environment of every process of the job, sorted by name; never a secret."""
    env = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # accelerate sets 1 thread a process when it finds nothing.
        "OMP_NUM_THREADS": str(max(1, spec.cpus // max(1, spec.gpus))),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if spec.sweep:
        env["WANDB_RUN_GROUP"] = spec.sweep
    if spec.wandb_sweep:
        env[SWEEP_ENV] = spec.wandb_sweep
    if spec.device == "cpu":
        # Threads that spin while they wait take the cores from whatever shares them.
        env["OMP_WAIT_POLICY"] = "passive"
    if spec.device == "cuda":
        # Sequence lengths vary from batch to batch; fixed segments would fragment. (PYTORCH_CUDA_ALLOC_CONF
        # before 2.9.)
        env["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        # For the look at the node's GPUs before the launcher starts.
        env[VRAM_ENV] = f"{spec.vram_gib:g}"
        measured = spec.measured_peak_gib if candidate.label == spec.measured_with else 0
        env[PEAK_ENV] = f"{measured or candidate.estimate.peak_bytes / GIB:.2f}"
    elif candidate.config == "deepspeed_zero3":
        env["DS_ACCELERATOR"] = "cpu"  # with ACCELERATE_USE_CPU accelerate would leave DeepSpeed out
    else:
        env["ACCELERATE_USE_CPU"] = "true"
    return tuple(sorted({**env, **dict(spec.environment)}.items()))
