"""Ends processes together: no process of a job outlives its supervisor, even when that is killed with -9.

The supervisor is the subreaper of everything it starts: a process that loses its parent becomes its child, and ends
with the attempt. Launcher and ranks ask the kernel to be killed when their parent dies, and so do the processes that
a rank forks (data workers). These functions work on Linux only; on other systems they do nothing.
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
BEGAN_ENV = "TRAINYARD_ATTEMPT_BEGAN"  # unix seconds
# Files in the attempt's directory: this node has ranks; they have loaded the libraries, and check the stop flag.
BEGUN, LISTENING = "begun", "listening"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None)  # loaded now, not between fork and exec


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)


def become_subreaper() -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def in_launcher() -> None:
    """Runs between fork and exec of the launcher, or of the only rank: ignore the signals that stop the supervisor, and
    die when it dies."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # survives exec, and is inherited
    die_with_parent()


def in_rank() -> None:
    """The first call in a rank: with a supervisor, the rank is killed with its parent, and so are the processes it
    forks.

    When a library crashes the process (SIGSEGV, SIGBUS, SIGABRT), its name and the place of the call are printed.
    """
    with contextlib.suppress(ValueError, OSError):  # stderr may not be a file
        faulthandler.enable()
    if supervisor := os.environ.get(SUPERVISOR_ENV):
        import psutil

        in_launcher()
        Path(os.environ[ATTEMPT_DIR_ENV], BEGUN).touch()
        os.register_at_fork(after_in_child=die_with_parent)
        if not psutil.pid_exists(int(supervisor)):
            os._exit(1)  # the supervisor ended before the kernel was asked


def rank_listens() -> None:
    """From now on this rank checks the stop flag, so its supervisor need not kill it to stop it."""
    if SUPERVISOR_ENV in os.environ:
        Path(os.environ[ATTEMPT_DIR_ENV], LISTENING).touch()


@contextlib.contextmanager
def stop_signals_kept(
    act: Callable[[list[int]], object] | None = None, *, then: signal.Handlers | None = None
) -> Iterator[list[int]]:
    """In this block signals that mean "stop" end nothing by themselves: they are added to the yielded list, which
    `act` gets after each signal. Behind it they do what they did before, or `then`."""
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
            signal.signal(number, then or handler)


def kill_descendants(patience_s: float = 10.0) -> None:
    """Kill all processes below this one and wait for their end; new orphans become children of this process, and are
    killed too."""
    import psutil

    deadline = time.monotonic() + patience_s
    while (below := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=0.1)
