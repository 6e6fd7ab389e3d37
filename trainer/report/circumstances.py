"""The time, place and source of a run, and the command that trains it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.commands import CHECKOUT, command_from_anywhere
from trainer.report.charts import Entry

COMMIT_CHARS = 12
LINE_CHARS = 100  # of a command


Fact = tuple[str, str, str | None]
"""(its label, its words, the address of its link)."""


def facts(record: Entry) -> list[Fact]:
    """A run's circumstances from metrics.json; missing ones are left out."""
    found = record.get("provenance") or {}
    git, link = found.get("git") or {}, found.get("wandb")
    commit = str(git.get("commit") or "")[:COMMIT_CHARS]
    changed = ", with changes that are not committed" if git.get("dirty") else ""
    said = (
        ("began", found.get("began"), None),
        ("ended", found.get("ended"), None),
        ("on", ", ".join(filter(None, (found.get("host"), found.get("hardware")))), None),
        ("code", commit and f"commit {commit}{changed}", None),
        ("W&B", link, link if str(link).startswith(("https://", "http://")) else None),
    )
    return [(label, str(text), address) for label, text, address in said if text]


def again(run_dir: Path, begun: Mapping[str, Any]) -> str | None:
    """The command that trains with the same settings, into a folder beside `run_dir`, from run.json (`begun`): the
    plan's command for a run on one machine, the submitting command for several machines. None when run.json has no
    command."""
    plan = begun.get("plan")
    words, env = (plan.get("launch_argv"), plan.get("env")) if isinstance(plan, dict) else (None, None)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not isinstance(env, dict):
        return None
    if words[:2] != ["accelerate", "launch"]:
        return None
    if ("--num_machines", "1") not in pairwise(words):  # several machines need values that only their scheduler sets
        return _submitted_again(run_dir, begun.get("asked"))
    other = {"--output_dir": f"{run_dir}-again", "--run_id": f"{run_dir.name}-again"}
    changed = [other.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    job = command_from_anywhere("accelerate.commands.launch")
    there, _, launched = job.rpartition(" && ")
    parts = [*map(shlex.quote, ["env", *(f"{name}={value}" for name, value in env.items())]), launched]
    line = folded([*parts, *_flags(changed[2:])])
    return f"{there} && \\\n{line}" if there else line


def _flags(words: Sequence[str]) -> list[str]:
    """The words, each flag together with its value, quoted for a shell."""
    parts: list[list[str]] = []
    for word in words:
        if word.startswith("-") or not parts:
            parts.append([])
        parts[-1].append(word)
    return [shlex.join(part) for part in parts]


def folded(parts: Sequence[str]) -> str:
    """A command of these parts on lines of at most LINE_CHARS, where no part is longer."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) > LINE_CHARS:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


def _submitted_again(run_dir: Path, asked: object) -> str | None:
    if not isinstance(asked, list) or not all(isinstance(word, str) and "=" in word for word in asked):
        return None
    words = [*(word for word in asked if not word.startswith("NAME=")), f"RUN={run_dir.name}-again"]
    return f"cd {shlex.quote(str(CHECKOUT))} && \\\nmake submit {shlex.join(words)}"
