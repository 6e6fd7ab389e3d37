"""Who dies with whom: nobody of a job outlives its supervisor, even when that is killed with -9.

The supervisor is the subreaper of everything it starts, so that what loses its parent becomes its child and is
ended with the attempt. Launcher and ranks ask the kernel to be killed when their parent dies, and so do the
processes that a rank forks (data workers). Linux only; elsewhere these do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SUPERVISOR_ENV = "TRAINYARD_SUPERVISOR_PID"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def become_subreaper() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def in_launcher() -> None:
    """Between fork and exec of the launcher: deaf to what stops the supervisor, and killed when that dies."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # survives the exec, and is inherited
    die_with_parent()


def die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def in_rank() -> None:
    """First thing in a rank: killed with the launcher, and so is what it forks. Does nothing without a supervisor."""
    supervisor = os.environ.get(SUPERVISOR_ENV)
    if supervisor is None:
        return
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    try:
        os.kill(int(supervisor), 0)
    except ProcessLookupError:
        os._exit(1)  # it was gone before the kernel was told


def kill_descendants(patience_s: float = 10.0) -> None:
    """Kill everything below this process and wait for its end; new orphans become children here, and go too."""
    deadline = time.monotonic() + patience_s
    while (below := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.02)


def reap() -> None:
    """Collect children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants(pid: int) -> Sequence[int]:
    """Process ids below `pid`, those that have ended but are not collected left out."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z" or int(parent) == pid:
                parents.setdefault(int(parent), []).append(int(entry.parent.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found
