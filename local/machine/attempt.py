"""One attempt at a run on this machine: a process that holds the run's lock, a record of the process, and its log.
The lock tells whether an attempt is running; attempt.json identifies its process by its number and its start time, a
pair that no later process has. Its output goes to the terminal, bar included, and into logs/local-N.log."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import termios
import time
import traceback
import tty
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from launcher.records import ATTEMPT_NAME
from trainer.files import own_folder, read_json, write_whole
from trainer.node.processes import die_with_parent, stop_signals_kept
from trainer.outcome import FAILED, ConfigError

LOCK_NAME = ".running"
LOG_NAME = re.compile(r"local-([1-9][0-9]{0,8})\.log")
MOST_NUMBER, MOST_PID, MOST_SECONDS, MOST_CODE = 10**9 - 1, 2**31 - 1, 1e11, 255
TEXT_LIMIT = 256
TRIES, PAUSE_S = 3, 0.1  # a process that tests the lock holds it for a moment
# The sequences that draw the last row of a terminal (trainer/terminal.py), since a log has no rows.
DRAWN = re.compile(rb"\x1b7.*?\x1b8|\x1b\[[0-9;]*[A-Za-z]|\x1b[DM]", re.DOTALL)
# What a later text on the same line covers, as the bars of libraries do.
COVERED = re.compile(rb"(?m)^[^\n]*\r(?=[^\n])")  # ^: one look at each line, not one at each place of it
ASK_S = 1.0
OWN_STAT = Path("/proc/self/stat")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """The content of attempt.json."""

    number: int
    pid: int
    started: str
    """Start time of the process as the kernel reports it; empty when it does not."""
    host: str
    began: float
    """Start of the attempt in unix seconds."""
    code: int | None = None
    """The exit code of the attempt; None until it has ended."""
    verb: str = "run"

    @property
    def job_id(self) -> str:
        return f"local-{self.number}"


def read_attempt(folder: Path) -> Attempt | None:
    """The run's newest attempt; None when there is none, or its record was damaged."""
    try:
        attempt = Attempt(**read_json(folder / ATTEMPT_NAME))
    except (OSError, ValueError, TypeError):
        return None
    texts = (attempt.started, attempt.host, attempt.verb)
    right = (
        _is_whole(attempt.number, 1, MOST_NUMBER)
        and _is_whole(attempt.pid, 1, MOST_PID)
        and (attempt.code is None or _is_whole(attempt.code, 0, MOST_CODE))
        and type(attempt.began) in (int, float)
        and 0 <= attempt.began <= MOST_SECONDS  # NaN fails this test
        and all(type(text) is str and len(text) <= TEXT_LIMIT and text.isprintable() for text in texts)
    )
    return attempt if right else None


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def log_path(folder: Path, number: int) -> Path:
    return folder / "logs" / f"local-{number}.log"


def logged(folder: Path) -> list[int]:
    """Numbers of the attempts whose logs exist, ascending."""
    found = (LOG_NAME.fullmatch(path.name) for path in (folder / "logs").glob("local-*.log"))
    return sorted(int(name[1]) for name in found if name)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run's lock."""
    try:
        with _open_lock(folder / LOCK_NAME, os.O_RDWR) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ConfigError):
        pass
    return False


def is_running(folder: Path, attempt: Attempt) -> bool:
    """Whether exactly this attempt's process is still running this run."""
    if not is_locked(folder):
        return False
    started = _started(attempt.pid)
    told = bool(started) or not OWN_STAT.exists()  # without /proc a process's start time is unknown
    return attempt.host != socket.gethostname() or (told and started == attempt.started)


