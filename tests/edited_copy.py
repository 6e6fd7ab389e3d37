"""A copy of the checkout in which one module at a time is edited, and the tests that are run there.

Every run of pytest is a fork of this process, which has the large libraries loaded already: their import would cost
more than most tests. A test that fails is run once more without the edit, so that only the edit can be what it noticed.
"""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

FAST, SLOW, EACH = "not slow and not cluster", "slow or cluster", "slow or not slow"
# An edit can make a loop endless, and a wait too.
CPU_LIMIT_S, WAIT_LIMIT_S = {FAST: 300, SLOW: 900, EACH: 900}, {FAST: 1800, SLOW: 3600, EACH: 3600}
LIBRARIES = (
    "hypothesis", "yaml", "submitit", "jinja2", "PIL.Image", "torch", "transformers.trainer", "trl.trainer.sft_trainer",
    "transformers.models.auto.processing_auto", "peft", "bitsandbytes", "accelerate", "datasets",
)  # fmt: skip
NO_TESTS = 5
LOADED = ".loaded"
# Its import looks at the machine and the environment.
LOADED_LATE = ("deepspeed",)
# A few files are collected in a tenth of the time of all, and mostly one of them notices.
FIRST = 3
MOST_FILES, MOST_USERS = 40, 20


class OutOfTimeError(Exception):
    """The slow tests of an edit took longer than they may."""


def warm_up() -> None:
    """Loads what the tests will load. What is not installed is for the tests to miss."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has no other threads
    # Otherwise each fork would compile every test and every module anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()


class EditedCopy:
    """`modules`, relative to `root`, are what may be edited; `folder` becomes the copy."""

    def __init__(self, root: Path, folder: Path, modules: Sequence[Path], *, slow_limit_s: float = math.inf) -> None:
        self.folder, self.tests, self.slow_limit_s = folder, OwnTests(root, modules), slow_limit_s
        names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
        for name in filter(None, names.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
        (folder / ".venv").symlink_to((root / ".venv").resolve())
        self.written = 0
        self.always_fail: set[str] = set()

    def noticed_by(self, module: Path, edited: bytes, *, whole: bool = False) -> str | None:
        """The first test that fails because `module` is `edited`; None when none does. Raises OutOfTimeError when none
        did before the slow tests' time was up."""
        own = self.tests.of(module)
        users = [test for test in self.tests.of_users(module) if test not in own]
        rounds = [(own[:FIRST], FAST), (own[FIRST:MOST_FILES], FAST), (users, FAST)]
        rounds += [([test], SLOW) for test in own[:MOST_FILES]]
        self.slow_left_s = self.slow_limit_s
        for files, marks in [*filter(itemgetter(0), rounds), *([((), FAST)] if whole or not own else [])]:
            while failed := self._first_failure(module, edited, files, marks):
                if "::" not in failed or not self._first_failure(module, None, [failed], EACH):
                    return failed
                self.always_fail.add(failed.partition("[")[0])
        return None

    def _first_failure(self, module: Path, edited: bytes | None, words: Sequence[str], marks: str) -> str | None:
        target = self.folder / module
        original = target.read_bytes()
        self._write(target, original if edited is None else edited)
        try:
            return self._run([*words, "-m", marks, *(f"--deselect={test}" for test in self.always_fail)], marks)
        finally:
            self._write(target, original)

    def _write(self, target: Path, text: bytes) -> None:
        """With a time of its own: Python takes a compiled module of the same second and size for this one."""
        target.write_bytes(text)
        self.written += 1
        os.utime(target, (0, time.time() + 2 * self.written))

    def _run(self, words: Sequence[str], marks: str) -> str | None:
        if marks == SLOW and self.slow_left_s <= 0:
            raise OutOfTimeError
        said = self.folder / ".pytest-said"
        said.write_text("")
        began = time.monotonic()
        child = os.fork()
        if not child:
            _be_pytest(self.folder, said, words, CPU_LIMIT_S[marks])
        limit_s = min(WAIT_LIMIT_S[marks], self.slow_left_s) if marks == SLOW else WAIT_LIMIT_S[marks]
        code = _wait(child, limit_s)
        self._learn()
        if marks == SLOW:
            self.slow_left_s -= time.monotonic() - began
            if self.slow_left_s <= 0 and code == -signal.SIGKILL:
                raise OutOfTimeError
        if code in (0, NO_TESTS):
            return None
        found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", said.read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else f"pytest, which ended with {code}"

    def _learn(self) -> None:
        """Loads what the last run of pytest has loaded from elsewhere, so that the next one has it already."""
        loaded = self.folder / LOADED
        for name in loaded.read_text().split() if loaded.exists() else ():
            if name.partition(".")[0] in LOADED_LATE:
                continue
            with suppress(Exception):
                importlib.import_module(name)
        loaded.unlink(missing_ok=True)
        gc.freeze()


