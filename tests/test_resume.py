"""Interrupted runs end like uninterrupted ones, bit for bit on the CPU: the whole trainer at toy size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import Ended, train_forked

# Dropout draws random numbers, two batches make a step, logs and checkpoints fall on different steps.
OPTIONS: dict[str, Any] = {
    "micro_batch_size": 2, "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "max_steps": 10,
    "logging_steps": 3, "save_steps": 2, "eval_steps": 4, "eval_samples": 4,
}  # fmt: skip
TIMINGS = ("runtime", "per_second")


@pytest.fixture(scope="module")
def train(tiny_model: Path, walks: Path) -> Callable[..., Ended]:
    def run(folder: Path, **options: Any) -> Ended:
        return train_forked(folder, model=tiny_model, data=walks, **{**OPTIONS, **options})

    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Ended]) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    ended = train(folder)
    assert ended.codes == (0,), ended.output
    return folder


def history(folder: Path) -> list[dict[str, float]]:
    """Everything logged with its step, without what the clock decides."""
    entries = json.loads((folder / "run" / "metrics.json").read_text())["history"]
    return [{k: v for k, v in entry.items() if not k.endswith(TIMINGS)} for entry in entries]


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir() if path.name[0] != "o")


def at_step(step: int) -> Callable[[str], bool]:
    return lambda output: any(f"step {n:>2}/10" in output for n in range(step, 11))


def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    ended = train(tmp_path, kill_when=at_step(6))
    assert ended.codes == (-9,), ended.output
    ended = train(tmp_path)
    assert ended.codes == (0,), ended.output
    assert "going on from step" in ended.output
    assert history(tmp_path) == history(straight)
    for name in ("before", "after"):
        assert metrics(tmp_path)[name] == metrics(straight)[name]
    adapters = [f / "run" / "adapter" / "adapter_model.safetensors" for f in (tmp_path, straight)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "metrics.json").read_text())
