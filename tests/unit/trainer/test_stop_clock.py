"""When a run stops by itself, by a clock that the test moves, and what counts as an attempt without a new step."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.node import stop as stopping
from trainer.node.ranks import Ranks
from trainer.node.stop import DEADLINE_ENV, LEAD_ENV, Stop, count_attempt, stop_lead_s
from trainer.outcome import ATTEMPT_DIR_ENV


class Clock:
    """Of the wall and of the process, which begin at different hours."""

    now = 0.0

    def time(self) -> float:
        return 1_000_000 + self.now

    def monotonic(self) -> float:
        return 50 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(stopping, "time", made := Clock())
    monkeypatch.delenv(ATTEMPT_DIR_ENV, raising=False)
    return made


def stop(folder: Path, monkeypatch: pytest.MonkeyPatch, *, deadline_s: float | None, lead_s: str | None) -> Stop:
    for name, value in ((DEADLINE_ENV, deadline_s and str(1_000_000 + deadline_s)), (LEAD_ENV, lead_s)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    return Stop(Ranks(1), folder)


def step(stop: Stop, clock: Clock, number: int, seconds: float) -> None:
    stop.step_began()
    clock.now += seconds
    stop.step_ended(number)


def first_wish(stop: Stop, clock: Clock, *, until_s: int) -> float | None:
    """The second at which the stop is first wanted; None when it is not by `until_s`."""
    while clock.now < until_s and not stop.wanted():
        clock.now += 1
    return clock.now if stop.agreed else None


def test_it_is_two_of_the_longest_step_and_the_longest_save_before_the_deadline(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stop(tmp_path, monkeypatch, deadline_s=1000, lead_s="5")
    for number, seconds in enumerate((20.0, 100.0, 30.0), start=1):
        step(asked, clock, number, seconds)
    for seconds in (7.0, 40.0, 8.0):
        asked.saved(seconds)
    clock.now = 700
    assert first_wish(asked, clock, until_s=1000) == 1000 - (2 * 100 + 40) + 1
    assert asked.step == 3


@pytest.mark.parametrize(("lead_s", "before_s"), [("300", 300), (None, 120)])
def test_it_is_never_later_than_the_schedulers_own_warning(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lead_s: str | None, before_s: int
) -> None:
    asked = stop(tmp_path, monkeypatch, deadline_s=1000, lead_s=lead_s)
    step(asked, clock, 1, 10.0)
    asked.saved(2.0)
    assert first_wish(asked, clock, until_s=1000) == 1000 - before_s + 1


def test_before_a_step_has_ended_the_warning_alone_counts(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stop(tmp_path, monkeypatch, deadline_s=1000, lead_s="1")
    clock.now = 990
    assert first_wish(asked, clock, until_s=1001) == 1000


def test_without_a_deadline_or_a_flag_it_is_never(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stop(tmp_path, monkeypatch, deadline_s=None, lead_s=None)
    step(asked, clock, 1, 1e6)
    assert first_wish(asked, clock, until_s=1_000_200) is None


def test_a_flag_is_seen_at_the_next_question_and_stays_when_it_is_taken_back(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stop(tmp_path, monkeypatch, deadline_s=None, lead_s=None)
    monkeypatch.setenv(ATTEMPT_DIR_ENV, str(tmp_path))
    assert not asked.wanted()
    (tmp_path / stopping.FLAG).touch()
    assert asked.wanted()
    (tmp_path / stopping.FLAG).unlink()
    assert asked.wanted()


def test_a_short_job_is_told_later_than_two_minutes_before_its_end() -> None:
    assert [stop_lead_s(minutes) for minutes in (1, 4, 8, 720)] == [15, 60, 120, 120]


def test_attempts_without_a_new_step_are_counted_in_a_row(tmp_path: Path) -> None:
    counted = [count_attempt(tmp_path, step) for step in (0, 0, 5, 5, 9, 9, 9, 9)]
    assert counted == [1, 2, 0, 1, 0, 1, 2, 3]
    # The third ended the job; who starts it again by hand has three more.
    assert [count_attempt(tmp_path, 9) for _ in range(3)] == [1, 2, 3]
