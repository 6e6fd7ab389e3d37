"""What accelerate repeats to fill up an epoch's last batches is not trained on: the micro-batch changes no result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zero3
from PIL import Image
from training import train_forked

LAYOUTS = {"1x8x1": (1, 8, 1), "2x1x4": (2, 1, 4), "2x2x2": (2, 2, 2), "2x4x1": (2, 4, 1)}


def write_unlike(folder: Path, records: int, held_out: int = 2) -> None:
    """Records whose answers, and so their losses and token counts, are all different."""
    for side, count in (("train", records), ("eval", held_out)):
        rows = [
            {"image": None, "context": "", "question": f"{side} {n}", "output": "go " * (1 + n % 5) + f"{n}"}
            for n in range(count)
        ]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def logged(folder: Path) -> list[dict[str, Any]]:
    history = json.loads((folder / "run" / "metrics.json").read_text())["history"]
    return [entry for entry in history if "loss" in entry]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
@pytest.mark.parametrize("records", [1, 2, 9, 10, 28, 29])
def test_every_record_is_some_ranks_own_once_an_epoch(records: int, rows: int, ranks: int) -> None:
    """By accelerate's own samplers."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler, SequentialSampler

    from trainer.data.repeats import own_rows

    counted = []
    for rank in range(ranks):
        sampler: Any = BatchSampler(SequentialSampler(range(records)), rows, drop_last=False)
        batches = list(BatchSamplerShard(sampler, ranks, rank) if ranks > 1 else sampler)
        *full, last = batches
        counted += [index for batch in full for index in batch]
        counted += last[: own_rows(len(last), records, rank=rank, ranks=ranks)]
    assert sorted(counted) == list(range(records))


def test_nothing_is_learned_behind_a_ranks_own_rows_which_stay_in_the_batch() -> None:
    import torch

    from trainer.data.repeats import OWN_ROWS, without_repeats

    batch = {
        "input_ids": torch.arange(12).reshape(3, 4),
        "labels": torch.tensor([[-100, 1, 2, 3], [-100, -100, 6, 7], [-100, 9, 10, 11]]),
        "loss_positions": torch.tensor([0, 1, 2, 5, 6, 8, 9, 10]),
        "loss_targets": torch.tensor([1, 2, 3, 6, 7, 9, 10, 11]),
    }  # fmt: skip
    assert without_repeats(batch, 3) is batch
    kept = without_repeats(batch, 2)
    assert {name: value.tolist() for name, value in kept.items() if name != OWN_ROWS} == {
        "input_ids": batch["input_ids"].tolist(),
        "labels": [[-100, 1, 2, 3], [-100, -100, 6, 7], [-100] * 4],
        "loss_positions": [0, 1, 2, 5, 6],
        "loss_targets": [1, 2, 3, 6, 7],
    }
    assert kept[OWN_ROWS] == 2
    none = without_repeats(batch, 0)
    assert (none[OWN_ROWS], none["loss_positions"].tolist(), none["labels"].unique().tolist()) == (0, [], [-100])
    assert batch["labels"][2].tolist() == [-100, 9, 10, 11]


