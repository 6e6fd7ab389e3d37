"""The verbs as TO=slurm has them, and submit for plans that are made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from launcher import resuming, verbs
from launcher.grid import Sweep
from launcher.scheduler import Batch
from planner.plan import Plan
from slurm import submit as submitting
from slurm.cluster.sbatch import overrides
from slurm.scheduler import SCHEDULER

status, logs, cancel, list_runs, resume = (
    partial(verb, SCHEDULER) for verb in (verbs.status, verbs.logs, verbs.cancel, verbs.list_runs, resuming.resume)
)
__all__ = ["Submitted", "cancel", "list_runs", "logs", "resume", "status", "submit", "submit_sweep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    job_id: str
    ignored: tuple[str, ...]


def submit(plan: Plan, environ: Mapping[str, str]) -> Submitted:
    job_id = submitting.submit(Batch(plans=(plan,)), environ)
    return Submitted(job_id=job_id, ignored=overrides(environ))


def submit_sweep(sweep: Sweep, environ: Mapping[str, str]) -> str:
    return submitting.submit(Batch(plans=sweep.plans, sweep=sweep), environ)
