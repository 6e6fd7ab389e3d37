"""The limits of memory and cores that this process's control groups (version 2) set, as for a container or a job, and
the processes that were killed for want of memory (versions 1 and 2)."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, what is left of it) in bytes for each group with a limit; inactive file cache does not count as used."""
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # the outermost group has no limit; "max" means none
            most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            files = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
            yield most, most - used + int(files[1] if files else 0)


def core_limits() -> Iterator[int]:
    """Cores of each group with a CPU quota, rounded up."""
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            yield math.ceil(quota / period)


def killed_for_memory() -> int:
    """How many processes of this process's control group the kernel has killed because a limit on memory was reached;
    0 where no group tells."""
    with contextlib.suppress(OSError):
        first = re.search(r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$", OWN.read_text(encoding="utf-8"), re.M)
        under = CGROUPS / "memory"
        # Inside a container the group may be mounted as the root.
        places = [under / first[1].lstrip("/"), under] if first else []
        for path in [*(place / "memory.oom_control" for place in places), *(g / "memory.events" for g in _groups())]:
            with contextlib.suppress(OSError):
                if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.M):
                    return int(found[1])
    return 0


def of_a_job(environ: Mapping[str, str]) -> bool:
    """Whether this process's control group belongs to its job alone: in a pod, and on Slurm with task/cgroup.
    Elsewhere it holds other programs, too."""
    if "JOB_COMPLETION_INDEX" in environ:
        return True
    with contextlib.suppress(OSError):
        job_id = environ.get("SLURM_JOB_ID", "none")
        return re.search(rf"/job_{re.escape(job_id)}(/|$)", OWN.read_text(encoding="utf-8"), re.M) is not None
    return False


def _groups() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        own = CGROUPS / OWN.read_text(encoding="utf-8").rpartition("0::")[2].strip().lstrip("/")
        yield from (own, *own.parents)
