"""The rendered manifest, carried out: real containers of the real image, the Job's rules applied by pods.py.

No API server was involved: what it would add or refuse is not seen here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image import Image
from pods import Containers, JobRun

from trainer.progress_file import parse_progress

pytestmark = pytest.mark.slow


def make_job(checkout: Path, image: Image, folder: Path, tiny_model: Path, walks: Path, *argv: str) -> JobRun:
    """A Job of the command line's own manifest; its claim holds the demo's model and records."""
    for place in (checkout, folder / "claim"):
        shutil.copytree(tiny_model, place / "models" / "tiny")
    shutil.copytree(walks, folder / "claim" / "data" / "walks")
    words = ["--model", "models/tiny", "--data", "data/walks", "--device", "cpu", "--mem", "4", "--cpus", "2"]
    words += ["--image", "registry.example.org/trainyard:0.1.0", "--max-length", "128", "--run", "toy", *argv]
    (checkout / "train.yaml").write_text("logging_steps: 1\neval_samples: 2\nscore_samples: 2\nsave_steps: 1000\n")
    command = [sys.executable, "-m", "k8s", "render", "--config-file", "train.yaml", *words]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (checkout / "manifest.yaml").write_text(done.stdout)
    return JobRun(text=done.stdout, containers=Containers(image=image.name, podman=image.podman, folder=folder))


def test_a_run_whose_node_is_drained_goes_on_in_another_pod_and_completes(
    checkout: Path, image: Image, tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    job = make_job(checkout, image, tmp_path / "job", tiny_model, walks, "--max-steps", "100")

    def drain_once(job: JobRun) -> None:
        if len(job.pods) == 1 and not job.pods[0].disrupted and re.search(r"step +3/100", job.pods[0].said()):
            job.disrupt(job.pods[0])

    assert job.run(drain_once) == "Complete", job.pods[-1].said()
    assert job.ends == [(0, 75, "Ignore"), (0, 0, "Succeeded")]
    assert "trainyard: asked to stop by SIGTERM" in job.pods[0].said()
    stopped, finished = (parse_progress(pod.left_behind()) for pod in job.pods)
    assert stopped and stopped.phase == "stopped" and stopped.step < 100
    assert finished and (finished.step, finished.of) == (100, 100)
    assert "going on from step" in job.pods[1].said()
    run = job.folder / "claim" / "runs" / "toy"
    kept = (run / "logs" / "node-0.log").read_text()  # a cluster removes the first pod with its log
    printed = [
        line for pod in job.pods for line in pod.said().splitlines() if " supervisor: " in line or " rank 0: " in line
    ]
    assert len(printed) > 20 and all(line in kept for line in printed)
    assert {path.name for path in run.iterdir()} >= {"adapter", "metrics.json", "report.html", "run.json"}
    assert json.loads((run / "run.json").read_text())["job_ids"] == ["tiny-toy"]


def test_two_nodes_meet_and_train_together(
    checkout: Path, image: Image, tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    job = make_job(
        checkout, image, tmp_path / "job", tiny_model, walks, "--gpus", "1", "--nodes", "2", "--max-steps", "4"
    )
    assert job.run() == "Complete", job.pods[0].said() + job.pods[1].said()
    assert sorted(job.ends) == [(0, 0, "Succeeded"), (1, 0, "Succeeded")]
    assert (job.folder / "claim" / "runs" / "toy" / "adapter").is_dir()


def test_a_wrong_request_fails_the_job_at_once(
    checkout: Path, image: Image, tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    job = make_job(checkout, image, tmp_path / "job", tiny_model, walks, "--data", "data/nothing")
    assert job.run() == "Failed: PodFailurePolicy"
    assert job.ends == [(0, 78, "FailJob")]


def test_a_failure_is_tried_again_as_often_as_the_manifest_says(
    checkout: Path, image: Image, tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    """The hub cannot be reached: the node's fault, as far as the node can tell."""
    unreachable = ("--model", "google/gemma-3-4b-it", "--mem", "64", "--environment", "HF_ENDPOINT=http://127.0.0.1:9")
    job = make_job(checkout, image, tmp_path / "job", tiny_model, walks, *unreachable)
    assert job.run() == "Failed: BackoffLimitExceeded"
    assert job.ends == [(0, 1, "Count")] * 4
