"""The command and environment of a job, from its request and the chosen candidate."""

from __future__ import annotations

from planner.job import JobSpec
from planner.plan import Candidate
from trainer.config import SETTINGS
from trainer.flags import word
from trainer.launch import PEAK_ENV, PLANNED_ENVIRONMENT, VRAM_ENV, Launch, shipped
from trainer.outcome import SWEEP_ENV
from trainer.spellings import ALLOCATOR, FORMER_ALLOCATOR
from trainer.text import GIB


def launch_of(spec: JobSpec, candidate: Candidate) -> Launch:
    """The job's command, run in the checkout."""
    return Launch(
        configuration=shipped(candidate.config),
        processes=spec.num_processes,
        machines=spec.resources.nodes,
        overrides=_overrides(spec, candidate),
        module="trainer.train",
        settings=_settings(spec, candidate),
    )


def _overrides(spec: JobSpec, candidate: Candidate) -> tuple[str, ...]:
    """Options for the keys of its YAML that a candidate changes; in `accelerate launch` the command line overrides
    the file."""
    offload = ("--offload_optimizer_device", "cpu") if candidate.offload else ()
    # A single process gets ACCELERATE_USE_CPU from this flag, whatever the environment holds; with several processes
    # the flag would make accelerate start only one, and the environment decides.
    cpu = ("--cpu",) if spec.resources.device == "cpu" and spec.num_processes == 1 else ()
    return (*offload, *cpu)


def _settings(spec: JobSpec, candidate: Candidate) -> dict[str, str]:
    """Every setting that is also a field of the request or the plan, by its own name."""
    decided = {
        "output_dir": spec.run_dir,
        "world_size": spec.num_processes,
        "activation_checkpointing": candidate.checkpointing,
    }
    asked = spec.values()
    found = {name: decided.get(name, getattr(candidate, name, asked.get(name))) for name in SETTINGS}
    values = {name: value for name, value in found.items() if value is not None}
    if spec.training.config_file is not None:
        # With this mark, a file that contradicts a decision of the plan is refused instead of overridden.
        values |= {"config": spec.training.config_file, "planned": True}
    return {name: word(value) for name, value in values.items()}


def launch_env(spec: JobSpec, candidate: Candidate) -> tuple[tuple[str, str], ...]:
    """Environment of every process of the job, sorted by name; never a secret."""
    env = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # accelerate sets 1 thread a process when the variable is missing.
        "OMP_NUM_THREADS": str(max(1, spec.resources.cpus // max(1, spec.resources.gpus))),
        "TOKENIZERS_PARALLELISM": PLANNED_ENVIRONMENT["TOKENIZERS_PARALLELISM"],
    }
    if spec.sweep:
        env["WANDB_RUN_GROUP"] = spec.sweep
    if spec.wandb_sweep:
        env[SWEEP_ENV] = spec.wandb_sweep
    if spec.resources.device == "cpu":
        # Threads that spin while they wait take cores from other processes.
        env["OMP_WAIT_POLICY"] = "passive"
    if spec.resources.device == "cuda":
        env[ALLOCATOR] = PLANNED_ENVIRONMENT[ALLOCATOR]
        # For the check of the node's GPUs before the launcher starts.
        env[VRAM_ENV] = f"{spec.resources.vram_gib:g}"
        measured = spec.records.measured_peak_gib if candidate.label == spec.records.measured_with else 0
        env[PEAK_ENV] = f"{measured or candidate.estimate.peak_bytes / GIB:.2f}"
    elif candidate.config == "deepspeed_zero3":
        env["DS_ACCELERATOR"] = "cpu"  # with ACCELERATE_USE_CPU accelerate would leave DeepSpeed out
    elif spec.resources.device == "mps":
        env["PYTORCH_ENABLE_MPS_FALLBACK"] = "1"  # operations that Apple's GPU lacks run on the CPU
    else:
        env["ACCELERATE_USE_CPU"] = "true"
    asked = dict(spec.environment)
    if FORMER_ALLOCATOR in asked:
        env.pop(ALLOCATOR, None)  # torch would read it instead
    return tuple(sorted({**env, **asked}.items()))
