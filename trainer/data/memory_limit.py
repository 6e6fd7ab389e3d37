"""Limits how much memory a part of the program may take on top of what the process has, where that part runs or
unpacks what others wrote: a few kilobytes may ask for all memory."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DATA_FIELD = 5  # of statm: the pages that are the process's own and writable; files that are mapped are no part of them


@contextmanager
def growing_by(most_bytes: int) -> Iterator[None]:
    """Let the process grow by `most_bytes`; more raises MemoryError, or a library's own error. Only on Linux."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    has = int(Path("/proc/self/statm").read_text().split()[DATA_FIELD]) * mmap.PAGESIZE
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([has + most_bytes, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
