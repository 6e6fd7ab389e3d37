"""How often a scheduler is asked while a log is followed: by a clock that the test moves."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from launcher import logs
from launcher.progress import Job


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return 7 + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_it_is_asked_ever_more_seldom_and_at_least_four_times_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "time", clock := Clock())
    asked: list[float] = []

    def ask() -> Job:
        asked.append(clock.now)
        return Job(job_id="1", state="RUNNING", ended=len(asked) == 12)

    logs.follow(tmp_path / "log", ask)
    pauses = [later - sooner for sooner, later in itertools.pairwise(asked)]
    wanted = [min(1.5**n, 15.0) for n in range(11)]
    assert len(pauses) == 11
    # It looks every READ_EVERY_S whether it is time.
    assert all(-1e-6 < found - least < logs.READ_EVERY_S + 1e-6 for found, least in zip(pauses, wanted, strict=True))
