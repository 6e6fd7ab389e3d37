"""Keeps a copy of all that a pod prints in its run's folder. A cluster removes a pod's log together with the pod: when
a node is drained, when the Job is deleted, and a week after its end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from trainer.files import own_folder, without_link

MOST_WAITING_BYTES = 1 << 20
"""The end of the output that is kept until it can be written: the run has no folder before its request was found
right, or the disk is full."""
PATIENCE_S = 10.0


@contextlib.contextmanager
def log_kept(run_dir: Path, node_rank: int) -> Iterator[None]:
    """In this block everything that this process and those it starts print is added to `logs/node-RANK.log` in the
    run's folder as well. All attempts add to the same file. An error of writing stops nothing."""
    streams = (sys.stdout, sys.stderr)
    before = [os.dup(stream.fileno()) for stream in streams]
    source, sink = os.pipe()
    copier = threading.Thread(target=_copy, args=(source, before[0], run_dir, node_rank), daemon=True)
    copier.start()
    for stream in streams:
        stream.flush()
        os.dup2(sink, stream.fileno())
    os.close(sink)
    try:
        yield
    finally:
        for stream, old in zip(streams, before, strict=True):
            stream.flush()
            os.dup2(old, stream.fileno())
        copier.join(PATIENCE_S)  # longer only where a process that we could not end still holds the pipe


def _copy(source: int, target: int, run_dir: Path, node_rank: int) -> None:
    """Copy `source` to `target` and to the kept file until every writer is gone."""
    waiting, kept = bytearray(), -1
    while block := os.read(source, 1 << 16):
        _write_all(target, block)
        waiting += block
        with contextlib.suppress(OSError):  # tried again with the next block
            if kept < 0 and run_dir.is_dir():
                kept = _open(own_folder(run_dir / "logs") / f"node-{node_rank}.log")
            while kept >= 0 and waiting:
                del waiting[: os.write(kept, waiting)]
        del waiting[:-MOST_WAITING_BYTES]


def _open(path: Path) -> int:
    """The file for adding to; never a link. Raises OSError, also for a pipe that nobody reads."""
    without_link(path)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _write_all(target: int, block: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the training goes on
        while block:
            block = block[os.write(target, block) :]
