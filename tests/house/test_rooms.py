"""The layout is a design decision: which room may use which, and how long a module may be."""

from __future__ import annotations

import ast
import functools
import io
import re
import shutil
import subprocess
import sys
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT
from sources import modules, nodes, tree

# Each room, and those it may use. The trainer is usable without anything that plans or launches, and is all that the
# image holds.
PLANNED, LAUNCHED = ("trainer", "planner"), ("trainer", "planner", "launcher")
USES = {
    "trainer": (), "planner": ("trainer",), "launcher": PLANNED, "slurm": LAUNCHED, "k8s": LAUNCHED, "local": LAUNCHED,
    "examples": (*LAUNCHED, "local"), "benchmarks": (*LAUNCHED, "slurm", "k8s", "local", "examples"),
}  # fmt: skip
MODULE_LINES = 300
NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
)  # fmt: skip


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in modules(*USES)}


@functools.cache
def used(module: Path) -> set[str]:
    """Every module of ours that `module` names: in an import, also one inside a function, or whole in a string, as
    `python -m` and lazy imports take it."""
    found: set[str] = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {part if part in MODULES else str(node.module) for part in parts}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            (text,) = re.findall(r"^([\w.]+\.\w+)(?::\w+)?$", node.value) or [""]
            found.add(text)
    return found & MODULES.keys()


def folder(name: str) -> str:
    """The folder inside a room that a module is in; one that is in none stands for itself."""
    return ".".join(name.split(".")[:2])


def test_a_room_uses_only_those_below_it() -> None:
    beyond = {
        (name, other)
        for name, path in MODULES.items()
        for other in used(path)
        if (room := name.split(".")[0]) != (below := other.split(".")[0]) and below not in USES[room]
    }
    assert beyond == set()


@pytest.mark.parametrize("room", USES)
def test_no_folder_of_a_room_uses_one_that_uses_it(room: str) -> None:
    """graphlib raises CycleError, with the way round."""
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name.split(".")[0] == room != name:
            here = {folder(other) for other in used(path) if other.split(".")[0] == room != other}
            graph.setdefault(folder(name), set()).update(here - {folder(name)})
    assert list(TopologicalSorter(graph).static_order()) or room == "examples"


def test_a_room_names_what_it_is_for() -> None:
    packages = [path for path in MODULES.values() if path.name == "__init__.py"]
    assert {str(path.relative_to(ROOT)) for path in packages if not ast.get_docstring(tree(path))} == set()


def test_the_configurations_are_yaml_alone() -> None:
    found = subprocess.run(
        ["git", "ls-files", "accelerate_configs"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {Path(line).suffix for line in found.stdout.splitlines()} <= {".yaml", ".md"}


@pytest.mark.slow
def test_the_trainer_works_alone(tmp_path: Path) -> None:
    """As in the image, where nothing that plans or launches is."""
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "layers", "--model", "google/gemma-3-4b-it", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert '"name": "tower and projector too (vision=lora)"' in done.stdout


def code_lines(module: Path) -> int:
    """Lines that hold code: blank ones, comments and docstrings do not count."""
    text = module.read_text(encoding="utf-8")
    documentation: set[int] = set()
    for node in nodes(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for t in tokens if t.type not in NO_CODE for line in range(t.start[0], t.end[0] + 1)}
    return len(lines - documentation)


def test_a_module_is_readable_in_one_sitting() -> None:
    long = {name: path for name, path in MODULES.items() if path.read_text().count("\n") > MODULE_LINES}
    assert {name: lines for name, path in long.items() if (lines := code_lines(path)) > MODULE_LINES} == {}
