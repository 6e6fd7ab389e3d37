"""`convert` writes every split of a data set into a file of its own, whatever the splits are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.convert.rows import Split, named_apart
from trainer.data.sources import find_sources


def test_splits_that_mean_one_side_are_all_written_and_all_read(tmp_path: Path) -> None:
    given = ("train", "train", "eval", "eval-1", "eval", "test")
    named = [split.name for split in named_apart(Split(name=name, rows=number) for number, name in enumerate(given))]
    assert named == ["train", "train-1", "eval", "eval-1", "eval-2", "test"]
    for name in named:
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    found = find_sources(str(tmp_path))
    assert [[path.stem for path in side] for side in (found.train, found.eval)] == [
        ["train-1", "train"],
        ["eval-1", "eval-2", "eval"],
    ]


def test_all_files_of_a_side_are_converted_and_one_that_is_not_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("train", "training", "validation", "dev", "test")
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "answer": "up"}) + "\n")
    assert main(["convert", str(tmp_path), str(tmp_path / "out")]) == 0
    written = {path.stem: json.loads(path.read_text())["question"] for path in (tmp_path / "out").glob("*.jsonl")}
    assert written == {"train": "train", "train-1": "training", "eval": "dev", "eval-1": "validation"}
    assert "not used: test.jsonl" in capsys.readouterr().err
