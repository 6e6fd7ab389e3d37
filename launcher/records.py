"""run.json: what a run was asked for, what was decided, and with which code. Written where a run begins.

Read back by the verbs that come after submit, on every backend; people edit files, so nothing in it is believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from launcher.restore_spec import words_of
from planner.job import JobSpec
from planner.plan import Plan
from trainer.files import METRICS_FILE, RECORD_NAME, read_json, write_whole
from trainer.outcome import ConfigError
from trainer.text import shown

METRICS_BEGIN, METRICS_END = b'{\n "format": ', b"}\n"
ATTEMPT_NAME = "attempt.json"
"""The record that this machine keeps of a run that it trains itself."""
SPOILT = f"{METRICS_FILE} is not what training wrote: remove it"
JOB_ID = re.compile(r"[0-9]{1,12}(_[0-9]{1,9})?(;[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?|[a-z0-9][a-z0-9-]{0,62}")
"""Slurm's numbers, those of an array's members too, with the cluster where it is another; names of Kubernetes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run that lies on disk."""

    folder: Path
    record: Mapping[str, Any]
    """run.json, with `spec`, `plan` and `job_ids` of the right kinds."""

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Oldest first; empty for a run without a scheduler."""
        return tuple(self.record["job_ids"])


def read_run(folder: Path) -> Run:
    """Raises ConfigError, in one line, when run.json is not what submit wrote."""
    path = folder / RECORD_NAME
    hint = f"put it right or remove {folder}"
    try:
        record = read_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): {hint}") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{path} is not a JSON object: {hint}")
    for key, kind, name in (("spec", dict, "an object"), ("plan", dict, "an object"), ("job_ids", list, "a list")):
        if not isinstance(record.get(key), kind):
            raise ConfigError(f"{path}: {key} is {f'not {name}' if key in record else 'missing'}: {hint}")
    for job_id in record["job_ids"]:
        # They become arguments of the scheduler's programs.
        if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
            raise ConfigError(f"{path}: {shown(str(job_id))} in job_ids is not a job's number or name: {hint}")
    if record["spec"].get("run_id") != folder.name:
        said = shown(str(record["spec"].get("run_id")))
        raise ConfigError(f"{path}: run_id is {said}, the folder is called {folder.name}: {hint}")
    return Run(folder=folder, record=record)


def name_of(runs: Sequence[Run]) -> tuple[str, str]:
    """(what RUN takes, as a person calls it) for a run, or for all members of a sweep."""
    sweep = runs[0].record["spec"].get("sweep") if len(runs) > 1 else None
    return (str(sweep), f"sweep {sweep}") if sweep else (runs[0].run_id, f"run {runs[0].run_id}")


def finished(folder: Path) -> bool:
    """Whether the run in `folder` came to its end. An adapter alone says less: what is known of it comes after it."""
    return _written(folder / METRICS_FILE) is True


def done(folder: Path) -> bool:
    """Whether nothing is left to do: it came to its end, or W&B has seen enough of the trial. A trial's record that was
    spoilt says nothing."""
    from trainer.sweep.trial import read_trial

    with contextlib.suppress(ConfigError):
        trial = read_trial(folder)
        return finished(folder) or bool(trial and trial.stopped)
    return finished(folder)


def spoilt(folder: Path) -> bool:
    """Whether the run's metrics.json is there and not what training wrote."""
    return _written(folder / METRICS_FILE) is False


def refuse_spoilt(folder: Path, then: str) -> None:
    """Raises ConfigError for a spoilt metrics.json, with what to type `then`."""
    if spoilt(folder):
        raise ConfigError(f"{folder}/{SPOILT}, then {then}")


def refuse_anothers(record: Path) -> None:
    """Raises ConfigError for a run.json that somebody else has written: what it asks for (MODEL, IMAGE, ENVIRONMENT)
    would run as the person who resumes."""
    owner = record.stat().st_uid
    if owner != os.getuid():
        raise ConfigError(
            f"{record} is another user's (uid {owner}), and resume would run as you what it asks for: look into it; "
            f"cp {shlex.quote(str(record))} mine && mv mine {shlex.quote(str(record))} makes it yours"
        )


def _written(path: Path) -> bool | None:
    """Whether training wrote this metrics.json; None where there is none. One as it is written is known by its first
    and last bytes, so that a list of runs reads little; any other is read whole."""
    try:
        if not path.is_file():
            return False if path.exists() else None  # a pipe would be waited for
        with path.open("rb") as file:
            begins = file.read(len(METRICS_BEGIN)) == METRICS_BEGIN
            file.seek(-2, os.SEEK_END)
            if begins and file.read() == METRICS_END:
                return True
    except FileNotFoundError:
        return None
    except PermissionError:
        return True  # somebody else's: nothing more is known than that it is there
    except OSError:
        return False  # shorter than its end
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and isinstance(record.get("history"), list)


def run_folders(output: Path) -> list[Path]:
    """Folders below `output` that hold a run.json, the one last submitted first."""
    records = list(output.glob(f"*/{RECORD_NAME}"))  # whatever they are: read_run says what is wrong with one
    records.sort(key=lambda path: (path.lstat().st_mtime_ns, path.parent.name), reverse=True)
    return [path.parent for path in records]


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_whole(folder / RECORD_NAME, json.dumps(record, indent=2) + "\n")


def run_record(plan: Plan, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of run.json: the request, the plan, the code they were made with, when the run began, the jobs that
    worked on it. `before` is that of a run that goes on."""
    began = (before or {}).get("began") or f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return {**planned_record(plan), "asked": words_of(plan.spec), "git": _git(plan.spec), "began": began}


def planned_record(plan: Plan) -> dict[str, Any]:
    """The part of it that depends on the plan alone."""
    decided = plan.to_dict()
    return {"spec": decided.pop("spec"), "plan": decided, "git": None, "job_ids": []}


def _git(spec: JobSpec) -> dict[str, Any] | None:
    """Commit of the checkout and whether it has changes; None where there is no git or no repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", spec.project_dir, *words]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
