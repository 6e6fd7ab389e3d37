"""Can the tests fail? Draws small edits of the code by a seed, makes each in a copy of the checkout, runs the tests.

    .venv/cpu/bin/python tests/mutants.py --seed 1 --count 20            the edits, and whether a test noticed each
    .venv/cpu/bin/python tests/mutants.py --seed 1 --count 20 --list     the edits alone

An edit flips a comparison, changes a number, turns a condition round, swaps two arguments, or takes out a statement.
Messages are left alone: no test should hold their every word. So is what guards against mistakes in the code itself:
`strict=True` of zip, `frozen=True` and the like of a dataclass. An edit that no test notices is a hole in the tests,
unless it changes nothing that could be seen; a person has to look at each of these.

For each edit: first the fast tests of the files that import the edited module, then the whole fast suite, then those
files' slow tests. About a minute an edit, so 100 edits are a night on two cores.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # run as a program, without the helpers
ROOMS = ("trainer", "planner", "launcher", "slurm", "k8s", "local")
FAST = "not slow and not cluster"
# An edit can make a loop endless.
FAST_LIMIT_S, SLOW_LIMIT_S = 600, 1200
FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
# Calls that only speak.
SPEAKING = ("print", "say", "debug", "info", "warning", "error")
SPEAKING_ERRORS = ("Error", "Exception", "SickNode")
# Of zip and dataclass: without them the same happens, as long as the code is right.
GUARDS = ("strict", "frozen", "kw_only", "slots")


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    module: Path
    """Relative to the checkout."""
    line: int
    start: int
    """Offsets in the module's bytes."""
    end: int
    text: str
    """What stands from start to end afterwards."""
    before: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {_on_one_line(self.before)}  ->  {_on_one_line(self.text)}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def _on_one_line(text: str) -> str:
    return " ".join(text.split())[:100]


def edits_of(module: Path, source: bytes) -> list[Edit]:
    """Every edit that `module` takes, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def edit(node: ast.AST, text: str) -> Edit:
        start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return Edit(
            module=module, line=node.lineno, start=start, end=end, text=text,  # type: ignore[attr-defined]
            before=source[start:end].decode(),
        )  # fmt: skip

    return sorted(_edits(ast.parse(source), edit), key=lambda found: (found.start, found.end, found.text))


def _edits(node: ast.AST, edit: Callable[[ast.AST, str], Edit]) -> Iterator[Edit]:
    for child in ast.iter_child_nodes(node):
        if _speaks(child) or _is_annotation(node, child) or _guards(child):
            continue
        yield from _edits_at(child, edit)
        yield from _edits(child, edit)


def _speaks(node: ast.AST) -> bool:
    """Text for people: an f-string, an error that is raised, a call that prints."""
    if isinstance(node, ast.JoinedStr):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in SPEAKING or name.endswith(SPEAKING_ERRORS)


def _guards(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg in GUARDS and isinstance(node.value, ast.Constant)


def _is_annotation(parent: ast.AST, child: ast.AST) -> bool:
    return child in (getattr(parent, "annotation", None), getattr(parent, "returns", None))


def _edits_at(node: ast.AST, edit: Callable[[ast.AST, str], Edit]) -> Iterator[Edit]:
    """The edits of this node itself."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in FLIPPED:
            yield edit(node, f"({ast.unparse(ast.Compare(left, [FLIPPED[type(op)]()], [right]))})")
        case ast.Constant(value=bool() as value):
            yield edit(node, str(not value))
        case ast.Constant(value=int() | float() as value):
            yield edit(node, repr(value + 1))
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield edit(node, f"({ast.unparse(ast.BoolOp(other, values))})")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC and not _is_text(left, right):
            yield edit(node, f"({ast.unparse(ast.BinOp(left, ARITHMETIC[type(op)](), right))})")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield edit(node, f"bool({ast.unparse(operand)})")
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield edit(node, f"({ast.unparse(ast.IfExp(test, orelse, body))})")
        case ast.Call(func=func, args=[first, second, *rest], keywords=keywords) if not isinstance(first, ast.Starred):
            if not isinstance(second, ast.Starred) and ast.unparse(first) != ast.unparse(second):
                yield edit(node, ast.unparse(ast.Call(func, [second, first, *rest], keywords)))
        case ast.Expr(value=ast.Call() as call) if not _speaks(call):
            yield edit(node, "pass")
        case ast.If(body=[ast.Raise() | ast.Return() | ast.Continue() | ast.Break()], orelse=[]):
            yield edit(node.test, "False")


