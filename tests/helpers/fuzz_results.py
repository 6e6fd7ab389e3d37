"""What fuzzing has spent on each reader (benchmarks/results/fuzz.json, and fuzz.md for people), added up over runs.

A row counts for the code that its reader ran: it is added to while the reader's seeds and the modules that it reached
are what they were, comments and docstrings aside, and begins anew when they have changed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from paths import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"
HEAD = """# Fuzzing of the readers

Written by `python tests/fuzz.py`, which adds to it. A row begins anew when the modules that its reader runs have
changed. CPU times are under the tracer, which makes Python about ten times slower.

| reader | CPU minutes | inputs | kept | lines of ours | most CPU s an input | most MiB an input | findings | commit |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(kw_only=True)
class Spent:
    """On one reader, since its code last changed."""

    cpu_s: float = 0.0
    inputs: int = 0
    kept: int = 0
    """The inputs that reached new lines, in the run that kept most."""
    lines: int = 0
    most_cpu_s: float = 0.0
    most_mib: int = 0
    findings: int = 0
    commit: str = ""
    """The newest one that was run."""
    modules: list[str]
    code: str = ""

    def added(self, new: Spent) -> Spent:
        return Spent(
            cpu_s=self.cpu_s + new.cpu_s,
            inputs=self.inputs + new.inputs,
            kept=max(self.kept, new.kept),
            lines=max(self.lines, new.lines),
            most_cpu_s=max(self.most_cpu_s, new.most_cpu_s),
            most_mib=max(self.most_mib, new.most_mib),
            findings=self.findings + new.findings,
            commit=new.commit,
            modules=sorted({*self.modules, *new.modules}),
        )


def code_of(modules: list[str], seeds: list[bytes], root: Path = ROOT) -> str:
    """A digest of what the modules do and of the seeds; empty where a module is gone."""
    digest = hashlib.sha256(repr(seeds).encode())
    for module in modules:
        try:
            tree = ast.parse((root / module).read_bytes())
        except OSError:
            return ""
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                node.body = [line for line in node.body if not _is_text(line)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def read_spent(results: Path = RESULTS) -> dict[str, Spent]:
    found = json.loads(results.read_text()) if results.exists() else {}
    return {name: Spent(**row) for name, row in found.items()}


def still_counts(row: Spent | None, seeds: list[bytes], root: Path = ROOT) -> Spent:
    """The row as far as it was made with the code that lies there; an empty one otherwise."""
    return row if row and row.code == code_of(row.modules, seeds, root) else Spent(modules=[])


def keep_spent(name: str, seeds: list[bytes], new: Spent, results: Path = RESULTS, root: Path = ROOT) -> Spent:
    """Adds to the reader's row, and writes both files."""
    rows = read_spent(results)
    row = still_counts(rows.get(name), seeds, root).added(new)
    row.code = code_of(row.modules, seeds, root)
    rows[name] = row
    results.write_text(json.dumps({name: asdict(rows[name]) for name in sorted(rows)}, indent=1) + "\n")
    results.with_suffix(".md").write_text(HEAD + "".join(f"{_cells(name, rows[name])}\n" for name in sorted(rows)))
    return row


def _cells(name: str, row: Spent) -> str:
    cells = (f"`{name}`", f"{row.cpu_s / 60:.1f}", row.inputs, row.kept, row.lines, f"{row.most_cpu_s:.2f}")
    return "| " + " | ".join(map(str, (*cells, row.most_mib, row.findings, row.commit))) + " |"


def commit_here() -> str:
    """With a plus sign where files differ from it."""
    said = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"
