"""profile-memory: real steps on the longest record, measured beside the prediction."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from training import run_forked

from local.__main__ import main
from local.measure.memory_profile import LONGEST_ENV, render
from trainer.config import TrainConfig
from trainer.text import GIB

pytestmark = pytest.mark.slow


def test_stages_are_measured_on_the_longest_record(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines = (walks / "train.jsonl").read_text().splitlines()[:6]
    longest = json.loads(lines[3])
    longest["question"] = f"{longest['question']} Say it again, please: {longest['question']}"
    lines[3] = json.dumps(longest)
    (data / "train.jsonl").write_text("\n".join(lines) + "\n")
    (data / "frames").symlink_to(walks / "frames")
    argv = ["profile-memory", "--model", str(tiny_model), "--data", str(data), "--device", "cpu", "--lora_r", "8",
            "--micro_batch_size", "2", "--json"]  # fmt: skip
    note = tmp_path / "longest.json"
    ended = run_forked(tmp_path / "log", main, argv, environment={LONGEST_ENV: str(note)})
    assert ended.codes == (0,), ended.output
    report = json.loads(ended.output[ended.output.index("{\n") :])
    stages = report["stages"]
    assert [s["name"] for s in stages] == ["baseline", "model loaded", "LoRA", "first step", "evaluation", "peak"]
    peaks = [s["peak_bytes"] for s in stages]
    assert peaks == sorted(peaks) and peaks[0] < peaks[-1] and stages[-1]["bytes"] == peaks[-1]
    predicted = [s["predicted_bytes"] for s in stages]
    assert predicted == sorted(predicted)
    assert predicted[-1] == sum(report["predicted_items"].values())
    # Found once for those who try several times: place, records taken apart, tokens, those of the answers.
    assert json.loads(note.read_text())[:3] == [3, [], report["max_length"]]
    note.write_text("[0, [], 50, 9]")
    again = run_forked(tmp_path / "again", main, argv, environment={LONGEST_ENV: str(note)})
    assert json.loads(again.output[again.output.index("{\n") :])["max_length"] == 50
    argv[4] = str(walks)
    short = run_forked(tmp_path / "short", main, argv)
    assert report["max_length"] > json.loads(short.output[short.output.index("{\n") :])["max_length"]


def precision_on_a_gpu() -> int:
    from local.measure import memory_profile

    class Enough(Exception):
        """The precision is decided before the card is looked for."""

    def begin(config: object) -> None:
        raise Enough

    memory_profile.init_distributed = begin
    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-", device="cuda")
    for said in (None, "no"):
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        if said:
            os.environ["ACCELERATE_MIXED_PRECISION"] = said
        with pytest.raises(Enough):
            memory_profile.measure(config)
        print("precision", os.environ["ACCELERATE_MIXED_PRECISION"])
    return 0


def test_a_gpu_computes_in_bfloat16_unless_told_otherwise(tmp_path: Path) -> None:
    ended = run_forked(tmp_path / "log", precision_on_a_gpu)
    assert ended.codes == (0,), ended.output
    assert [line for line in ended.output.splitlines() if "precision" in line] == ["precision bf16", "precision no"]


def test_a_gpus_reserved_memory_has_a_column() -> None:
    stage = {"name": "peak", "bytes": GIB, "peak_bytes": 2 * GIB, "reserved_bytes": 3 * GIB, "predicted_bytes": 4 * GIB}
    report = {
        "measured": "GPU memory, torch's allocator", "max_length": 8, "micro_batch_size": 1, "stages": [stage],
        "predicted_items": {"activations": GIB, "NCCL": 0},
    }  # fmt: skip
    assert render(report).splitlines()[2:5] == [
        "GiB   held  peak so far  reserved  predicted",
        "--------------------------------------------",
        "peak  1.00         2.00      3.00       4.00",
    ]
