"""Counts attempts that were killed before they could say anything: the node's memory or disk ran out, or the node was
lost. Kubernetes restarts an evicted pod without counting it, and Slurm does not count a job whose node was lost. So
the run counts such attempts itself, in its folder."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from trainer.files import CHECKPOINT_NAME, read_json, write_whole
from trainer.outcome import SickNode

BEGUN_NAME = "begun.json"
"""Name of a file in the run's folder while an attempt goes on; it stays when the attempt is killed."""
MAX_KILLED = 10


def begin_attempt(run_dir: Path) -> None:
    """Record that an attempt begins, where the run has a folder; a wrong request must not leave one behind.

    Raises SickNode when the last MAX_KILLED attempts in a row were killed, and none of them left a new checkpoint.
    """
    try:
        saved = _newest_step(run_dir)
    except OSError:  # the preflight says what is wrong with the folder
        return
    killed = _killed_before(run_dir, saved)
    if killed >= MAX_KILLED:
        raise SickNode(
            f"the last {killed} attempts were killed before they saved a new checkpoint, so this one is not begun: "
            "most often the node's memory (MEM=) or disk is too small, or save_steps is too large for what time it has"
        )
    if not run_dir.is_dir():
        return
    with contextlib.suppress(OSError):  # the preflight reports what is wrong with the folder
        write_whole(run_dir / BEGUN_NAME, json.dumps({"saved": saved, "killed": killed}) + "\n")


def end_attempt(run_dir: Path) -> None:
    """Record that the attempt has reported its end, so it was not killed."""
    with contextlib.suppress(OSError):
        (run_dir / BEGUN_NAME).unlink(missing_ok=True)


def _killed_before(run_dir: Path, saved: int) -> int:
    """How many attempts, one after the other, were killed at this checkpoint. Anybody may have written the record: what
    no attempt writes counts for nothing."""
    try:
        record = read_json(run_dir / BEGUN_NAME)
        before = record["killed"] if record["saved"] == saved else None
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return before + 1 if type(before) is int and 0 <= before < MAX_KILLED else 0


def _newest_step(run_dir: Path) -> int:
    found = (CHECKPOINT_NAME.fullmatch(path.name) for path in (run_dir / "checkpoints").glob("step-*"))
    return max((int(name[1]) for name in found if name), default=0)
