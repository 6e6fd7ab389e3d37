"""The demo as a newcomer runs it, in a copy of the checkout: it must learn to read the pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_learns_from_the_pictures_and_leaves_a_report(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    run = checkout / "demo" / "runs" / "demo"
    metrics = json.loads((run / "metrics.json").read_text())
    before, after = metrics["before"], metrics["after"]
    assert after["accuracy"] >= 0.70
    assert after["majority_accuracy"] <= 0.35
    assert before["accuracy"] <= 0.35

    # The score is of walks that were not trained on, and is what the predictions say.
    sessions = {
        side: {json.loads(line)["metadata"]["session_id"] for line in (checkout / f"demo/data/{side}.jsonl").open()}
        for side in ("train", "eval")
    }
    assert sessions["train"].isdisjoint(sessions["eval"])
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    right = sum(p["truth"] == p["prediction"] for p in predictions)
    assert right / len(predictions) == after["accuracy"]
    most = Counter(p["truth"] for p in predictions).most_common(1)[0][1]
    assert most / len(predictions) == after["majority_accuracy"]

    assert "#SBATCH --gres=gpu:2" in done.stdout  # the script it would submit
    assert "GiB a GPU" in done.stdout  # the plan
    page = (run / "report.html").read_text()
    assert f"{after['accuracy']:.1%}" in page
    assert page.count("data:image/png;base64,") == 12
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((run / "run.json").read_text())["spec"]["run_id"] == "demo"


def test_the_demo_takes_no_options(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--gpus", "2"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        78,
        "trainyard: demo takes no options, got '--gpus': `python -m trainer run` takes them all\n",
    )
    assert not (checkout / "demo").exists()
