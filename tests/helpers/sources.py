"""Our own code as it stands in the files, read and parsed once in each process that runs tests: several tests look
through all of it."""

from __future__ import annotations

import ast
import functools
import gc
from pathlib import Path

from paths import ROOT

ROOMS = ("trainer", "planner", "launcher", "slurm", "k8s", "local")


def modules(*rooms: str) -> list[Path]:
    """Every module of `rooms`, in order."""
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


@functools.cache
def nodes(module: Path) -> tuple[ast.AST, ...]:
    """What ast.walk yields for the module; the first is the module itself."""
    gc.disable()  # it would look through all that is kept again and again, and nothing of it is garbage
    try:
        return tuple(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    finally:
        gc.enable()


def tree(module: Path) -> ast.Module:
    first = nodes(module)[0]
    assert isinstance(first, ast.Module)
    return first
