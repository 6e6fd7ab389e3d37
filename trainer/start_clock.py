"""How long the parts of a start take, from the job's first process to the first optimizer step. Torch-free.

A rank calls `passed` at the end of each part, in order, and `first_step` after its first step.
"""

from __future__ import annotations

import os
import time

from trainer.node.processes import BEGAN_ENV


class StartClock:
    def __init__(self) -> None:
        self._last = self._began = float(os.environ.get(BEGAN_ENV) or time.time())
        self._cpu = 0.0
        self.parts: dict[str, tuple[float, float]] = {}
        """(seconds, CPU seconds of this process) of each part."""

    def passed(self, part: str) -> None:
        """The part that began when the one before it ended is over."""
        now, cpu = time.time(), time.process_time()
        self.parts[part] = (now - self._last, cpu - self._cpu)
        self._last, self._cpu = now, cpu

    def first_step(self) -> str:
        """The whole start on one line."""
        self.passed("first step")
        each = ", ".join(f"{part} {seconds:.1f}" for part, (seconds, _) in self.parts.items())
        return f"the first step was done {self._last - self._began:.1f} s after the start: {each}"


CLOCK = StartClock()
