"""A prediction (Estimate), a strategy that was tried (Candidate) and the decision (Plan). A Plan is data: every
scheduler renders the same Plan, `plan` prints it, and run.json keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from planner.job import JobSpec
from trainer.config import Optimizer
from trainer.launch import Launch

TIGHT_SHARE = 0.9  # of the usable memory; a plan that needs more is called tight


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Predicted bytes on one GPU."""

    items: tuple[tuple[str, int], ...]
    """(name, bytes) of everything alive at the peak of an optimizer step, in a fixed order."""
    load_peak_bytes: int
    """The most bytes alive while the model is loaded."""
    evaluation: tuple[tuple[str, int], ...] = ()
    """(name, bytes) of everything alive at the peak of an evaluation of one sequence at a time; empty without
    evaluations."""

    @property
    def evaluation_bytes(self) -> int:
        return sum(size for _, size in self.evaluation)

    @property
    def step_bytes(self) -> int:
        return sum(size for _, size in self.items)

    @property
    def peak_bytes(self) -> int:
        return max(self.step_bytes, self.load_peak_bytes, self.evaluation_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One strategy to run the job, and whether it fits."""

    config: str
    """Stem of the YAML in accelerate_configs/."""
    checkpointing: bool
    """Activation checkpointing on the language model."""
    offload: bool
    """Optimizer state in host memory (ZeRO-3 only)."""
    optimizer: Optimizer
    micro_batch_size: int
    """Samples a GPU and forward pass."""
    gradient_accumulation_steps: int
    estimate: Estimate
    usable_bytes: int
    fits: bool
    reason: str
    """Why it was chosen or not, in words."""

    measured: bool = False
    """Whether `fits` was measured by `find-batch-size`, not predicted."""

    @property
    def tight(self) -> bool:
        """Whether a prediction that is a little too low would mean that it does not fit."""
        return self.fits and not self.measured and self.estimate.peak_bytes > TIGHT_SHARE * self.usable_bytes

    @property
    def label(self) -> str:
        plain = self.config in ("single_gpu", "single_gpu_low_mem", "cpu_mps")
        options = {
            "checkpointing": self.checkpointing and not plain,
            "8-bit AdamW": self.optimizer == "paged_adamw_8bit" and not plain,
            "offload": self.offload,
        }
        extras = [option for option, on in options.items() if on]
        return " + ".join([self.config, *extras])


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The job that will run, and why. Every scheduler renders the same Plan."""

    spec: JobSpec
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    """All candidates in the order tried, with the chosen one."""
    effective_batch_size: int
    launch: Launch
    """The job's command."""
    env: tuple[tuple[str, str], ...]
    """Environment of every process of the job, sorted; never a secret."""
    notes: tuple[str, ...] = field(default=())
    """Sentences for a person: a default was rounded, a forced configuration will not fit, ..."""

    @property
    def num_processes(self) -> int:
        return self.spec.num_processes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `chosen` and `candidates` also have their totals."""
        record = {**asdict(self), "spec": self.spec.to_dict()}
        record["num_processes"] = self.num_processes
        for entry, candidate in zip(
            [record["chosen"], *record["candidates"]], [self.chosen, *self.candidates], strict=True
        ):
            entry["label"], entry["tight"] = candidate.label, candidate.tight
            entry["estimate"]["items"] = dict(candidate.estimate.items)
            entry["estimate"]["evaluation"] = dict(candidate.estimate.evaluation)
            entry["estimate"]["evaluation_bytes"] = candidate.estimate.evaluation_bytes
            entry["estimate"]["step_bytes"] = candidate.estimate.step_bytes
            entry["estimate"]["peak_bytes"] = candidate.estimate.peak_bytes
        record["launch_argv"] = self.launch.words()
        del record["launch"]
        record["env"] = dict(self.env)
        return record
