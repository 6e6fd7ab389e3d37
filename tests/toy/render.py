"""Plan -> the job's script."""

from __future__ import annotations

import shlex

from planner.plan import Plan


def render(plan: Plan) -> str:
    """The supervisor is the job's first process, whatever the scheduler: it stops in order and says how it ended."""
    settings = [f"{name}={value}" for name, value in plan.env]
    python = f".venv/{plan.spec.resources.device}/bin/python"
    words = ["env", *settings, python, "-m", "trainer.supervise", "--", *plan.launch.words()]
    # The shell outlives the signal to stop, to write down how the supervisor ended.
    return f'trap : TERM\n{shlex.join(words)}\necho $? >"$1"\n'
