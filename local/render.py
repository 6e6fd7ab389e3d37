"""Plan -> the command of a run on this machine, for a shell in the checkout."""

from __future__ import annotations

import shlex

from launcher.scheduler import Batch, Words
from planner.job import JobSpec
from planner.plan import Plan
from trainer.commands import training_command
from trainer.node.stop import LEAD_ENV, LIMIT_ENV, stop_lead_s

NO_LIMIT_MIN = 366 * 24 * 60
"""The largest value of TIME: a run on this machine without TIME ends only when a person ends it."""


def render(batch: Batch, more: Words) -> str:
    """The commands of the batch; `more` are variables of the environment beside the plans'."""
    return "".join(f"{_command(plan, more)}\n" for plan in batch.plans)


def environment(plan: Plan) -> dict[str, str]:
    """The supervisor's environment. On this machine the supervisor enforces TIME."""
    return {**dict(plan.env), **_limit(plan.spec)}


def _command(plan: Plan, more: Words) -> str:
    settings = shlex.join(["env", *(f"{name}={value}" for name, value in {**environment(plan), **more}.items())])
    return f"{settings} {training_command('trainer.supervise', '--', *plan.launch.words())}"


def _limit(spec: JobSpec) -> dict[str, str]:
    if spec.resources.time_limit_min == NO_LIMIT_MIN:
        return {}
    return {
        LIMIT_ENV: str(spec.resources.time_limit_min * 60),
        LEAD_ENV: str(stop_lead_s(spec.resources.time_limit_min)),
    }