@pytest.mark.slow
@pytest.mark.parametrize("records", [10, 5, 17])
def test_results_do_not_depend_on_the_micro_batch_at_the_end_of_an_epoch(
    tmp_path: Path, tiny_model: Path, records: int
) -> None:
    """Losses, gradients, and what is counted: over three epochs of `records` with an effective batch of 8."""
    write_unlike(tmp_path, records)
    found = {}
    for name, (world, micro, accumulated) in LAYOUTS.items():
        ended = train_forked(
            tmp_path / name, model=tiny_model, data=tmp_path, world_size=world, micro_batch_size=micro,
            gradient_accumulation_steps=accumulated, max_steps=3 * -(-records // 8), eval_samples=0, text_only=True,
        )  # fmt: skip
        assert set(ended.codes) == {0}, ended.output
        keys = ("loss", "grad_norm", "mean_token_accuracy", "tokens_seen")
        found[name] = [[entry[key] for key in keys] for entry in logged(tmp_path / name)]
    assert found["1x8x1"][-1][0] < found["1x8x1"][0][0]
    for name, steps in found.items():
        for step, (here, alone) in enumerate(zip(steps, found["1x8x1"], strict=True), start=1):
            assert here == pytest.approx(alone, rel=2e-4), (name, step)


@pytest.mark.slow
def test_a_run_that_goes_on_within_an_epoch_leaves_out_the_repeats_too_and_counts_the_time_of_both_attempts(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Three steps an epoch, the third with repeats; killed in the fifth or sixth, ended, and started once more."""
    write_unlike(tmp_path, 10)
    options = {
        "model": tiny_model, "data": tmp_path, "world_size": 2, "micro_batch_size": 2, "max_steps": 9, "save_steps": 1,
        "eval_samples": 0, "keep_checkpoints": 9, "text_only": True,
    }  # fmt: skip
    assert set(train_forked(tmp_path / "straight", **options).codes) == {0}
    begun = tmp_path / "begun"
    train_forked(begun, kill_when=lambda said: "step 5/9" in said, **options)
    saved = {int(path.name[5:]): path.stat().st_mtime for path in (begun / "run" / "checkpoints").glob("step-*")}
    assert max(saved) in (4, 5)
    earlier_s = saved[max(saved)] - saved[1]
    ended = train_forked(begun, **options)
    assert set(ended.codes) == {0}, ended.output
    keys = ("step", "loss", "grad_norm", "learning_rate", "mean_token_accuracy", "tokens_seen")
    straight, gone_on = ([[e[key] for key in keys] for e in logged(tmp_path / name)] for name in ("straight", "begun"))
    assert gone_on == straight

    def totals() -> dict[str, float]:
        """By the names under which the Trainer has them, and the last entry of the history must have the same."""
        metrics = json.loads((begun / "run" / "metrics.json").read_text())
        assert {name: metrics["history"][-1][name] for name in metrics["train"]} == metrics["train"]
        found: dict[str, float] = metrics["train"]
        return found

    once = totals()
    first, last = (begun / "run" / "checkpoints" / f"step-{step:06d}" for step in (max(saved) + 1, 9))
    at_least_s = earlier_s + last.stat().st_mtime - first.stat().st_mtime
    assert once["train_runtime"] > at_least_s
    assert once["train_steps_per_second"] == pytest.approx(9 / once["train_runtime"], abs=1e-3)
    assert once["train_samples_per_second"] == pytest.approx(3 * 10 / once["train_runtime"], abs=1e-3)
    # Started once more it trains no further: its few milliseconds are added to what the last checkpoint knows.
    assert set(train_forked(begun, **options).codes) == {0}
    assert at_least_s < totals()["train_runtime"] < once["train_runtime"] + 5


@pytest.mark.slow
def test_a_rank_with_nothing_to_learn_keeps_in_step_under_zero3(tmp_path: Path, tiny_model: Path) -> None:
    """Shards of the head are gathered by all ranks together, also where one has more positions than the head takes at
    once and another none. Gradients are watched as they pass."""
    write_unlike(tmp_path, 9)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({"image": None, "context": "", "question": "long?", "output": "go on " * 300}) + "\n")
    found, said = [], []
    for micro, accumulated in ((1, 2), (2, 1)):
        ended = train_forked(
            tmp_path / str(micro), program=zero3.main, environment={"WANDB_WATCH": "all"}, model=tiny_model,
            data=tmp_path, world_size=2, micro_batch_size=micro, gradient_accumulation_steps=accumulated,
            lora_alpha=128, max_steps=6, eval_samples=0, score_samples=0, text_only=True, collective_timeout_s=60,
        )  # fmt: skip
        assert ended.codes == (0, 0), ended.output
        found.append([(entry["loss"], entry["tokens_seen"]) for entry in logged(tmp_path / str(micro))])
        said.append(ended.output)
    assert found[0] == [(pytest.approx(loss, rel=2e-2), tokens) for loss, tokens in found[1]]  # bf16
    assert all("WANDB_WATCH=all logs no parameters under ZeRO-3" in text for text in said)


@pytest.mark.slow
def test_under_zero3_every_picture_goes_through_the_tower_on_all_ranks(tmp_path: Path, tiny_model: Path) -> None:
    """One rank's record shows a picture twice, and the other's two pictures. A rank that took the second from what it
    has kept would wait for the language model's shards, and the other rank for the tower's."""
    for number in range(3):
        Image.effect_noise((64, 64), 40 + 40 * number).convert("RGB").save(tmp_path / f"{number}.png")
    rows = [
        {"image": [f"{number}.png" for number in shown], "context": "", "question": "Which?", "output": f"{n}"}
        for n, shown in enumerate(((0, 0), (1, 2), (2, 0)))
    ]
    for side, some in (("train", rows[:2]), ("eval", rows[2:])):
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    ended = train_forked(
        tmp_path, program=zero3.main, model=tiny_model, data=tmp_path, world_size=2, micro_batch_size=1, max_steps=2,
        eval_samples=0, score_samples=0, collective_timeout_s=60,
    )  # fmt: skip
    assert ended.codes == (0, 0), ended.output
    said = [" ".join(line.split()) for line in ended.output.splitlines()]
    assert "a picture goes through the tower every time: ZeRO-3 shards the tower" in said
    assert "another picture another loss" in said
