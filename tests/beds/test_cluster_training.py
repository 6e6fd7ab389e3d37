"""Whole training jobs through a real Slurm: make submit, two processes on one node and on two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster import Cluster
from training import reload_adapter, run_forked

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.mark.parametrize(
    "words", [("GPUS=2", "CPUS=2"), ("GPUS=1", "NODES=2", "CPUS=1")], ids=["one-node", "two-nodes"]
)
def test_a_submitted_job_trains_on_two_processes_and_leaves_an_adapter(
    words: tuple[str, ...], cluster: Cluster, checkout: Path, tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    options = [f"MODEL={tiny_model}", f"DATA={walks}", "DEVICE=cpu", "MAX_STEPS=3", "TIME=10", "RUN=train", "LORA=low"]
    submitted = cluster.run("make", "submit", *words, *options, cwd=checkout)
    run = checkout / "runs" / "train"
    job_id = json.loads((run / "run.json").read_text())["job_ids"][0]
    assert f"(or scancel {job_id})" in submitted.stdout
    ended = cluster.wait(job_id, timeout_s=600)
    log = (run / "logs" / f"slurm-{job_id}.log").read_text()
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log

    # The trainer refuses to start with another world size than planned; here is the plan.
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["config"]["world_size"], metrics["config"]["max_steps"]) == (2, 3)
    assert metrics["after"]["samples"] > 0
    reloaded = run_forked(tmp_path, reload_adapter, str(tiny_model), str(run), str(tmp_path / "out.json"))
    assert reloaded.codes == (0,), reloaded.output
    assert json.loads((tmp_path / "out.json").read_text())["same"] is True

    offline = [p.name for p in (run / "wandb").iterdir() if p.name.startswith("offline-run-")]
    assert len(offline) == 1
    assert offline[0].endswith("-train")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"train/loss", "train/learning_rate"} <= set(events.Tags()["scalars"])
