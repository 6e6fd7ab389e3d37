"""Prints a log that is a file on this machine while it grows."""

from __future__ import annotations

import codecs
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from launcher.cli import say
from launcher.progress import UNKNOWN, Job
from trainer.files import regular
from trainer.outcome import ConfigError, SchedulerError
from trainer.text import printable

READ_EVERY_S = 0.3
COLOUR, NEW_LINE = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\r*\n|\r")
# A scheduler is asked at growing intervals, since a controller serves many waiting users.
ASK_FIRST_S, ASK_LAST_S = 1.0, 15.0


def follow(log: Path, ask: Callable[[], Job], *, before: Sequence[Path] = ()) -> None:
    """Print the contents of `before`, then `log` until its job has ended; `ask` returns the job's state. A job that
    is started again appends to the same file.

    Raises:
        SchedulerError: the scheduler does not answer the first time. Later it may be away for a while.
        ConfigError: the log's path is not a file.
    """
    for earlier in before:
        _copy(earlier, 0)
    at, pause, ask_at, last = 0, ASK_FIRST_S, 0.0, ""
    while True:
        ended = False
        if time.monotonic() >= ask_at:
            state, text, ended = _stand(ask, first=not last)
            if state != last and state != "RUNNING":
                say(text)
            last = state
            ask_at = time.monotonic() + pause
            pause = min(pause * 1.5, ASK_LAST_S)
        # After asking: everything that a job wrote before it ended is in the file by now.
        at = _copy(log, at)
        if ended:
            return
        time.sleep(READ_EVERY_S)


def _stand(ask: Callable[[], Job], *, first: bool) -> tuple[str, str, bool]:
    """(state, its text, whether the job has ended). A restart of the controller in the meantime is no error."""
    try:
        job = ask()
    except SchedulerError as error:
        if first:
            raise
        return UNKNOWN, f"{error}; asking again", False
    return job.state, f"job {job.text}{f': {job.release} lets it start' if job.release else ''}", job.ended


def _copy(log: Path, start: int) -> int:
    """Print `log` from byte `start` on; returns where the next copy begins."""
    try:
        # Opened again each time, which makes NFS ask the server.
        file = regular(log).open("rb")
    except FileNotFoundError:
        return start
    except OSError as error:
        raise ConfigError(f"{log} cannot be read ({error.strerror})") from error
    with file:
        file.seek(start)
        return start + pass_on(file)


def pass_on(stream: IO[bytes]) -> int:
    """Print a log, with characters that a terminal would act on escaped, since libraries and records write to it,
    too. Returns the number of bytes read. Colours are left out, and overwritten text becomes lines of its own."""
    decoder, count = codecs.getincrementaldecoder("utf-8")("backslashreplace"), 0
    # read1: the available bytes, without waiting for more.
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
        count += len(block)
        sys.stdout.write(_shown(decoder.decode(block)))
        sys.stdout.flush()
    sys.stdout.write(_shown(decoder.decode(b"", final=True)))
    sys.stdout.flush()
    return count


def _shown(text: str) -> str:
    lines = NEW_LINE.sub("\n", COLOUR.sub("", text)).split("\n")
    return "\n".join(line if line.isprintable() else "\t".join(map(printable, line.split("\t"))) for line in lines)
