"""Attempts that are killed without a word are counted in the run's folder, and end after ten without a checkpoint."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.node.killed import BEGUN_NAME, MAX_KILLED, begin_attempt, end_attempt
from trainer.outcome import RUN_AGAIN, SickNode
from trainer.supervise import leave_word


def test_the_eleventh_after_ten_that_were_killed_is_not_begun_and_then_the_count_begins_anew(tmp_path: Path) -> None:
    for _ in range(MAX_KILLED):
        begin_attempt(tmp_path)
    with pytest.raises(SickNode, match="the last 10 attempts were killed before they saved a new checkpoint"):
        begin_attempt(tmp_path)
    end_attempt(tmp_path)  # as the supervisor does after it has said so
    begin_attempt(tmp_path)


def test_a_new_checkpoint_or_a_word_begins_the_count_anew(tmp_path: Path) -> None:
    for step in range(3):
        for _ in range(MAX_KILLED):
            begin_attempt(tmp_path)
        (tmp_path / "checkpoints" / f"step-{step:06}").mkdir(parents=True)
        if step == 0:
            end_attempt(tmp_path)
    begin_attempt(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("no json", "[]", '{"killed": "x", "saved": 0}', '{"saved": 0}', '{"killed": 99}'),
        *(
            f'{{"saved": 0, "killed": {killed}}}'
            for killed in ("1e999", "NaN", "99", "-1", "9.0", "true", "1" + "0" * 400)
        ),
        '{"saved": 1e999, "killed": 9}',
    ],
)
def test_a_record_in_strange_hands_counts_for_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / BEGUN_NAME).write_text(text)
    begin_attempt(tmp_path)
    assert (tmp_path / BEGUN_NAME).read_text() == '{"saved": 0, "killed": 0}\n'


def test_checkpoints_that_cannot_be_listed_are_the_preflights_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "glob", stale)
    begin_attempt(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_refusal_of_another_node_does_not_end_the_attempt(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_attempt(tmp_path)
    monkeypatch.setenv("SLURM_PROCID", rank)
    launch: Any = SimpleNamespace(settings={"output_dir": str(tmp_path)})
    leave_word(launch, RUN_AGAIN, "", 0.0)
    assert (tmp_path / BEGUN_NAME).exists() == (rank == "1")


def test_a_folder_that_cannot_be_written_is_the_preflights_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    begin_attempt(tmp_path / "file" / "run")
    end_attempt(tmp_path / "file" / "run")
