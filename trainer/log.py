"""A run's log lines, by the standard library's logging. `begin` sets the log up, first thing in each process of a
run.

In a file or a pipe each line begins with the time, the host and the speaker:

    2026-11-29 20:20:53+0000 n1 rank 0: step  20/200  loss 0.3126  token accuracy  89.9%  lr 1.90e-03  left 0.9 min
    2026-11-29 20:21:10+0000 n1 supervisor: trainyard: asked to stop by SIGTERM

At a terminal a line has no such beginning: the reader knows time and machine, and lines made for the width of a
terminal still fit. Processes outside a run (`trainer infer`, `make plan`) do not begin a log, and print plainly.
"""

from __future__ import annotations

import logging
import re
import sys
import time

from trainer.outcome import node_name
from trainer.secret_shapes import told

LOGGER = logging.getLogger("trainyard")
PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} \S+ (?:rank \d+|supervisor): ?", re.MULTILINE)


class _Lines(logging.Handler):
    """Writes progress to standard output and complaints to standard error, as sys.stdout and sys.stderr are at that
    time."""

    who = ""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            lines = record.getMessage().split("\n")
            if self.who and not stream.isatty():
                stamp = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(record.created))
                lines = [f"{stamp} {node_name()} {self.who}: {line}".rstrip() for line in lines]
            stream.write("\n".join([*lines, ""]))  # in one write: other processes write to the same stream
            stream.flush()
        except (OSError, ValueError):
            self.handleError(record)


_LINES = _Lines()
LOGGER.addHandler(_LINES)
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False


def begin(who: str) -> None:
    """From now on each line names the speaker `who`: `rank 0`, or `supervisor`."""
    _LINES.who = who


def say(text: str) -> None:
    """Log progress. The text may come from a record, so characters that a terminal would act on are removed."""
    LOGGER.info("%s", "\n".join(map(told, text.split("\n"))))


def complain(text: str) -> None:
    """Log one line that a user should know or act on."""
    LOGGER.warning("%s", f"trainyard: {told(text)}")


def bare(text: str) -> str:
    """Lines of a log without the beginning that `begin` sets."""
    return PREFIX.sub("", text)


def last_words(log: str) -> str:
    """Why a job failed, found in all that it printed: its last error, else Trainyard's last message, else the last
    line."""
    lines = [re.sub(r"^\[rank\d+\]: ", "", line) for line in bare(log).splitlines() if line.strip()]
    own = [line.removeprefix("trainyard: ") for line in lines if line.startswith("trainyard: ")]
    # The launcher's own error says only that a process failed.
    errors = [line for line in lines if re.match(r"(?!.*ChildFailedError)\w+(\.\w+)*(Error|Exception)\b", line)]
    return (errors or own or lines or ["it said nothing"])[-1]
