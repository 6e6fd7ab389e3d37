"""What an attempt counts in seconds: its saves, and all training since the run began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.training import attempt
from trainer.training.attempt import Attempt


class Clock:
    now = 5000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(attempt, "time", made := Clock())
    monkeypatch.setattr(attempt, "save_weights", lambda folder, trainer: None)
    return made


class Trainer(SimpleNamespace):
    """What an attempt needs of the Trainer; counts nothing."""

    def store_flos(self) -> None: ...
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None: ...
    def _save_rng_state(self, output_dir: str) -> None: ...


def trainer() -> Trainer:
    window = {"_tr_loss": torch.tensor(3.0), "_total_loss_scalar": 4.0, "_globalstep_last_logged": 2}
    state = SimpleNamespace(global_step=7, log_history=[{"eval_loss": 0.5, "step": 3}, {"eval_loss": 0.7, "step": 7}])
    args = SimpleNamespace(process_index=0, should_save=False, device="cpu")
    return Trainer(**window, _evaluation_owed=False, state=state, args=args)


class Store:
    """Commits into one folder, in 12 seconds."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder, self.clock = folder, clock
        self.asked: list[tuple[int, int | None]] = []

    def steps(self) -> list[int]:
        return [3]

    def save(self, step: int, fill: Callable[[Path], None], protect: int | None) -> None:
        self.asked.append((step, protect))
        self.clock.now += 12
        fill(self.folder)


def made(store: Store, saves_s: list[float], meter: dict[str, Any]) -> Attempt:
    kept = SimpleNamespace(state=lambda: {"samples": 9}, restore=meter.update)
    return Attempt(store, SimpleNamespace(saved=saves_s.append), kept)  # type: ignore[arg-type]


def test_a_save_says_how_long_it_took_and_the_next_attempt_goes_on_counting(clock: Clock, tmp_path: Path) -> None:
    store, saves_s, meter = Store(tmp_path, clock), [], {}
    first = made(store, saves_s, meter)
    first.begin(trainer())
    clock.now += 100
    first.save(trainer())
    assert (store.asked, saves_s, first.seconds()) == ([(7, 3)], [12.0], 112.0)
    clock.now += 1000  # what was done after the checkpoint is done once more
    following, restored = made(store, saves_s, meter), trainer()
    vars(restored).update(_tr_loss=None, _total_loss_scalar=0.0, _globalstep_last_logged=0, _evaluation_owed=True)
    following.checkpoint = tmp_path
    following.begin(restored)
    clock.now += 50
    assert (following.seconds(), meter) == (162.0, {"samples": 9})
    assert restored == trainer()
