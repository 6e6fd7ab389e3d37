"""progress.json in a run's folder: how far the run is. Rank 0 writes it, the supervisor adds how the attempt ended,
and `status` and `list` read it. Torch-free.

Every value is checked when it is read, because anyone who may write into a folder of runs can leave anything in it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from trainer.files import parse_json, regular, write_whole
from trainer.outcome import FINISHED, RUN_AGAIN

PROGRESS_FILE = "progress.json"
LOADING, TRAINING, EVALUATING, SAVING = "loading", "training", "evaluating", "saving"
FAILED_PHASE = "failed"
PHASES = (LOADING, TRAINING, EVALUATING, SAVING, "finished", "stopped", FAILED_PHASE)
ENDS = {FINISHED: "finished", RUN_AGAIN: "stopped"}
"""The phase for an exit code of the supervisor; for every other code it is FAILED_PHASE."""
MOST_BYTES = 4096
"""Kubernetes keeps so many bytes of a pod's termination message."""
MOST_STEPS, LARGEST = 10**12, 10**11
"""LARGEST is the limit of every other number: a terminal shows it on a line, and as a time it is far in the future."""
SAID_CHARS = 1000
LEAST_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The state of a run. None, and 0 for `of`, mean not known yet. Times are unix seconds."""

    phase: str
    written_at: float
    step: int = 0
    """Optimizer steps done."""
    of: int = 0
    """Steps of the whole training."""
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    token_accuracy: float | None = None
    """Share of the training tokens predicted right since the previous log, from 0 to 1."""
    action_accuracy: float | None = None
    """Share of right actions in the last evaluation, from 0 to 1."""
    step_at: float | None = None
    """The time when `step` was done."""
    seconds_per_step: float | None = None
    """Mean of this attempt, evaluations and saving included."""
    said: str = ""
    """Why the attempt ended, in the supervisor's words."""
    out_of_memory: bool = False
    """Whether the attempt failed after the kernel had killed a process of it for want of memory."""


def parse_progress(text: str) -> Progress | None:
    """The contents of progress.json; None for a text that training did not write."""
    try:
        found = parse_json(text)
        known = {field.name: found[field.name] for field in fields(Progress) if field.name in found}
        progress = Progress(**known)
        return progress if _plausible(progress) else None
    except (ValueError, TypeError, ArithmeticError):  # ArithmeticError: a whole number of a thousand digits
        return None


def _plausible(progress: Progress) -> bool:
    counts = (progress.step, progress.of)
    times = _given(progress.written_at, progress.step_at, progress.seconds_per_step)
    shares = _given(progress.token_accuracy, progress.action_accuracy)
    numbers = [*times, *shares, *_given(progress.epoch, progress.loss, progress.learning_rate)]
    return (
        progress.phase in PHASES
        and progress.written_at is not None
        and all(type(count) is int and 0 <= count <= MOST_STEPS for count in counts)
        and (progress.of == 0 or progress.step <= progress.of)
        and all(type(number) in (int, float) and abs(number) <= LARGEST for number in numbers)  # NaN fails this test
        and all(time >= 0 for time in times)
        and all(0 <= share <= 1 for share in shares)
        and isinstance(progress.said, str)
        and len(progress.said) <= SAID_CHARS
        and type(progress.out_of_memory) is bool
    )


def _given(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]


def read_progress(folder: Path) -> Progress | None:
    """The progress of the run in `folder`; None when it has no progress.json, or one that training did not write.

    A scheduler whose runs lie on this machine calls this with the run's folder. For runs on another machine, pass the
    file's text to `parse_progress`.
    """
    try:
        with regular(folder / PROGRESS_FILE).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return parse_progress(content.decode()) if len(content) <= MOST_BYTES else None
    except (OSError, ValueError):
        return None


def progress_text(progress: Progress) -> str:
    """The progress as JSON, at most MOST_BYTES of it: `said` is cut to fit. A number that a reader would refuse
    becomes null, for example a loss of NaN."""
    values = {
        name: None if isinstance(value, float) and not abs(value) <= LARGEST else value
        for name, value in asdict(progress).items()
    }
    said = progress.said[:SAID_CHARS]
    while True:
        text = json.dumps({**values, "said": said}, indent=1) + "\n"
        if not said or len(text) <= MOST_BYTES:
            return text
        # No character takes more than 12 bytes, so that only a few characters too many are cut.
        said = said[: -1 - (len(text) - MOST_BYTES) // 12]


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace the file as a whole, without waiting for the disk, since the next update comes soon. Raises OSError."""
    write_whole(folder / PROGRESS_FILE, progress_text(progress), sync=False)


def write_end(folder: Path, code: int, said: str, now: float, *, began: float, out_of_memory: bool = False) -> Progress:
    """Record that the attempt which started at `began` ended with `code`, and why. Known facts about its steps stay,
    and so does the message that another node has written since, unless this node alone knows that memory ran out.
    Returns the progress, even if the folder cannot be written to."""
    known = read_progress(folder) or Progress(phase=FAILED_PHASE, written_at=0.0)
    said_since = known.phase == FAILED_PHASE and known.said and known.written_at >= began
    if code != FINISHED and said_since and (known.out_of_memory or not out_of_memory):
        return known
    phase = ENDS.get(code, FAILED_PHASE)
    ended = replace(known, phase=phase, said=said[:SAID_CHARS], written_at=now, out_of_memory=out_of_memory)
    if folder.is_dir():  # a refused request makes no folder
        with contextlib.suppress(OSError):  # a full disk: the log, too, says how the attempt ended
            write_progress(folder, ended)
    return ended


class ProgressWriter:
    """Writes progress.json of a run: at every new phase, and within a phase at most once in LEAST_S.

    Values from an earlier attempt stay until new ones are known. A folder that cannot be written to is reported once
    and stops no training.
    """

    def __init__(self, folder: Path | None, complain: Callable[[str], object]) -> None:
        """Without a folder nothing is written, since only one process of a run writes."""
        self._folder, self._complain = folder, complain
        known = read_progress(folder) if folder else None
        self._known = replace(
            known or Progress(phase=LOADING, written_at=0.0), written_at=0.0, said="", out_of_memory=False
        )
        self._written = float("-inf")

    def phase(self, phase: str, **known: Any) -> None:
        """Note that a phase begins; `known` are fields of Progress."""
        begins = phase != self._known.phase or not self._known.written_at
        self.note(phase=phase, **known)
        if begins:
            self._write()

    def note(self, **known: Any) -> None:
        """Note fields of Progress for the next time it is written."""
        self._known = replace(self._known, **known)

    def log(self, **known: Any) -> None:
        self.note(**known)
        if time.monotonic() - self._written >= LEAST_S:
            self._write()

    def _write(self) -> None:
        if self._folder is None:
            return
        self._known = replace(self._known, written_at=time.time())
        try:
            write_progress(self._folder, self._known)
        except OSError as error:
            self._complain(f"{self._folder / PROGRESS_FILE} cannot be written ({error.strerror}): status knows no step")
            self._folder = None
        self._written = time.monotonic()
