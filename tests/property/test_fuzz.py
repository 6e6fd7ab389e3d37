"""A minute of fuzzing of all readers (tests/fuzz.py takes more), and that the harness finds what it is to find."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fuzz import Reader, cut_short, fuzz, readers
from fuzz_results import Spent, keep_spent

from trainer.outcome import ConfigError

READERS = readers()
SECONDS = 60 / len(READERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_or_refuses_whatever_stands_in_its_file(name: str) -> None:
    corpus, fault = fuzz(READERS[name], SECONDS)
    assert fault == ""
    assert corpus.runs > 20 and len(corpus.inputs) >= len(READERS[name].seeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_was_cut_anywhere_is_taken_or_refused(name: str) -> None:
    """At about forty places of each file."""
    assert cut_short(READERS[name], 1 + sum(map(len, READERS[name].seeds)) // 40) == ""


def _refuses(_: Path) -> None:
    raise ConfigError("no")


def _deep(folder: Path) -> None:
    found: Any = json.loads((folder / "x").read_bytes())
    if isinstance(found, dict) and found.get("a") is None:
        raise ConfigError("no")
    if isinstance(found, dict) and isinstance(found["a"], list):
        raise KeyError("found")


def _slow(_: Path) -> None:
    while True:
        time.thread_time()


@pytest.mark.parametrize(("read", "said"), [(_refuses, ""), (_deep, "KeyError: 'found'"), (_slow, "TooSlow")])
def test_the_harness_finds_a_traceback_behind_a_value_and_an_endless_loop(
    read: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz.MOST_CPU_S", 0.1)
    reader = Reader(name="x", seeds=[b'{"a": 1}'], read=read, allowed=(ValueError, TypeError))
    _, fault = fuzz(reader, 3 if said else 0.05)
    assert said in fault and bool(said) == bool(fault)


def test_the_harness_finds_the_one_place_where_a_cut_is_a_traceback() -> None:
    def read(folder: Path) -> object:
        return (folder / "x").read_bytes()[:6] == b"abcdef" or (folder / "x").read_bytes()[4:].index(b"f")

    reader = Reader(name="x", seeds=[b"abcdefg"], read=read, allowed=())
    assert "ValueError: subsection not found" in cut_short(reader, 5) and cut_short(reader, 7)
    assert cut_short(Reader(name="x", seeds=[b"abcdefg"], read=read, allowed=(ValueError,)), 1) == ""


def test_the_minutes_of_a_reader_add_up_until_what_it_runs_has_changed(tmp_path: Path) -> None:
    """A comment and a docstring are no change; a module that goes on otherwise is, and so is another seed."""
    module, results = tmp_path / "reads.py", tmp_path / "fuzz.json"
    module.write_text("def read():\n    return 1\n")

    def spend(seeds: list[bytes]) -> tuple[float, int, float, list[str]]:
        new = Spent(cpu_s=60.0, inputs=9, most_cpu_s=0.5, commit="a", modules=["reads.py"])
        row = keep_spent("x", seeds, new, results, tmp_path)
        return row.cpu_s, row.inputs, row.most_cpu_s, row.modules

    assert spend([b"seed"]) == (60, 9, 0.5, ["reads.py"])
    module.write_text('"""Reads."""\n\n\ndef read():\n    """One."""\n    return 1  # always\n')
    assert spend([b"seed"]) == (120, 18, 0.5, ["reads.py"])
    module.write_text("def read():\n    return 2\n")
    assert spend([b"seed"]) == (60, 9, 0.5, ["reads.py"])
    assert spend([b"another"]) == (60, 9, 0.5, ["reads.py"])
    assert "| `x` | 1.0 | 9 | 0 | 0 | 0.50 | 0 | 0 | a |" in results.with_suffix(".md").read_text()
