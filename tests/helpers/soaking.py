"""What the soaks of both beds share: a broken promise, a step's log, and how a run must have ended."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toy_project import read_losses, toy_losses
from wandb_server import Service

STEPS = 2000
LONGEST_S = 120
"""For what a fault brings about."""


class Lost(AssertionError):
    """A promise that was not kept."""


def whole(folder: Path) -> list[int]:
    """The steps of a run's checkpoints that are whole."""
    found = (path.parent.name for path in (folder / "checkpoints").glob("step-*/manifest.json"))
    return sorted(int(name.removeprefix("step-")) for name in found)


def steps(log: str) -> int:
    found = re.findall(r"(?m)(?:^|rank 0: )step +(\d+)(?:/|$)", log)
    return int(found[-1]) if found else 0


def check_goes_on(log: str, newest: int) -> None:
    """Raises Lost when the newest attempt in the log began below a step whose checkpoint was whole."""
    began = [int(step) for step in re.findall(r"going on from step (\d+)", log)]
    if began and began[0] < newest:
        raise Lost(f"going on from step {began[0]}, step {newest} was whole\n{log[-2000:]}")


def remove_newest(folder: Path) -> int:
    """Remove the newest checkpoint; returns the step of the one before it."""
    *_, before, newest = whole(folder)
    shutil.rmtree(folder / "checkpoints" / f"step-{newest:06d}")
    return before


def damage_newest(folder: Path) -> int:
    """Damage the newest checkpoint, as a failing disk does; returns the step of the one before it."""
    *_, before, newest = whole(folder)
    files = (folder / "checkpoints" / f"step-{newest:06d}").iterdir()
    max((path for path in files if path.name != "manifest.json"), key=lambda path: path.stat().st_size).write_text("{")
    return before


def check_toy(folder: Path, last_step: int) -> None:
    """Raises Lost unless every step of the toy is that of a run without faults."""
    losses = read_losses(folder)
    if losses != toy_losses(last_step):
        raise Lost(f"{len(losses)} steps that are not those of a run without faults")


def summary(folder: Path, service: Service, faults: Sequence[str], last_step: int, **more: Any) -> dict[str, Any]:
    """The record of a soak. Raises Lost unless its last checkpoint is that of the last step, and W&B has one run."""
    runs = {run.get("name") for run in service.seen()["runs"]}
    if runs != {"soak"}:
        raise Lost(f"W&B has the runs {runs}")
    if whole(folder)[-1] != last_step:
        raise Lost(f"the newest checkpoint is that of step {whole(folder)[-1]}")
    return {
        "last_step": whole(folder)[-1], "of": last_step, "wandb_runs": len(runs),
        "faults": dict(sorted(Counter(faults).items())), "cores": os.cpu_count(), **more,
    }  # fmt: skip
