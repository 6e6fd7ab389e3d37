"""Samples, tokens and FLOPs a second: whole values, by a clock that the test moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from training import train_forked

from trainer.config import TrainConfig


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def batch(torch: Any, lengths: list[int], scored: int) -> dict[str, Any]:
    longest = max(lengths)
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
    return {
        "input_ids": torch.zeros_like(mask), "attention_mask": mask, "loss_targets": torch.zeros(scored),
        "pixel_values": torch.zeros(len(lengths), 3, 4, 4),
    }  # fmt: skip


def test_a_window_has_its_records_and_tokens_without_padding_evaluation_and_saving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from accelerate import Accelerator

    from trainer.tracking import throughput

    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-", device="cpu")
    meter = throughput.Meter(config, torch.device("cpu"))
    accelerator = Accelerator(cpu=True)
    meter.on_train_begin(None, None, None)

    def step(seconds: float, lengths: list[int], scored: int, correct: int) -> None:
        clock.now += seconds
        meter.count(batch(torch, lengths, scored), torch.tensor(correct))
        meter.on_step_end(None, None, None)

    step(2.0, [10, 6], scored=4, correct=1)
    clock.now += 30  # an evaluation, then a checkpoint
    meter.on_evaluate(None, None, None)
    clock.now += 10
    meter.on_save(None, None, None)
    step(2.0, [4], scored=2, correct=2)
    assert meter.state() == {"correct": 3, "scored": 6, "tokens_seen": 20}
    assert window(meter, accelerator) == {
        "mean_token_accuracy": 0.5, "tokens_seen": 20, "samples_per_second": 0.75, "tokens_per_second": 5.0,
    }  # fmt: skip
    step(1.0, [8], scored=1, correct=0)
    assert window(meter, accelerator) == {
        "mean_token_accuracy": 0.0, "tokens_seen": 28, "samples_per_second": 1.0, "tokens_per_second": 8.0,
    }  # fmt: skip


def window(meter: Any, accelerator: Any) -> dict[str, float]:
    """What the meter reads, without the memory that this process happens to hold."""
    found = meter.read(accelerator)
    assert 0.01 < found.pop("resident_gib") < 1000
    return dict(found)


def test_a_resumed_window_counts_everything_but_is_timed_from_the_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from accelerate import Accelerator

    from trainer.tracking import throughput

    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-", device="cpu")
    meter = throughput.Meter(config, torch.device("cpu"))
    meter.restore({"correct": 3, "scored": 6, "tokens_seen": 20})
    clock.now += 2
    meter.count(batch(torch, [10, 10], 2), torch.tensor(1))
    assert window(meter, Accelerator(cpu=True)) == {
        "mean_token_accuracy": 0.5, "tokens_seen": 40, "samples_per_second": 1.0, "tokens_per_second": 10.0,
    }  # fmt: skip


# What torch calls each card, and the TFLOP/s of its data sheet: dense bf16, sums in fp32.
DATA_SHEETS = [
    ("NVIDIA H200", 989), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 NVL", 835), ("NVIDIA H100 PCIe", 756),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA L40S", 362), ("NVIDIA L40", 181),
    ("NVIDIA A10G", 70), ("NVIDIA A10", 125), ("NVIDIA L4", 121), ("NVIDIA A40", 150), ("NVIDIA RTX A6000", 155),
    ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA GeForce RTX 3090", 71), ("Quadro P1000", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tflops"), DATA_SHEETS)
def test_a_card_has_the_peak_of_its_data_sheet(name: str, tflops: int | None) -> None:
    from trainer.tracking.throughput import peak_flops

    assert peak_flops(name) == (tflops and tflops * 1e12)


@pytest.mark.parametrize(("vision", "tower_trained"), [("frozen", False), ("lora", True)])
def test_mfu_is_the_models_flops_a_second_as_a_share_of_all_cards_peaks(
    vision: Literal["frozen", "lora"], tower_trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from accelerate import Accelerator

    from trainer.tracking import throughput

    clock, model = Clock(), "google/gemma-3-4b-it"
    monkeypatch.setattr(throughput, "time", clock)
    config = TrainConfig(
        model=model, data="-", output_dir="-", run_id="-", device="cpu", lora_r=8, vision=vision
    )  # fmt: skip
    meter = throughput.Meter(config, torch.device("cpu"))
    shape = throughput.known_shape(model)
    assert shape
    monkeypatch.setattr(meter, "_peak", 121e12)  # as on an L4
    monkeypatch.setattr(meter, "_shape", shape)
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "num_processes", 3)
    meter.on_train_begin(None, None, None)
    clock.now += 4
    meter.count(batch(torch, [10, 6], scored=5), torch.tensor(1))
    flops = throughput.model_flops(
        shape, samples=2, tokens=16, scored=5, images=2, lora_r=8, tower_trained=tower_trained
    )  # fmt: skip
    assert window(meter, accelerator)["mfu"] == pytest.approx(flops / 4 / (3 * 121e12), rel=1e-9)


@pytest.mark.slow
def test_two_processes_count_the_tokens_of_both_and_nothing_of_a_gpu_is_written_on_a_cpu(
    tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    seen = []
    for name, options in (("one", {"gradient_accumulation_steps": 2}), ("two", {"world_size": 2})):
        ended = train_forked(tmp_path / name, model=tiny_model, data=walks, **options)
        assert set(ended.codes) == {0}, ended.output
        history = json.loads((tmp_path / name / "run" / "metrics.json").read_text())["history"]
        logs = [entry for entry in history if "loss" in entry]
        seen.append([(entry["tokens_seen"], entry["mean_token_accuracy"]) for entry in logs])
        assert all(entry["samples_per_second"] > 0 for entry in logs)
        assert not [key for entry in history for key in entry if key == "mfu" or key.startswith("gpu")]
    assert seen[0] == seen[1]
    tokens = [tokens for tokens, _ in seen[0]]
    assert tokens == sorted(tokens) and tokens[0] > 0
