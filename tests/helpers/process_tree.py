"""The processes below a process."""

from __future__ import annotations

import psutil


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, a parent before its children."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]
