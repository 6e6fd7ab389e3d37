"""Records of like length in the same step: the order of an epoch (trainer/data/order.py)."""

from __future__ import annotations

import random

import pytest

from trainer.data.order import WINDOW_STEPS, LengthGrouped, epoch_order

LENGTHS = [round(800 + random.Random(7 * n).lognormvariate(4.3, 0.8)) for n in range(576)]  # as of real play


def padding(order: list[int], micro: int) -> float:
    """The share of padding in micro-batches of that size."""
    shown = [LENGTHS[place] for place in order]
    batches = [shown[n : n + micro] for n in range(0, len(shown), micro)]
    return 1 - sum(shown) / sum(-(-max(batch) // 8) * 8 * len(batch) for batch in batches)


@pytest.mark.parametrize("micro", [2, 4, 8])
def test_little_of_a_batch_is_padding(micro: int) -> None:
    at_random = random.Random(0).sample(range(len(LENGTHS)), len(LENGTHS))
    grouped = epoch_order(LENGTHS, batch=8, seed=0, epoch=0)
    assert padding(grouped, micro) < 0.05 < padding(at_random, 4)
    assert padding(grouped, micro) < padding(at_random, micro) / 2


@pytest.mark.parametrize("count", [1, 7, 8, 40, 250, 576])
def test_an_epoch_shows_each_record_once_and_only_its_last_step_is_smaller(count: int) -> None:
    order = epoch_order(LENGTHS[:count], batch=8, seed=1, epoch=2)
    assert sorted(order) == list(range(count))
    assert [*LengthGrouped(LENGTHS[:count], batch=8, seed=1)] == epoch_order(LENGTHS[:count], batch=8, seed=1, epoch=0)


def test_a_window_of_random_records_is_cut_by_length_into_steps_in_random_order() -> None:
    order = epoch_order(LENGTHS, batch=8, seed=0, epoch=0)
    window = order[: 8 * WINDOW_STEPS]
    steps = [[LENGTHS[place] for place in window[n : n + 8]] for n in range(0, len(window), 8)]
    assert all(step == sorted(step) for step in steps)
    assert sorted(steps) != steps and [x for step in sorted(steps) for x in step] == sorted(LENGTHS[p] for p in window)


def test_the_order_depends_on_seed_and_epoch_and_a_small_set_is_mixed_anew_each_epoch() -> None:
    def steps(count: int, **drawn: int) -> set[frozenset[int]]:
        order = epoch_order(LENGTHS[:count], batch=8, **drawn)
        return {frozenset(order[n : n + 8]) for n in range(0, count, 8)}

    for count in (16, 40, 576):
        first = steps(count, seed=0, epoch=0)
        assert first == steps(count, seed=0, epoch=0)
        assert first != steps(count, seed=0, epoch=1) and first != steps(count, seed=1, epoch=0)


def test_records_of_one_length_come_wholly_at_random() -> None:
    order = epoch_order([900] * 64, batch=8, seed=0, epoch=0)
    assert sorted(order) == list(range(64)) and order != list(range(64))
