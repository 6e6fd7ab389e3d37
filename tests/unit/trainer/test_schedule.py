"""The learning rate of every step."""

from __future__ import annotations

import json
from math import cos, pi
from pathlib import Path

import pytest
from training import train_forked

LISTED = {
    (1, 0.1): [1],
    (2, 0.1): [1, 0.5],
    (2, 0.5): [0.5, 1],
    (6, 0.1): [0.5, 1, *(0.5 + 0.5 * cos(pi * n / 5) for n in (1, 2, 3, 4))],
    (6, 0): [1, *(0.5 + 0.5 * cos(pi * n / 6) for n in (1, 2, 3, 4, 5))],
    (14, 0.1): [0.5, *(0.5 + 0.5 * cos(pi * n / 13) for n in range(13))],
    (100, 0.1): [*(n / 11 for n in range(1, 11)), *(0.5 + 0.5 * cos(pi * n / 90) for n in range(90))],
    (3, 1): [1 / 3, 2 / 3, 1],
    (1, 1): [1],
}


@pytest.mark.parametrize(("steps", "warmup_fraction"), LISTED)
def test_the_rate_of_every_step_is_the_listed_share_of_the_peak(steps: int, warmup_fraction: float) -> None:
    """As the Trainer drives it: a step with the rate that stands, then a step of the schedule."""
    import torch

    from trainer.training.schedule import schedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    rates = schedule(optimizer, warmup_fraction=warmup_fraction, steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert found == pytest.approx([2e-3 * share for share in LISTED[steps, warmup_fraction]])
    assert max(found) == 2e-3 and min(found) > 0


def test_no_training_has_a_step_without_a_rate_or_misses_the_peak() -> None:
    from trainer.training.schedule import share_of_peak

    for steps in range(1, 300):
        for warmup in {0, 1, steps // 10, steps // 2, steps - 1, steps}:
            shares = [share_of_peak(step, warmup=warmup, steps=steps) for step in range(steps)]
            assert min(shares) > 0 and max(shares) == 1, (steps, warmup)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_short_training_learns_from_its_first_step_on(
    tmp_path: Path, tiny_model: Path, walks: Path, steps: int
) -> None:
    ended = train_forked(tmp_path, model=tiny_model, data=walks, max_steps=steps, eval_samples=0)
    assert ended.codes == (0,), ended.output
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    rates = [entry["learning_rate"] for entry in history if "loss" in entry]
    assert rates == pytest.approx([2e-3 * share for share in LISTED[steps, 0.1]])
