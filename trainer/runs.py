"""run.json: what a run was asked for, what was decided, and with which code. Written where a run begins."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.job import JobSpec, Plan

RECORD_NAME = "run.json"


def run_record(plan: Plan) -> dict[str, Any]:
    """What run.json says: the request, the plan, the code they were made with, the jobs that worked on it."""
    decided = plan.to_dict()
    return {"spec": decided.pop("spec"), "plan": decided, "git": _git(plan.spec), "job_ids": []}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    beside = folder / f".{RECORD_NAME}.{os.getpid()}"
    beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    beside.replace(folder / RECORD_NAME)


def _git(spec: JobSpec) -> dict[str, Any] | None:
    """Commit of the checkout and whether it has changes; None where there is no git or no repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", spec.project_dir, *words]
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
