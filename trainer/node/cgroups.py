"""What the control groups (version 2) that this process is in leave of the machine: a container's limits, a job's."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_limits() -> Iterator[tuple[int, int]]:
    """(the most, what is left of it) in bytes of each group that has a limit; files kept in memory are not counted."""
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # the outermost has no limit; "max" is none
            most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            files = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
            yield most, most - used + int(files[1] if files else 0)


def core_limits() -> Iterator[int]:
    """Cores of each group that has a share of them, rounded up."""
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            yield math.ceil(quota / period)


def _groups() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        own = CGROUPS / OWN.read_text(encoding="utf-8").rpartition("0::")[2].strip().lstrip("/")
        yield from (own, *own.parents)
