"""Records of like length in the same step: the order of an epoch (trainer/data/order.py)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from training import run_forked

from trainer.config import TrainConfig
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


def train_and_tell(config: TrainConfig, out: str) -> None:
    """Train, and write to `out` the records of each micro-batch by their words, the tokens of each record, and the
    lengths that the trainer was given."""
    from trainer.data.records import load_dataset
    from trainer.training import run

    prepared = run.prepare(config, load_dataset(config.data, text_only=True, eval_fraction=0))
    trainer, shown = prepared.trainer, []
    collate = trainer.data_collator

    def seen(rows: Any) -> Any:
        shown.append([row["index"] for row in rows])
        return collate(rows)

    trainer.data_collator = seen
    run.learn(prepared)
    tokens = [int(collate([{"index": place}])["attention_mask"].sum()) for place in range(len(prepared.dataset.train))]
    given = [*trainer.order.lengths] if trainer.order else []
    Path(out).write_text(json.dumps({"shown": shown, "tokens": tokens, "given": given}))


@pytest.mark.slow
def test_group_lengths_shows_each_epoch_in_its_order_by_the_tokens_of_each_record(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Also behind a record that is left out, which moves the places of the others."""
    words = [3, 90, 5, 400, 60, 7, 80, 9, 30]
    rows = [{"question": f"{place} " + "up " * count, "output": "down"} for place, count in enumerate(words)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainConfig(
        model=str(tiny_model), data=str(tmp_path / "train.jsonl"), output_dir=str(tmp_path / "run"), run_id="r",
        device="cpu", quantization="none", text_only=True, eval_fraction=0, eval_samples=0, score_samples=0,
        micro_batch_size=2, gradient_accumulation_steps=2, max_steps=4, max_length=256, lora_r=8,
    )  # fmt: skip
    ended = run_forked(tmp_path / "log", train_and_tell, config, str(tmp_path / "told.json"))
    assert ended.codes == (0,), ended.output
    told = json.loads((tmp_path / "told.json").read_text())
    assert len(told["tokens"]) == 8 and told["given"] == told["tokens"]
    expected = [epoch_order(told["tokens"], batch=4, seed=config.seed, epoch=epoch) for epoch in (0, 1)]
    assert expected[0] != expected[1]
    assert [place for batch in told["shown"] for place in batch] == [place for order in expected for place in order]
