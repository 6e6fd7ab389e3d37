"""Stops a run in order: the supervisor raises a flag, and the ranks agree to leave.

The flag is a file in the attempt's node-local directory. A rank that sees the flag, or whose deadline is near, tells
the others at the next step boundary (or batch of an evaluation), and all leave together with code 75.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from trainer.files import read_json, write_whole
from trainer.node.ranks import Ranks
from trainer.outcome import ATTEMPT_DIR_ENV, FAILED, RUN_AGAIN

FLAG = "stop"
DEADLINE_ENV = "TRAINYARD_DEADLINE"  # unix seconds at which the scheduler ends this attempt
LIMIT_ENV = "TRAINYARD_TIME_LIMIT_S"  # used when only the supervisor knows when an attempt began
LEAD_ENV = "TRAINYARD_STOP_LEAD_S"
MAX_ATTEMPTS_WITHOUT_STEP = 3
ATTEMPTS_NAME = "attempts.json"


class Stopped(Exception):
    """Every rank agreed to leave. `args`: the exit code and one line for the log."""


def stop_lead_s(time_limit_min: int) -> int:
    """Seconds before the time limit at which a job is told to stop, at the latest: 120, or a quarter of a short time
    limit."""
    return min(120, time_limit_min * 60 // 4)


def asked_to_stop() -> bool:
    """Whether the supervisor of this node, if there is one, has raised the attempt's flag."""
    directory = os.environ.get(ATTEMPT_DIR_ENV)
    return directory is not None and Path(directory, FLAG).exists()


class Stop:
    """Is asked at every boundary; it answers yes on all ranks at the same time, and from then on."""

    def __init__(self, ranks: Ranks, run_dir: Path) -> None:
        self.ranks, self.run_dir = ranks, run_dir
        self.agreed = False
        self.step: int | None = None
        """The optimizer step from which a next attempt would continue; None while it is not known."""
        self.moved_on = False
        """Whether this attempt, before its first step, has left something that the next one need not make again."""
        self._deadline = float(os.environ.get(DEADLINE_ENV) or "inf")
        self._lead_s = float(os.environ.get(LEAD_ENV) or stop_lead_s(60))
        self._began = time.monotonic()
        self._longest_step_s = 0.0
        self._save_s = 0.0

    def wanted(self) -> bool:
        """Whether to stop now. Collective."""
        if not self.agreed:
            # Two steps and a save before the end, and never later than the scheduler's own warning.
            lead_s = max(self._lead_s, 2 * self._longest_step_s + self._save_s)
            self.agreed = self.ranks.any(asked_to_stop() or time.time() > self._deadline - lead_s)
        return self.agreed

    def check(self) -> None:
        """Raises Stopped when it is time to stop. Collective."""
        if self.wanted():
            self.leave()

    def step_began(self) -> None:
        self._began = time.monotonic()

    def step_ended(self, step: int) -> None:
        """Note the duration of a step, for the deadline, and its number, for `leave`."""
        self.step = step
        self._longest_step_s = max(self._longest_step_s, time.monotonic() - self._began)

    def saved(self, seconds: float) -> None:
        self._save_s = max(self._save_s, seconds)

    def leave(self) -> NoReturn:
        """Raises Stopped. Collective."""
        raise Stopped(*self.ranks.rank0_only(partial(stopped, self.run_dir, self.step, moved_on=self.moved_on)))


def stopped(run_dir: Path, step: int | None, *, moved_on: bool = False) -> tuple[int, str]:
    """(exit code, one line) of an attempt that is stopped at `step`, None before training: run again, or failed when
    several attempts in a row end without a new step, and have not `moved_on` otherwise."""
    idle = count_attempt(run_dir, step or 0, moved_on=moved_on)
    where = "before training began" if step is None else f"at step {step}"
    if idle < MAX_ATTEMPTS_WITHOUT_STEP:
        return RUN_AGAIN, f"stopped {where}: run again to go on from there"
    return FAILED, (
        f"stopped {where}, and the last {idle} attempts brought no new step: not to be run again. "
        "It needs more time before it is stopped, or shorter steps"
    )


def count_attempt(run_dir: Path, step: int, *, moved_on: bool = False) -> int:
    """Record that an attempt was stopped at `step`; returns how many attempts in a row, with this one, brought no new
    step and have not `moved_on` otherwise. After MAX_ATTEMPTS_WITHOUT_STEP the count begins anew: only a person starts
    such a run again."""
    path = run_dir / ATTEMPTS_NAME
    try:
        record = read_json(path)
        furthest, idle = int(record["step"]), int(record["without_new_step"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        furthest, idle = 0, 0
    idle = 0 if moved_on or step > furthest else idle % MAX_ATTEMPTS_WITHOUT_STEP + 1
    write_whole(path, json.dumps({"step": max(step, furthest), "without_new_step": idle}) + "\n")
    return idle
