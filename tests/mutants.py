"""Can the tests fail? Draws small edits of the code by a seed, makes each in a copy of the checkout, runs the tests.

    .venv/cpu/bin/python tests/mutants.py --seed 1 --count 20            the edits, and whether a test noticed each
    .venv/cpu/bin/python tests/mutants.py --seed 1 --count 20 --list     the edits alone
    .venv/cpu/bin/python tests/mutants.py --seed 1 --count 20 --summary  what is known so far; runs nothing

An edit flips a comparison, changes a number, turns a condition round, swaps two arguments, or takes out a statement.
Messages are left alone: no test should hold their every word. So is what guards against mistakes in the code itself:
`strict=True` of zip, `frozen=True` and the like of a dataclass. An edit that no test notices is a hole in the tests,
unless it changes nothing that could be seen; a person has to look at each of these.

For each edit: first the fast tests of the files that name the edited module, then the fast tests of the files that
name what imports it, then the slow tests of the first files, for at most --slow-limit-s seconds, and with --whole the
whole fast suite last. Each result is appended to a file at once (.mutants/seed-1.jsonl), so the same command goes on
where an earlier one was stopped, and with more seconds it goes on with the edits that ran out of time. So a first count
with --slow-limit-s 0 runs the fast tests alone. At the end the missed edits stand as diffs.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edited_copy import EditedCopy, OutOfTimeError, warm_up

ROOT = Path(__file__).resolve().parent.parent  # run as a program, without the helpers
ROOMS = ("trainer", "planner", "launcher", "slurm", "k8s", "local")
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    noticed_by: str | None = None
    """The test that failed."""
    out_of_time_s: float | None = None
    """The time for the slow tests, when it was up before a test failed."""

    def __str__(self) -> str:
        left = f", the slow ones within {self.out_of_time_s:g} s" if self.out_of_time_s is not None else ""
        return self.noticed_by or f"MISSED: no test failed{left}"


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


@functools.cache
def _modules() -> tuple[Path, ...]:
    return tuple(sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")))


def diff_of(edit: Edit) -> str:
    source = (ROOT / edit.module).read_bytes()
    before, after = (text.decode().splitlines(keepends=True) for text in (source, edit.applied(source)))
    name = str(edit.module)
    return "".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", n=2))


def read_results(path: Path, edits: Sequence[Edit]) -> dict[Edit, Found]:
    """What is known of those of `edits` that were run. An edit of code that has changed since is another one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {entry.pop("diff"): Found(**entry) for entry in map(json.loads, lines)}
    return {edit: known[text] for edit in edits if (text := diff_of(edit)) in known}


def run(edits: Sequence[Edit], path: Path, *, whole: bool, nice: int, slow_limit_s: float) -> None:
    """Runs the tests of every edit that has no result yet, and appends each result to the file."""
    done = read_results(path, edits)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.nice(nice - os.nice(0))
    warm_up()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy = EditedCopy(ROOT, Path(name), tuple(_modules()), slow_limit_s=slow_limit_s)
        for edit in edits:
            known = done.get(edit)
            if known and (known.out_of_time_s is None or known.out_of_time_s >= slow_limit_s):
                continue
            start = time.monotonic()
            try:
                text = (ROOT / edit.module).read_bytes()
                found = Found(noticed_by=copy.noticed_by(edit.module, edit.applied(text), whole=whole))
            except OutOfTimeError:
                found = Found(out_of_time_s=slow_limit_s)
            done[edit] = found
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"diff": diff_of(edit), **asdict(found)}) + "\n")
            missed = sum(each.noticed_by is None for each in done.values())
            print(f"{len(done)}/{len(edits)}  {missed} missed  {time.monotonic() - start:4.0f} s  {edit}", flush=True)
            print(f"          {found}", flush=True)


def summary(edits: Sequence[Edit], results: Mapping[Edit, Found]) -> str:
    missed = {edit: found for edit, found in results.items() if found.noticed_by is None}
    left = f"; {len(edits) - len(results)} were not run yet" if len(results) < len(edits) else ""
    lines = [f"{len(results) - len(missed)} of {len(results)} edits were noticed{left}"]
    if short := sum(found.out_of_time_s is not None for found in missed.values()):
        lines.append(f"{short} of the {len(missed)} missed ran out of time: not all of their slow tests were run")
    return "\n".join([*lines, *("\n" + diff_of(edit) for edit in missed)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Small edits of the code, and whether a test notices each.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--list", action="store_true", help="print the edits and run nothing")
    parser.add_argument("--summary", action="store_true", help="print what earlier runs found and run nothing")
    parser.add_argument("--whole", action="store_true", help="give an edit that its own tests miss the fast suite")
    parser.add_argument("--slow-limit-s", type=float, default=math.inf, help="the time for an edit's slow tests")
    parser.add_argument("--nice", type=int, default=19, help="at 19, the default, all else goes first")
    parser.add_argument("modules", nargs="*", help="only these, such as trainer/model/head.py")
    asked = parser.parse_args()
    edits = draw(asked.seed, asked.count, asked.modules)
    if asked.list:
        print(*edits, sep="\n")
        return 0
    path = ROOT / ".mutants" / f"seed-{asked.seed}.jsonl"
    if not asked.summary:
        run(edits, path, whole=asked.whole, nice=asked.nice, slow_limit_s=asked.slow_limit_s)
    results = read_results(path, edits)
    print(f"\n{summary(edits, results)}")
    return any(found.noticed_by is None for found in results.values())


if __name__ == "__main__":
    sys.exit(main())
