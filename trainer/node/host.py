"""The memory of the machine itself, by the kernel."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def host_memory() -> tuple[int, int]:
    """(bytes in all, bytes that can be had without swapping); the first twice when the kernel does not report the
    second (macOS)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        if found := re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M):
            return total, int(found[1]) * 1024
    return total, total
