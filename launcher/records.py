"""run.json: a run's request, the decisions about it, and the code that made them. Written where a run begins. The
verbs after submit read it on every backend; people edit files, so every value is checked."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from launcher.restore_spec import words_of
from planner.job import JobSpec
from planner.plan import Plan
from trainer.files import METRICS_FILE, MIB, MOST_MIB, RECORD_NAME, parse_json, read_json, regular, write_whole
from trainer.outcome import ConfigError
from trainer.text import shown

METRICS_BEGIN, METRICS_END = b'{\n "format": ', b"}\n"
ATTEMPT_NAME = "attempt.json"
"""The record that this machine keeps of a run that it trains itself."""
SPOILT = f"{METRICS_FILE} is not what training wrote: remove it"
JOB_ID = re.compile(r"[0-9]{1,12}(_[0-9]{1,9})?(;[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?|[a-z0-9][a-z0-9-]{0,62}")
"""Slurm's job numbers, also of array members, with the cluster if it is not the default; names of Kubernetes Jobs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run on disk."""

    folder: Path
    record: Mapping[str, Any]
    """The contents of run.json, with `spec`, `plan` and `job_ids` of the right types."""

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Ids of its jobs, oldest first; empty for a run without a scheduler."""
        return tuple(self.record["job_ids"])


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises ConfigError, in one line, when run.json is not what submit wrote."""
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
        # Job ids become arguments of the scheduler's programs.
        if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
            raise ConfigError(f"{path}: {shown(str(job_id))} in job_ids is not a job's number or name: {hint}")
    if record["spec"].get("run_id") != folder.name:
        said = shown(str(record["spec"].get("run_id")))
        raise ConfigError(f"{path}: run_id is {said}, the folder is called {folder.name}: {hint}")
    return Run(folder=folder, record=record)


def name_of(runs: Sequence[Run]) -> tuple[str, str]:
    """(the value for RUN, the name for a person) of a run, or of all members of a sweep."""
    sweep = runs[0].record["spec"].get("sweep") if len(runs) > 1 else None
    return (str(sweep), f"sweep {sweep}") if sweep else (runs[0].run_id, f"run {runs[0].run_id}")


def finished(folder: Path) -> bool:
    """Whether the run in `folder` has finished. An adapter alone does not show that: metrics.json is written after
    it."""
    return _written(folder / METRICS_FILE) is True


def done(folder: Path) -> bool:
    """Whether nothing is left to do: the run has finished, or W&B has seen enough of the trial. A damaged record of a
    trial is ignored."""
    from trainer.sweep.trial import read_trial

    with contextlib.suppress(ConfigError):
        trial = read_trial(folder)
        return finished(folder) or bool(trial and trial.stopped)
    return finished(folder)


def spoilt(folder: Path) -> bool:
    """Whether the run's metrics.json exists but is not what training wrote."""
    return _written(folder / METRICS_FILE) is False


def refuse_spoilt(folder: Path, then: str) -> None:
    """Raises ConfigError for a damaged metrics.json; `then` is the command to type after removing it."""
    if spoilt(folder):
        raise ConfigError(f"{folder}/{SPOILT}, then {then}")


def refuse_anothers(run: Run) -> None:
    """Raises ConfigError for a record that another user wrote, or may write into: its request (MODEL, IMAGE,
    ENVIRONMENT) would run as the person who resumes. Owner and content are those of one open file, whatever has its
    name by now."""
    record = run.folder / RECORD_NAME
    with regular(record).open("rb") as file:
        about, content = os.fstat(file.fileno()), file.read(MOST_MIB * MIB)
    owner = about.st_uid
    if owner == os.getuid() and not _holds(content, run.record):
        raise ConfigError(f"{record} has changed meanwhile: try again")
    if owner != os.getuid():
        raise ConfigError(
            f"{record} is another user's (uid {owner}), and resume would run as you what it asks for: look into it; "
            f"cp {shlex.quote(str(record))} mine && mv mine {shlex.quote(str(record))} makes it yours"
        )
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{record} may be written by others, and resume would run as you what it asks for: look into it, "
            f"then chmod go-w {shlex.quote(str(record))} (changes nothing on a drive without modes: copy the checkout "
            "to your home, and resume there)"
        )


def _holds(content: bytes, record: Mapping[str, Any]) -> bool:
    try:
        return json.dumps(parse_json(content)) == json.dumps(record)  # as text: NaN is not equal to itself
    except ValueError:
        return False


def _written(path: Path) -> bool | None:
    """Whether training wrote this metrics.json; None when there is none. Its first and last bytes identify an
    unchanged file, so that a list of runs reads little; any other file is read whole. A file that cannot be read (it is
    another user's, or its file system does not answer) is taken as written: only its existence is known."""
    try:
        if not path.is_file():
            return False if path.exists() else None  # reading a pipe would block
        with path.open("rb") as file:
            begins = file.read(len(METRICS_BEGIN)) == METRICS_BEGIN
            file.seek(-2, os.SEEK_END)
            if begins and file.read() == METRICS_END:
                return True
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.errno != errno.EINVAL  # seek's, where the file is shorter than its expected end
    try:
        record = read_json(path)
    except OSError:
        return True
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("history"), list)


def run_folders(output: Path) -> list[Path]:
    """Folders below `output` that hold a run.json, the last submitted first."""
    records = list(output.glob(f"*/{RECORD_NAME}"))  # of any kind: read_run reports what is wrong
    records.sort(key=lambda path: (path.lstat().st_mtime_ns, path.parent.name), reverse=True)
    return [path.parent for path in records]


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_whole(folder / RECORD_NAME, json.dumps(record, indent=2) + "\n")


def run_record(plan: Plan, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of run.json: the request, the plan, the code that made them, the time when the run began, its jobs.
    `before` is the record of a run that continues."""
    began = (before or {}).get("began") or f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return {**planned_record(plan), "asked": words_of(plan.spec), "git": _git(plan.spec), "began": began}


def planned_record(plan: Plan) -> dict[str, Any]:
    """The part of run.json that depends only on the plan."""
    decided = plan.to_dict()
    return {"spec": decided.pop("spec"), "plan": decided, "git": None, "job_ids": []}


def _git(spec: JobSpec) -> dict[str, Any] | None:
    """The commit of the checkout and whether it has changes; None when there is no git or no repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", spec.project_dir, *words]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