def _is_text(*nodes: ast.AST) -> bool:
    return any((isinstance(node, ast.Constant) and isinstance(node.value, str)) or _speaks(node) for node in nodes)


def draw(seed: int, count: int, modules: Sequence[str] = ()) -> list[Edit]:
    """`count` edits of the rooms, or of `modules` (paths in the checkout): a module by chance, then one of its edits,
    so that long modules do not crowd out short ones."""
    left = [Path(name) for name in modules] or list(_modules())
    chance = random.Random(seed)
    drawn: dict[Edit, None] = {}
    while left and len(drawn) < count:
        module = chance.choice(left)
        if fresh := [edit for edit in _edits_of(module) if edit not in drawn]:
            drawn[chance.choice(fresh)] = None
        else:
            left.remove(module)
    return list(drawn)


@functools.cache
def _edits_of(module: Path) -> list[Edit]:
    return edits_of(module, (ROOT / module).read_bytes())


def own_tests(module: Path) -> list[str]:
    """The test files that name the module, or are named after it. Where there are none, those of what imports it, and
    of the helpers that name that."""
    found, seen, asked = _tests_of(module), {module}, [module]
    while asked and not found:
        asked = [path for path in _modules() if path not in seen and any(_names(path, one) for one in asked)]
        seen.update(asked)
        found = {test for one in asked for test in _tests_of(one, helped=True)}
    return sorted(found)


def _tests_of(module: Path, *, helped: bool = False) -> set[str]:
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    helpers = [path for path in (ROOT / "tests" / "helpers").glob("*.py") if helped and _names(path, module)]
    uses = [f"from {path.stem} import" for path in helpers]
    return {
        str(path) for path in tests
        if path.name == f"test_{module.stem}.py" or _names(path, module) or any(use in _text(path) for use in uses)
    }  # fmt: skip


def _names(path: Path, module: Path) -> bool:
    """Whether the file imports the module, starts it by `python -m`, or names it in a string."""
    name = ".".join(module.with_suffix("").parts).removesuffix(".__main__").removesuffix(".__init__")
    parent, _, last = name.rpartition(".")
    text = _text(path)
    return name in text or bool(parent and f"from {parent} import" in text and last in text)


@functools.cache
def _text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@functools.cache
def _modules() -> tuple[Path, ...]:
    return tuple(sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")))


def noticed_by(edit: Edit, folder: Path) -> str | None:
    """The first test that fails with `edit` applied in `folder`, a copy of the checkout; None when none does."""
    target = folder / edit.module
    original = target.read_bytes()
    target.write_bytes(edit.applied(original))
    own = own_tests(edit.module)
    rounds = [(own, FAST, FAST_LIMIT_S), ([], FAST, FAST_LIMIT_S), (own, "slow or cluster", SLOW_LIMIT_S)]
    try:
        for files, marks, limit_s in rounds if own else rounds[1:2]:
            if failed := _first_failure(folder, [*files, "-m", marks], limit_s):
                return failed
    finally:
        target.write_bytes(original)
    return None


def _first_failure(folder: Path, words: Sequence[str], limit_s: int) -> str | None:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"tests that took more than {limit_s} s"
    if ended.returncode in (0, 5):  # 5: no test has these marks
        return None
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"pytest, which ended with {ended.returncode}"


def copy_of_checkout(folder: Path) -> Path:
    """The files that git knows, and the environment, which is shared."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Small edits of the code, and whether a test notices each.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--list", action="store_true", help="print the edits and run nothing")
    parser.add_argument("modules", nargs="*", help="only these, such as trainer/model/head.py")
    asked = parser.parse_args()
    edits = draw(asked.seed, asked.count, asked.modules)
    if asked.list:
        print(*edits, sep="\n")
        return 0
    missed = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = copy_of_checkout(Path(name))
        for number, edit in enumerate(edits, start=1):
            failed = noticed_by(edit, folder)
            print(f"{number}/{len(edits)}  {'noticed' if failed else 'MISSED '}  {edit}", flush=True)
            print(f"          {failed or 'no test failed'}", flush=True)
            missed += [] if failed else [edit]
    print(f"\n{len(edits) - len(missed)} of {len(edits)} edits were noticed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