def _be_pytest(folder: Path, said: Path, words: Sequence[str], cpu_limit_s: int) -> None:
    """Ends this process, a fork, with pytest's exit code."""
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit_s, cpu_limit_s))
        out = os.open(said, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        sys.argv, sys.path[0] = ["pytest"], str(folder)
        import pytest

        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *words])
        sys.stdout.flush()
        (folder / LOADED).write_text(" ".join(_installed_modules()))
    finally:
        os._exit(code)


def _installed_modules() -> list[str]:
    """Those that are loaded, in the order in which they were."""
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if file.startswith(sys.base_prefix) or "site-packages" in file]


def _wait(child: int, limit_s: float) -> int:
    """The exit code; what the child started ends with it."""
    ends = time.monotonic() + limit_s
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) and time.monotonic() < ends:
        time.sleep(0.1)
    with suppress(ProcessLookupError):  # the group is there a moment later than the child
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class OwnTests:
    """Which test files can notice an edit of which module."""

    def __init__(self, root: Path, modules: Sequence[Path]) -> None:
        self.root, self.modules = root, modules
        self.files = [path.relative_to(root) for path in sorted((root / "tests").rglob("test_*.py"))]
        self.helpers = [path.relative_to(root) for path in (root / "tests" / "helpers").glob("*.py")]

    def of(self, module: Path) -> list[str]:
        """The test files that name the module, or are named after it: those first that are most about it. Where there
        are none, those of what imports it, and of the helpers that name that."""
        found, seen, asked = self._naming(module), {module}, [module]
        while asked and not found:
            asked = [path for path in self.modules if path not in seen and any(self._names(path, one) for one in asked)]
            seen.update(asked)
            found = {test for one in asked for test in self._naming(one, helped=True)}
        return [str(path) for path in sorted(found, key=lambda path: (self._far(path, module), str(path)))]

    def of_users(self, module: Path) -> list[str]:
        """The test files that name a module that imports this one, the nearest first, and not all of a helper's that
        everything imports."""
        users = [path for path in self.modules if path != module and self._names(path, module)]
        found = {test for one in users for test in self._naming(one)}
        return [str(path) for path in sorted(found, key=lambda path: (self._far(path, module), str(path)))][:MOST_USERS]

    def _far(self, test: Path, module: Path) -> tuple[bool, bool, bool, int]:
        """Small for a test that is about the module: named after it, with its name as a word of a command, of its room,
        with few other modules."""
        others = len(re.findall(r"^\s*from (?:trainer|planner|launcher|slurm|k8s|local)\b", self._text(test), re.M))
        is_no_word = f'"{_called(module)}"' not in self._text(test)
        return test.name != f"test_{module.stem}.py", is_no_word, module.parts[0] not in test.parts, others

    def _naming(self, module: Path, *, helped: bool = False) -> set[Path]:
        uses = [f"from {path.stem} import" for path in self.helpers if helped and self._names(path, module)]
        return {
            path for path in self.files
            if path.name == f"test_{module.stem}.py" or self._names(path, module)
            or any(use in self._text(path) for use in uses)
        }  # fmt: skip

    def _names(self, path: Path, module: Path) -> bool:
        """Whether the file imports the module, starts it by `python -m`, or names it in a string."""
        name = ".".join(module.with_suffix("").parts).removesuffix(".__main__").removesuffix(".__init__")
        parent, _, last = name.rpartition(".")
        text = self._text(path)
        return name in text or bool(parent and f"from {parent} import" in text and last in text)

    @functools.cache  # noqa: B019 - one of these lives as long as the program
    def _text(self, path: Path) -> str:
        return (self.root / path).read_text(encoding="utf-8")


def _called(module: Path) -> str:
    """What a command line calls it: `shape` is trainer/tools/shape.py, `convert` is trainer/convert/command.py."""
    return module.parent.name if module.stem in ("command", "__main__", "__init__") else module.stem
