"""The demo as a newcomer runs it, in a copy of the checkout: it must learn to read the pictures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from paths import ROOT

from trainer.log import bare

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHOWN = re.compile(r"<!-- after make demo -->\n```\n\$ ([^\n]*)\n(.*?)```\n", re.S)


def words(text: str) -> str:
    """Without what differs from one processor to another: every number, and the columns' widths."""
    return re.sub(r"-{3,}", "-", re.sub(r" +", " ", re.sub(r"\d[\d.,]*(e-?\d+,?)?", "0", text)))


def lacking(shown: str, output: str) -> list[str]:
    """What a page shows and was not printed; a line of three dots stands for what it leaves out."""
    return [part for part in re.split(r"^\.\.\.\n", words(shown), flags=re.M) if part not in words(output)]


@pytest.mark.slow
def test_the_demo_learns_from_the_pictures_and_leaves_a_report(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=checkout, capture_output=True, text=True, check=False
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

    # The pages' commands work after it as they stand there, and print what is shown but for the numbers.
    shown = dict(found for page in PAGES for found in SHOWN.findall(page.read_text(encoding="utf-8")))
    assert lacking(shown.pop("make demo"), bare(done.stdout)) == []
    path = f"{checkout / '.venv/cpu/bin'}:{os.environ['PATH']}"
    environ = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "WANDB_API_KEY")}
    for command, excerpt in shown.items():
        done = subprocess.run(
            ["bash", "-c", command], cwd=checkout, env={**environ, "PATH": path}, capture_output=True, text=True
        )
        assert (done.returncode, lacking(excerpt, done.stdout)) == (0, []), (command, done.stdout, done.stderr[-2000:])
    assert {shlex.split(command)[3] for command in shown} == {"profile-memory", "validate", "infer", "merge"}


def test_the_demo_takes_no_options(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--gpus", "2"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        78,
        "trainyard: demo takes no options, got '--gpus': `python -m local run` takes them all\n",
    )
    assert not (checkout / "demo").exists()
