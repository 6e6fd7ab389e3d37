"""What a record takes in memory: a set of 200,000 records is held by every rank of a run."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.data_speed import PNG, record
from trainer.data.records import Dataset, load_dataset

WARM, COUNT = 50, 250
MOST_BYTES = 750
"""Of these, the text of such a record takes 340. 200,000 records of 950 bytes and the interpreter take 200 MB."""


def load(folder: Path, form: str, count: int) -> Dataset:
    path = folder / f"{form}-{count}.jsonl"
    path.write_text("".join(json.dumps(record(number, form)) + "\n" for number in range(count)))
    return load_dataset(str(path))


@pytest.mark.parametrize("form", ["flat", "messages"])
def test_a_record_takes_little_more_memory_than_its_text(form: str, tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(PNG)
    load(tmp_path, form, WARM)
    tracemalloc.start()
    try:
        dataset = load(tmp_path, form, COUNT)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset.train) + len(dataset.eval) == COUNT
    assert held_bytes / COUNT < MOST_BYTES


def test_records_that_show_one_picture_share_it(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(PNG)
    (tmp_path / "train.jsonl").write_text(json.dumps(record(0, "flat")) + "\n" + json.dumps(record(50, "flat")) + "\n")
    dataset = load_dataset(str(tmp_path), eval_fraction=0)
    one, other = dataset.train
    assert one.pictures[0] is other.pictures[0]
