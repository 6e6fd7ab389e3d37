"""Decides which rows run when: side by side if they only measure bytes, alone if they are timed. Each row has a
process of its own, so that one that breaks, hangs or fills its memory affects no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.rows import Row
from trainer.log import last_words

LEAST_S = 20.0  # no row is begun with less left
LOOK_S = 0.1
PATIENCE = 4  # times as long in a rehearsal, on a machine that may be busy


@dataclass(kw_only=True, slots=True)
class Running:
    row: Row
    process: subprocess.Popen[bytes]
    result: Path
    log: Path
    began: float
    most_seconds: float

    def ended(self, now: float, ends_at: float) -> dict[str, Any] | None:
        """The result of the row; None while it is running and within its time."""
        over = now > min(self.began + self.most_seconds, ends_at)
        if self.process.poll() is None and not over:
            return None
        if self.process.poll() is None:
            self.end()
        found: dict[str, Any] = json.loads(self.result.read_text()) if self.result.is_file() else {}
        if not found or self.process.returncode:
            last = f"not done after {now - self.began:.0f} s"
            found["failed"] = last if over else last_words(self.log.read_text(errors="replace"))
        return {**found, "seconds_taken": round(now - self.began, 1)}

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def carry_out_all(
    rows: Sequence[Row], folder: str, *, rehearsal: bool, gib: float, slots: int, ends_at: float,
    keep: Callable[[Row, dict[str, Any]], object],
) -> None:  # fmt: skip
    """Run the rows; `keep` is called at once with each row that ends. Rows that together take up to `gib` GiB run
    side by side, at most `slots` of them."""
    waiting, running = list(rows), list[Running]()
    set_up = Row(name="model and records", module="stage", most_seconds=180)
    if not _alone(set_up, folder, rehearsal, ends_at, keep):
        return
    try:
        while waiting or running:
            now = time.monotonic()
            for one in list(running):
                if (found := one.ended(now, ends_at)) is not None:
                    running.remove(one)
                    keep(one.row, found)
            if now > ends_at - LEAST_S:
                waiting.clear()
            if waiting and _may_begin(waiting[0], [one.row for one in running], gib, slots):
                running.append(_begin(waiting.pop(0), folder, rehearsal))
            else:
                time.sleep(LOOK_S)
    finally:
        for one in running:
            one.end()


def _may_begin(row: Row, beside: Sequence[Row], gib: float, slots: int) -> bool:
    if not beside:
        return True
    timed = not row.gib or any(not other.gib for other in beside)
    return not timed and len(beside) < slots and row.gib + sum(other.gib for other in beside) <= gib


def _begin(row: Row, folder: str, rehearsal: bool) -> Running:
    place = Path(folder, row.name.replace(" ", "-").replace("/", "-"))
    result, log = place.with_suffix(".json"), place.with_suffix(".log")
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_proof.row", row.name, folder, str(result)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*words, *(["--rehearse"] if rehearsal else [])], stdout=out, stderr=out, start_new_session=True
        )
    most_seconds = row.most_seconds * (PATIENCE if rehearsal else 1)
    return Running(row=row, process=process, result=result, log=log, began=time.monotonic(), most_seconds=most_seconds)


def _alone(
    row: Row, folder: str, rehearsal: bool, ends_at: float, keep: Callable[[Row, dict[str, Any]], object]
) -> bool:
    """Whether the row succeeded when run alone; only a failure is kept."""
    one = _begin(row, folder, rehearsal)
    try:
        while (found := one.ended(time.monotonic(), ends_at)) is None:
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        one.end()
        raise
    if "failed" in found:
        keep(row, found)
    return "failed" not in found
