"""The ranks of a node read its records once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from paths import ROOT

from trainer.config import TrainConfig
from trainer.data import shared
from trainer.data.records import Dataset, dataset_of
from trainer.data.shared import ALONE, INDEX, LOCK, PART, node_dataset
from trainer.outcome import ATTEMPT_DIR_ENV, ConfigError

PNG = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "node").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    talk = [
        {"role": "system", "content": "play"}, {"role": "user", "content": "<image> é ☃ \u2028"},
        {"role": "assistant", "content": "left"}, {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "up", "weight": 0}, {"role": "user", "content": "now?"},
        {"role": "assistant", "content": "right"},
    ]  # fmt: skip
    flat = {"frames": ["a.png"] * 4, "question": "?", "output": '{"button": "up"}'}
    rows = [{"messages": talk, "images": ["a.png"], "metadata": {"session_id": "w"}}, flat, {**flat, "hint": 3}, {}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        model="m", data=str(tmp_path / "d.jsonl"), output_dir=str(tmp_path / "runs"), run_id="r", device="cpu"
    )


def of_node(config: TrainConfig, ranks: int = 2) -> dict[str, str]:
    return {ATTEMPT_DIR_ENV: str(Path(config.data).parent / "node"), "LOCAL_WORLD_SIZE": str(ranks)}


def test_the_second_rank_has_what_the_first_one_read_without_a_look_at_the_data(config: TrainConfig) -> None:
    alone = dataset_of(config)
    assert node_dataset(config, of_node(config)) == alone
    Path(config.data).unlink()
    assert node_dataset(config, of_node(config)) == alone
    assert (len(alone.train) + len(alone.eval), alone.unusable, len(alone.sha256)) == (3, 1, 64)


def test_a_refusal_is_found_once_too(config: TrainConfig) -> None:
    strict = replace(config, strict=True)
    with pytest.raises(ConfigError) as first:
        node_dataset(strict, of_node(config))
    Path(config.data).unlink()
    with pytest.raises(ConfigError) as second:
        node_dataset(strict, of_node(config))
    assert vars(second.value) == vars(first.value)
    assert "strict" in str(second.value)


def test_one_rank_alone_writes_nothing(config: TrainConfig) -> None:
    assert node_dataset(config, of_node(config, ranks=1)) == node_dataset(config, {}) == dataset_of(config)
    assert os.listdir(of_node(config)[ATTEMPT_DIR_ENV]) == []


def test_where_the_index_cannot_be_written_the_ranks_read_at_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(of_node(config)[ATTEMPT_DIR_ENV])
    (folder / INDEX / "in the way").mkdir(parents=True)
    alone = dataset_of(config)
    assert node_dataset(config, of_node(config)) == alone
    assert sorted(os.listdir(folder)) == sorted([INDEX, LOCK, ALONE])

    def is_free(config: TrainConfig) -> Dataset:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while a rank that reads holds it
        return dataset_of(config)

    monkeypatch.setattr(shared, "dataset_of", is_free)
    assert node_dataset(config, of_node(config)) == alone


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_where_there_are_no_locks_each_rank_reads(
    code: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert node_dataset(config, of_node(config)) == node_dataset(config, of_node(config)) == dataset_of(config)
    assert os.listdir(of_node(config)[ATTEMPT_DIR_ENV]) == [LOCK]


def test_where_the_lock_cannot_be_made_each_rank_reads(config: TrainConfig) -> None:
    Path(of_node(config)[ATTEMPT_DIR_ENV], LOCK).mkdir()
    assert node_dataset(config, of_node(config)) == dataset_of(config)


def test_a_rank_that_is_killed_while_it_reads_leaves_the_work_to_the_next(config: TrainConfig) -> None:
    folder = Path(of_node(config)[ATTEMPT_DIR_ENV])
    holds = (
        "import fcntl, pathlib, sys, time; f = open(sys.argv[1] + '/" + LOCK + "', 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "pathlib.Path(sys.argv[1], '" + INDEX + PART + "').write_text('{half'); print('held', flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", holds, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "held\n"
        pid = os.fork()
        if pid == 0:  # the next rank, which waits for the lock
            try:
                os._exit(0 if node_dataset(config, of_node(config)) == dataset_of(config) else 1)
            finally:
                os._exit(2)
        rank.send_signal(signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == 0
    assert sorted(os.listdir(folder)) == sorted([INDEX, LOCK])


RANK = """
import json, os, sys
from trainer.config import TrainConfig
from trainer.data.shared import node_dataset

def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith("d.jsonl"):
        print("opened", flush=True)

config = TrainConfig(**json.loads(sys.argv[1]))
sys.addaudithook(note)
print("ready", flush=True)
sys.stdin.readline()
dataset = node_dataset(config, os.environ)
print(len(dataset.train) + len(dataset.eval), dataset.sha256)
"""


def test_of_two_ranks_that_come_at_once_one_parses_and_hashes_the_file_once(config: TrainConfig) -> None:
    environ = {**os.environ, **of_node(config)}
    words = [sys.executable, "-c", RANK, json.dumps(asdict(config))]
    ranks = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ)
        for _ in range(2)
    ]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("go\n")
        rank.stdin.flush()
    said = sorted(rank.communicate()[0].splitlines() for rank in ranks)
    (waited,), (*opened, read) = said
    assert (opened, read) == (["opened"] * 2, waited)
    assert waited == f"3 {dataset_of(config).sha256}"
