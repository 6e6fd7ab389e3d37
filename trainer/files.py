"""Writes files completely or not at all, and names the files of a run's folder, such as run.json, which holds the
request and the decisions of the plan.

Anyone who may write into a folder of runs can leave a symbolic link under a name that a run will write to. Trainyard
follows none of them: its own file replaces the link.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

RECORD_NAME = "run.json"
METRICS_FILE = "metrics.json"
"""Written when the run is complete except for its report."""
CHECKPOINT_NAME = re.compile(r"step-([0-9]{6,12})")
"""Name of a checkpoint's folder, in `checkpoints` of the run's folder: step-000250."""
CACHE_NAME = ".cache"
"""A folder beside the runs, shared by all of them."""
ADAPTER = "adapter"
"""Name of the folder with the weights, in the run's folder."""
USAGE_FILE = "trainyard.json"
"""A file beside weights that describes how to ask the model."""
EXAMPLE_FILE = "example.jsonl"
"""One record of a run, as an example question for its adapter."""
SHOWN_FILE = "examples.txt"
"""The first records of a run as the model sees them, which the log shows short."""
RECORD_ENV = "TRAINYARD_RUN_RECORD"
"""Environment variable with the path of a finished run.json, in a place where only the supervisor can write."""


What = TypeVar("What")
Found = TypeVar("Found")

# No file of ours nests deeper than 10; where json itself gives up, Python's stack is full for whatever comes after.
MOST_DEPTH = 64
MIB = 1024**2
# The most that a file written by a person may have; files in use have a hundredth of it.
MOST_CHARACTERS = 1 << 16
# No record of a run and no line of a data file is as long; what is would take all memory.
MOST_MIB = 64
# Nobody writes one file for longer.
HALF_S = 3600


def parse_json(text: str | bytes, loads: Callable[[str | bytes], Any] = json.loads) -> Any:
    """The value in `text`. Raises ValueError for any unusable text, including one that nests too deep, so that one
    damaged record harms no other."""
    try:
        found = loads(text)
    except RecursionError:
        raise ValueError(f"it nests deeper than {MOST_DEPTH} levels") from None
    return found if _opens(text) <= MOST_DEPTH else check_depth(found)


def _opens(text: str | bytes) -> int:
    """The number of opening brackets in a JSON text: its nesting cannot be deeper."""
    return text.count("{") + text.count("[") if isinstance(text, str) else text.count(b"{") + text.count(b"[")


def check_depth(found: Any) -> Any:
    """`found`, unchanged. Raises ValueError when it nests too deep."""
    level = [found]
    for _ in range(MOST_DEPTH):
        nested = [value for value in level if isinstance(value, (dict, list))]
        if not nested:
            return found
        level = [part for value in nested for part in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise ValueError(f"it nests deeper than {MOST_DEPTH} levels")
    return found


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError, ValueError."""
    with regular(path).open("rb") as file:
        content = file.read(MOST_MIB * MIB + 1)
    if len(content) > MOST_MIB * MIB:
        raise ValueError(f"it is longer than {MOST_MIB} MiB")
    return parse_json(content.decode())


def file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file does, the same on each machine that mounts it; () for a file that is not there. Whoever
    writes into a file can set its mtime, but not its ctime."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def regular(path: Path) -> Path:
    """`path`, if it is a file or a folder: reading a pipe would block, and a device may have no end. Raises
    OSError."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, and no file", str(path))
    return path


_SEEN: ContextVar[dict[tuple[object, object], Any] | None] = ContextVar("_SEEN", default=None)


@contextlib.contextmanager
def each_file_once() -> Iterator[None]:
    """In this block `once` reads each file from the disk only once, so that all parts of a request are made from the
    same files."""
    token = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(token)


def once(read: Callable[[What], Found], what: What) -> Found:
    """`read(what)`; in a block of `each_file_once` the earlier result of the same call. The caller must not change
    it."""
    seen = _SEEN.get()
    if seen is None:
        return read(what)
    if (read, what) not in seen:
        seen[read, what] = read(what)
    found: Found = seen[read, what]
    return found


def read_typed(path: Path) -> bytes:
    """The content of a file that a person wrote; of a too long file only enough bytes to see its length. Raises
    OSError."""
    with regular(path).open("rb") as file:
        return file.read(4 * MOST_CHARACTERS + 1)


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; a line longer than MOST_MIB is cut one byte behind that length, so that the reader can
    refuse it."""
    most = MOST_MIB * MIB + 1
    while line := file.readline(most):
        yield line
        while len(line) == most and not line.endswith(b"\n"):
            line = file.readline(most)


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write `content` beside `path`, then rename: a reader finds all of it, or the file that was there before. Makes
    the folder, and replaces a link. Only its owner may write into the file, whatever umask says: others would change
    what a resume runs. Without `sync` a machine that loses its power may lose the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that nobody guesses: a file or a link that waited under it would stop the writing.
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def sweep_halves(folder: Path) -> None:
    """Remove what `write_whole` left in `folder` where it was killed: files of ours, of its very names, that nobody has
    written to for an hour."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if re.fullmatch(r"\..+\.[0-9a-f]{16}", path.name):
                found = path.lstat()
                own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
                if own and found.st_mtime < time.time() - HALF_S:
                    path.unlink()


def without_link(path: Path) -> None:
    """Take a link away; what it leads to stays. Each rank does it, and another may have made the folder by now."""
    if path.is_symlink():
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            path.unlink()


def own_folder(folder: Path) -> Path:
    """`folder`, which is made if it does not exist; a link is replaced."""
    without_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def without_links(folder: Path) -> Path:
    """`folder`, made if needed, neither a link nor with a link in it: for libraries that write files under their own
    names."""
    for path in own_folder(folder).iterdir():
        without_link(path)
    return folder
