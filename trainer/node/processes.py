"""Who dies with whom: nobody of a job outlives its supervisor, even when that is killed with -9.

The supervisor is the subreaper of everything it starts, so that what loses its parent becomes its child and is
ended with the attempt. Launcher and ranks ask the kernel to be killed when their parent dies, and so do the
processes that a rank forks (data workers). Linux only; elsewhere these do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.outcome import ATTEMPT_DIR_ENV

SUPERVISOR_ENV = "TRAINYARD_SUPERVISOR_PID"
BEGUN = "begun"  # a file in the attempt's directory: there are ranks on this node, which look at its stop flag
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None)  # not first between fork and exec


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)


def become_subreaper() -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def in_launcher() -> None:
    """Between fork and exec of the launcher: deaf to what stops the supervisor, and killed when that dies."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # survives the exec, and is inherited
    die_with_parent()


def in_rank() -> None:
    """First thing in a rank: with a supervisor, it is killed with the launcher, and so is what it forks.

    A library that crashes the process (SIGSEGV, SIGBUS, SIGABRT) is named, with where it was called.
    """
    with contextlib.suppress(ValueError, OSError):  # a stderr that is no file
        faulthandler.enable()
    if supervisor := os.environ.get(SUPERVISOR_ENV):
        import psutil

        in_launcher()
        Path(os.environ[ATTEMPT_DIR_ENV], BEGUN).touch()
        os.register_at_fork(after_in_child=die_with_parent)
        if not psutil.pid_exists(int(supervisor)):
            os._exit(1)  # it was gone before the kernel was told


@contextlib.contextmanager
def stop_signals_kept(act: Callable[[list[int]], object] | None = None) -> Iterator[list[int]]:
    """While this lasts, signals that mean "stop" end nothing by themselves: those that came are kept in what it yields,
    and `act` gets that after each.
    """
    came: list[int] = []

    def keep(number: int, _: object) -> None:
        came.append(number)
        if act:
            act(came)

    before = {number: signal.signal(number, keep) for number in STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill_descendants(patience_s: float = 10.0) -> None:
    """Kill everything below this process and wait for its end; new orphans become children here, and go too."""
    import psutil

    deadline = time.monotonic() + patience_s
    while (below := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=0.1)
