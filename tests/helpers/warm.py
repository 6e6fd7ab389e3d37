"""Programs of the launch side, started by a Python that has loaded their libraries and our modules: a start takes a
twentieth of what it takes otherwise, and hundreds of tests start one.

Each program is a process of its own all the same: a fork with its own folder, environment, standard streams and end.
Its package's `__main__`, and whatever is imported late, comes from the folder where it runs. Where that folder holds
other code than this checkout, or the environment says something to Python itself, a whole new Python runs it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from paths import ROOT

ROOMS = ("trainer", "planner", "launcher", "slurm", "k8s", "local")
LOADED = (
    *("csv", "hashlib", "secrets", "shutil", "subprocess", "tempfile", "yaml", "submitit.slurm.slurm"),
    *("launcher.command", "launcher.starting", "launcher.verbs", "launcher.resuming", "launcher.trials"),
    *("planner.table", "planner.request.resolve", "trainer.architecture.shapes", "trainer.data.records"),
    *("trainer.env_file", "trainer.node.kept_log", "trainer.node.killed", "trainer.node.preflight"),
    *("trainer.node.stop", "trainer.terminal", "ctypes", "select", "socket"),
    *(f"{room}.{name}" for room in ("slurm", "k8s", "local") for name in ("scheduler", "target", "render", "submit")),
)
NOT_LOADED = Path("trainer", "train.py")  # what a toy project has another of
MESSAGE_BYTES = 1 << 20
LONGEST_S = 300  # a program that takes longer hangs
OF_PYTHON = ("PYTHON", "LC_", "LANG", "MALLOC")
Done = subprocess.CompletedProcess[str]


def around() -> dict[str, str]:
    """The environment of this process, without what is said to Python itself."""
    return {name: text for name, text in os.environ.items() if not name.startswith(OF_PYTHON)}


def run(module: str, *argv: str, cwd: Path, environ: Mapping[str, str]) -> Done:
    """The result that subprocess.run of `python -m module argv` would return."""
    server = _Server.own()
    words = [sys.executable, "-m", module, *argv]
    if not any(name.startswith(OF_PYTHON) for name in environ) and _is_same_code(cwd) and server.free.acquire(False):
        try:
            return server.run(module, argv, cwd, environ)
        finally:
            server.free.release()
    return subprocess.run(
        words, cwd=cwd, env=dict(environ), capture_output=True, text=True, check=False, timeout=LONGEST_S
    )


def _is_same_code(folder: Path) -> bool:
    """Whether the rooms in the folder are this checkout's, byte for byte as far as size and time tell."""
    if folder == ROOT:
        return True
    with contextlib.suppress(FileNotFoundError):
        return all(_stamp(folder / path) == stamp for path, stamp in _stamps() if (folder / path.parts[0]).is_dir())
    return False


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.cache
def _stamps() -> tuple[tuple[Path, tuple[int, int]], ...]:
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if path != ROOT / NOT_LOADED]
    return tuple((path.relative_to(ROOT), _stamp(path)) for path in paths)


class _Server:
    """The Python that forks, one for each process that runs tests."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LONGEST_S)
        for end in (self.socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers")))
        words = [sys.executable, "-c", f"import warm; warm._serve({theirs.fileno()})"]
        environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": path}
        with theirs:  # it ends when our end of the socket does
            subprocess.Popen(words, cwd=ROOT, env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    @classmethod
    @functools.cache
    def own(cls) -> _Server:
        return cls()

    def run(self, module: str, argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Done:
        asked = {"module": module, "argv": argv, "cwd": str(cwd), "environ": dict(environ)}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as nothing:
            streams = [nothing.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(self.socket, [json.dumps(asked).encode()], streams)
            code = int(self.socket.recv(64))
            texts = [(file.seek(0), file.read())[1] for file in (out, err)]
        return Done([sys.executable, "-m", module, *argv], code, *texts)


def _serve(number: int) -> None:
    for name in LOADED:
        importlib.import_module(name)
    asks = socket.socket(fileno=number)
    while True:
        message, streams, _, _ = socket.recv_fds(asks, MESSAGE_BYTES, 3)
        if not message:
            return
        child = os.fork()
        if not child:
            asks.close()
            _become(**json.loads(message), streams=streams)
        for stream in streams:
            os.close(stream)
        asks.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _become(*, module: str, argv: list[str], cwd: str, environ: dict[str, str], streams: list[int]) -> NoReturn:
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(place, "wb", closefd=False)), old.encoding, old.errors)
        for place, old in ((1, sys.stdout), (2, sys.stderr))
    )
    sys.stderr.reconfigure(line_buffering=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[:] = [cwd, *(path for path in sys.path if not Path(path or cwd).is_relative_to(ROOT) or ".venv" in path)]
    for name, loaded in list(sys.modules.items()):
        if name.partition(".")[0] in ROOMS:
            _move(loaded, Path(cwd))
    sys.argv = [module, *argv]
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    # As Python ends, without taking apart what the fork has loaded, which takes longer than all else.
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for text in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            text.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _move(module: object, folder: Path) -> None:
    """Makes the module one of the checkout in `folder`: where it finds files, and what it imports late."""
    for name, value in vars(module).items():
        if isinstance(value, Path) and value.is_relative_to(ROOT):
            setattr(module, name, folder / value.relative_to(ROOT))
        elif name == "__path__":
            setattr(module, name, [str(folder / Path(part).relative_to(ROOT)) for part in value])
        elif name == "__file__":
            setattr(module, name, str(folder / Path(value).relative_to(ROOT)))
