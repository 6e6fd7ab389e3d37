"""The verbs that come after submit, as TO=slurm has them."""

from __future__ import annotations

from functools import partial

from launcher import verbs
from slurm.resume import resume
from slurm.scheduler import SCHEDULER

status, logs, cancel, list_runs = (
    partial(verb, SCHEDULER) for verb in (verbs.status, verbs.logs, verbs.cancel, verbs.list_runs)
)
__all__ = ["cancel", "list_runs", "logs", "resume", "status"]
