"""A minute of fuzzing of all readers (tests/fuzz.py takes more), and that the harness finds what it is to find."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fuzz import Reader, fuzz, readers

from trainer.outcome import ConfigError

READERS = readers()
SECONDS = 60 / len(READERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_or_refuses_whatever_stands_in_its_file(name: str) -> None:
    corpus, fault = fuzz(READERS[name], SECONDS)
    assert fault == ""
    assert corpus.runs > 20 and len(corpus.inputs) >= len(READERS[name].seeds)


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
