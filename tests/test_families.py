"""A second family, Qwen2.5-VL, through the same code: what was made for Gemma 3 alone would fail here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training import reload_adapter, run_forked, train_forked

from trainer.records import load_dataset

TEXT = 2 * 7  # layers x linears
TOWER = 2 * 5 + 2  # blocks x (qkv, proj, gate, up, down), and the merger's two


@pytest.mark.parametrize(("vision", "layers"), [("frozen", TEXT), ("lora", TEXT + TOWER)])
def test_it_trains_in_4_bits_and_its_adapter_loads_with_plain_peft(
    tiny_qwen: Path, walks: Path, tmp_path: Path, vision: str, layers: int
) -> None:
    ended = train_forked(
        tmp_path, model=tiny_qwen, data=walks, vision=vision, activation_checkpointing=vision == "lora"
    )
    assert ended.codes == (0,), ended.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losses = [entry["loss"] for entry in metrics["history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    held_out = len(load_dataset(str(walks)).eval)
    assert metrics["before"]["samples"] == metrics["after"]["samples"] == held_out
    assert metrics["generated_after"]["samples"] == 8
    assert f"  {'4-bit linears in the language model':<38} {TEXT}\n" in ended.output
    assert f"  {'vision features':<38} {'with' if vision == 'lora' else 'without'} gradient\n" in ended.output
    done = run_forked(
        tmp_path, reload_adapter, str(tiny_qwen), str(tmp_path / "run"), str(tmp_path / "out.json"), False
    )
    assert done.codes == (0,), done.output
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "same": True, "tensors": 2 * layers, "moved": layers, "dtypes": ["torch.float32"],
    }  # fmt: skip
