"""A plan for a card of some size, carried out under that card's limit: does it fit, and what was predicted?

The job is the one that a run starts, with real steps and an evaluation (local/measure/memory_profile.py).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.gpu_proof.stage import Stage
from local.measure.batch_size import PROJECT_DIR, request_here
from local.measure.memory_profile import LIMIT_ENV, OUT_OF_MEMORY
from planner.choose import choose
from planner.job import JobSpec
from planner.launch import launch_env, launch_of
from planner.memory.estimate import CUBLAS_WORKSPACE_BYTES, CUDA_CONTEXT_BYTES
from planner.plan import Candidate
from trainer.log import last_words
from trainer.outcome import ConfigError
from trainer.supervise import complete_command
from trainer.text import GIB

EFFECTIVE_BATCH = "32"  # so that a large card is filled
ZERO3_ON_CPU = f"{PROJECT_DIR}/tests/zero3_on_cpu"  # lets DeepSpeed start without a GPU, in a rehearsal


def carry_out(
    stage: Stage, *, card_gib: float, tokens: int, words: Sequence[str], zero3: str | None = None
) -> dict[str, Any]:
    asked = [
        "--model", stage.model, "--data", stage.data(tokens), "--max-length", str(stage.tokens(tokens)),
        "--effective-batch", EFFECTIVE_BATCH, "--gpus", "1", "--vram", f"{card_gib:g}", "--device", stage.device,
        *words,
    ]  # fmt: skip
    _, spec = request_here(asked)
    plan = choose(spec)
    candidate = sharded(plan.chosen, offload=zero3 == "offload") if zero3 else plan.chosen
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment = {**inherited, **dict(launch_env(plan.spec, candidate))}
    if stage.rehearsal and zero3:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (ZERO3_ON_CPU, environment.get("PYTHONPATH"))))
    if not stage.rehearsal:
        # torch's own share: what its context takes is outside of the limit that torch keeps.
        limit = candidate.usable_bytes - CUDA_CONTEXT_BYTES - CUBLAS_WORKSPACE_BYTES
        environment[LIMIT_ENV] = f"{limit / GIB:.3f}"
    report = profile(plan.spec, candidate, environment)
    return {"config": candidate.label, "micro_batch_size": candidate.micro_batch_size, "tokens": tokens, **report}


def sharded(chosen: Candidate, *, offload: bool) -> Candidate:
    """The plan's ZeRO-3 candidate, which the plan offers only for several GPUs, at one sample."""
    alone = {"micro_batch_size": 1, "gradient_accumulation_steps": int(EFFECTIVE_BATCH)}
    return replace(
        chosen, config="deepspeed_zero3", checkpointing=True, offload=offload, optimizer="adamw", **alone
    )  # fmt: skip


def profile(spec: JobSpec, candidate: Candidate, environment: dict[str, str]) -> dict[str, Any]:
    """The job's measurements; no stages when memory was lacking. Raises ConfigError when it failed for another
    reason."""
    run = launch_of(spec, candidate)
    launch = replace(run, module="local.measure.memory_profile", settings={**run.settings, "json": "true"})
    command, variables = complete_command(launch, environment)
    done = subprocess.run(
        command, cwd=PROJECT_DIR, env={**environment, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return {"fits": True, **json.loads(done.stdout[done.stdout.index("{\n") :])}
    if OUT_OF_MEMORY in done.stderr:
        return {"fits": False, "said": last_words(done.stderr)}
    raise ConfigError(last_words(done.stderr))
