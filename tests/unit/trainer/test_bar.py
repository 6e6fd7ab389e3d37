"""What training shows while it runs, by a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


def test_the_bar_says_what_is_left_after_the_first_step_of_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.tracking import progress

    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now, time=lambda: 5000.0)
    shown: list[tuple[Any, ...]] = []
    noted: list[dict[str, Any]] = []
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "LAST_ROW", SimpleNamespace(show=lambda *words: shown.append(words)))
    written: Any = SimpleNamespace(phase=lambda *_, **__: None, note=lambda **values: noted.append(values))
    bar = progress.Progress(written)
    state = SimpleNamespace(global_step=4, max_steps=12, epoch=0.5, is_world_process_zero=True)
    bar.on_train_begin(None, state, None)
    for seconds in (20, 40):
        clock.now += seconds
        state.global_step += 1
        bar.on_step_end(None, state, None)
    assert shown == [
        ("step  4/12", 4 / 12, ""), ("step  5/12", 5 / 12, "left 2.3 min"), ("step  6/12", 6 / 12, "left 3.0 min"),
    ]  # fmt: skip
    assert noted == [
        {"step": 5, "epoch": 0.5, "step_at": 5000.0, "seconds_per_step": 20.0},
        {"step": 6, "epoch": 0.5, "step_at": 5000.0, "seconds_per_step": 30.0},
    ]