def stop(folder: Path, attempt: Attempt) -> bool:
    """Send the stop signal, after which the supervisor saves a checkpoint; returns False when the process is gone."""
    handle = None
    try:
        handle = os.pidfd_open(attempt.pid) if hasattr(os, "pidfd_open") else None
        # From now on the handle means this process, even if its number is given to another one.
        if not is_running(folder, attempt):
            return False
        if handle is None:
            os.kill(attempt.pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def carry_out(folder: Path, verb: str, act: Callable[[], int]) -> int:
    """Make one attempt while holding the lock; returns the exit code of `act`, which runs in a process of its own."""
    before = read_attempt(folder)
    own_folder(folder / "logs")
    number = max([before.number if before else 0, *logged(folder)]) + 1
    attempt = Attempt(
        number=number, pid=1, started="", host=socket.gethostname(), began=time.time(), verb=verb,
    )  # fmt: skip

    def begun(pid: int) -> None:
        nonlocal attempt
        attempt = replace(attempt, pid=pid, started=_started(pid))
        _write(folder, attempt)

    code = _logged(log_path(folder, number), act, begun)
    _write(folder, replace(attempt, code=code))
    return code


def _write(folder: Path, attempt: Attempt) -> None:
    write_whole(folder / ATTEMPT_NAME, json.dumps(asdict(attempt)) + "\n")


@contextlib.contextmanager
def lock(folder: Path, run_id: str) -> Iterator[None]:
    """Holds the run's lock, so that no other process changes files in `folder`.

    Raises:
        ConfigError: another process is working on this run.
    """
    with _open_lock(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT) as file:
        for left in reversed(range(TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise ConfigError(
                        "is running on this machine",
                        name="RUN",
                        given=run_id,
                        advice=f"wait for it, stop it with Ctrl-C where it was started or with make cancel TO=local "
                        f"RUN={run_id}, or give another RUN",
                    ) from None
                time.sleep(PAUSE_S)
            except OSError:  # a file system without locks
                break
        yield


def _open_lock(path: Path, how: int) -> IO[bytes]:
    """The lock file, opened without changing it. Raises ConfigError when it is a link or cannot be opened."""
    try:
        return os.fdopen(os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
    except OSError as error:
        why = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened ({error.strerror})"
        raise ConfigError(f"{path} {why}: a run locks a file of its own, remove this one") from error


def _started(pid: int) -> str:
    """Start time of that process, in the kernel's ticks since the machine's start; empty when there is no such
    process."""
    try:
        # The program's name, in parentheses, may contain any character.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _logged(log: Path, act: Callable[[], int], begun: Callable[[int], None]) -> int:
    """The exit code of `act`, whose output is copied to this process's output and into `log`. `begun` gets the number
    of its process before `act` begins. Each stop signal is passed on once."""
    sys.stdout.flush()
    sys.stderr.flush()
    out = _channel(1)
    channels = [out, out if os.path.sameopenfile(1, 2) else _channel(2)]  # a single channel keeps the order of lines
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            die_with_parent()
            os.setpgid(0, 0)  # the terminal's Ctrl-C would reach it twice, and the second one kills
            os.close(go)
            os.read(ready, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # it no longer runs in the foreground
            for number, (_, end) in enumerate(channels, start=1):
                os.dup2(end, number)
            code = act()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for end in {end for _, end in channels}:
        os.close(end)
    with stop_signals_kept(lambda came: os.kill(child, came[-1])):
        try:
            begun(child)
        finally:
            os.close(go)
            os.close(ready)
        with log.open("xb") as file:
            _copy({mine: number for number, (mine, _) in reversed([*enumerate(channels, start=1)])}, file)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else FAILED


def _channel(number: int) -> tuple[int, int]:
    """(the end that this process reads, the end that the attempt writes) in place of a standard stream; a terminal
    for a terminal."""
    if not os.isatty(number):
        return os.pipe()
    mine, theirs = os.openpty()
    tty.setraw(theirs)
    return mine, theirs


def _copy(channels: dict[int, int], log: IO[bytes]) -> None:
    """Copy each channel to the stream of its number and into `log`, until all writers have closed it."""
    pending = dict.fromkeys(channels, b"")
    sizes: dict[int, bytes] = {}
    while pending:
        for mine, number in channels.items():
            if os.isatty(number):
                with contextlib.suppress(OSError):
                    size = fcntl.ioctl(number, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
                    if sizes.get(mine) != size:
                        sizes[mine] = fcntl.ioctl(mine, termios.TIOCSWINSZ, size)
        for mine in select.select(list(pending), [], [], ASK_S)[0]:
            try:
                block = os.read(mine, 1 << 16)
            except OSError:  # a terminal's other end is closed
                block = b""
            if block:
                with contextlib.suppress(OSError):  # the terminal is gone, the log is not
                    _write_all(channels[mine], block)
            whole, newline, rest = COVERED.sub(b"", DRAWN.sub(b"", pending[mine] + block)).rpartition(b"\n")
            log.write(whole + newline if block else whole + newline + rest)
            log.flush()
            if block:
                pending[mine] = rest
            else:
                del pending[mine]
                os.close(mine)


def _write_all(number: int, block: bytes) -> None:
    while block:
        block = block[os.write(number, block) :]
