"""The layout is a design decision: which room may use which, and how long a module may be."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("trainer", "accelerate_configs", "slurm", "k8s", "benchmarks")
# Each room, and those it may use. The trainer is usable without anything that plans or launches.
USES = {
    "trainer": (),
    "accelerate_configs": ("trainer",),
    "slurm": ("accelerate_configs", "trainer"),
    "k8s": ("accelerate_configs", "trainer"),
}
MODULE_LINES = 300
NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
)  # fmt: skip


def modules(room: str) -> Iterator[Path]:
    return (ROOT / room).rglob("*.py")


def imported_at_once(module: Path) -> set[str]:
    """Rooms that `module` imports when it is imported itself."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return found & set(ROOMS)


@pytest.mark.parametrize("room", USES)
def test_a_room_uses_only_those_below_it(room: str) -> None:
    beyond = {
        str(module.relative_to(ROOT)): other
        for module in modules(room)
        for other in imported_at_once(module) - {room, *USES[room]}
    }
    assert beyond == {}


def code_lines(module: Path) -> int:
    """Lines that hold code: blank ones, comments and docstrings do not count."""
    text = module.read_text(encoding="utf-8")
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for t in tokens if t.type not in NO_CODE for line in range(t.start[0], t.end[0] + 1)}
    return len(lines - documentation)


@pytest.mark.parametrize("room", USES)
def test_a_module_is_readable_in_one_sitting(room: str) -> None:
    assert {str(m.relative_to(ROOT)): n for m in modules(room) if (n := code_lines(m)) > MODULE_LINES} == {}
