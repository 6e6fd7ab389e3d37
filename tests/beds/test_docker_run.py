"""`make docker-run`: the command it comes to, what it refuses, and a real run in the real image."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from image import Image
from paths import ROOT
from plans import make_plan

from local.machine.docker import docker_command
from trainer.outcome import ConfigError
from trainer.training.checkpoint import check_manifest


def command(program: str = "docker", environ: Mapping[str, str] | None = None, **request: object) -> list[str]:
    plan = make_plan(**{"project_dir": "/nowhere/trainyard", "mem_gib": 64, **request})
    return docker_command(plan, program=program, environ={"HOME": "/home/ada", "HF_HOME": "/big/hf", **(environ or {})})


def options(words: Sequence[str], name: str) -> list[str]:
    return [after for word, after in itertools.pairwise(words) if word == name]


def test_docker_gets_the_plans_own_words_and_nothing_of_the_machine_but_what_it_needs() -> None:
    plan = make_plan(project_dir="/nowhere/trainyard", mem_gib=64)
    assert command() == [
        *("docker", "run", "--rm", "--name", "trainyard-gemma-0123abcd"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--security-opt", "label=disable"),
        *("--tmpfs", "/tmp", "--shm-size", "32g", "--stop-timeout", "120", "--gpus", "1"),
        *("--mount", "type=bind,source=/nowhere/trainyard/runs/.cache,target=/cache"),
        *("--mount", "type=bind,source=/nowhere/trainyard/data,target=/workspace/data,readonly"),
        *("--mount", "type=bind,source=/nowhere/trainyard/runs,target=/workspace/runs"),
        *("--mount", "type=bind,source=/big/hf/hub,target=/cache/huggingface/hub"),
        *("--env", "HF_HUB_DISABLE_TELEMETRY=1", "--env", "OMP_NUM_THREADS=4"),
        *("--env", "TRAINYARD_TIME_LIMIT_S=43200", "--env", "TRAINYARD_STOP_LEAD_S=120"),
        "trainyard:0.1.0",
        *plan.launch.words(),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "gpus", "visible", "asked", "inside"),
    [
        ("docker", 1, None, ["--gpus", "1"], None),
        ("docker", 2, None, ["--gpus", "2"], None),
        ("docker", 1, "3", ["--gpus", "device=3"], "0"),
        ("docker", 2, "3, 5,7", ["--gpus", '"device=3,5"'], "0,1"),
        ("/usr/bin/podman", 2, None, ["--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=1"], None),
        ("podman", 1, "GPU-8f2c", ["--device", "nvidia.com/gpu=GPU-8f2c"], "0"),
    ],
)  # fmt: skip
def test_gpus_are_those_of_cuda_visible_devices_and_are_counted_anew_inside(
    program: str, gpus: int, visible: str | None, asked: list[str], inside: str | None
) -> None:
    """Else the first ones. `.env` is seen inside too, so the old numbers must lose against the new."""
    words = command(program, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, gpus=gpus)
    assert [word for name in ("--gpus", "--device") for word in options(words, name)] == asked[1::2]
    renumbered = [word for word in options(words, "--env") if word.startswith("CUDA_VISIBLE_DEVICES")]
    assert renumbered == ([f"CUDA_VISIBLE_DEVICES={inside}"] if inside else [])


def test_too_few_visible_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 GPUs are asked for, CUDA_VISIBLE_DEVICES=3 leaves 1: GPUS=1"):
        command(environ={"CUDA_VISIBLE_DEVICES": "3"}, gpus=2)


def test_the_cpu_needs_no_gpu_and_has_an_image_of_its_own() -> None:
    words = command(gpus=0, device="cpu")
    assert "--gpus" not in words and "trainyard:0.1.0-cpu" in words


def test_secrets_go_in_as_a_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret\n")
    words = command(environ={"HF_TOKEN": "hf_secret"}, project_dir=str(tmp_path))
    assert f"type=bind,source={tmp_path}/.env,target=/workspace/.env,readonly" in options(words, "--mount")
    assert "hf_secret" not in " ".join(words)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"data": "records.jsonl"}, "would be mounted on /workspace and hide"),
        ({"data": "/"}, "would be mounted on / and hide"),
        ({"config_file": "/sets/a,b"}, "/sets/a,b: no container can see a path with a comma or a quote"),
    ],
)
def test_what_cannot_be_mounted_is_refused(request_: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        command(**request_)


def docker_run(*words: str, folder: Path, path: str, program: str | None = None) -> subprocess.Popen[str]:
    """In a pretend home, so that no cache of this user's is made."""
    environ = {"PATH": path, "HOME": str(folder), **({"TRAINYARD_DOCKER": program} if program else {})}
    return subprocess.Popen(
        [sys.executable, "-m", "local", "docker-run", *words],
        cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def request_words(records: Path, tmp_path: Path) -> list[str]:
    return ["--data", str(records), "--output", str(tmp_path / "runs"), "--run", "one", "--max-length", "264"]


@pytest.mark.parametrize(
    ("words", "program", "said"),
    [
        ([], None, "no docker on PATH: install it, say DOCKER=podman, or make run, which needs neither"),
        (["--device", "cuda"], "pretend", "DEVICE=cuda: this machine has no NVIDIA driver: say DEVICE=cpu, or submit"),
        (
            ["--device", "cpu"],
            "pretend",
            "no image trainyard:0.1.0-cpu (pretend says: Error: no such image): make image TORCH=cpu, "
            "or IMAGE=registry/name:tag",
        ),
        (
            ["--device", "cpu", "--image", "a.sif"],
            "pretend",
            "IMAGE=a.sif: pretend takes registry/name:tag, or leave IMAGE out",
        ),
        (
            ["--device", "cpu", "--image", "../unpacked"],
            "pretend",
            "IMAGE=../unpacked: pretend takes registry/name:tag, or leave IMAGE out",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line_before_anything_is_written(
    words: list[str], program: str | None, said: str, request_words: list[str], tmp_path: Path
) -> None:
    """`pretend` stands in for a docker that has no image."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pretend").write_text("#!/bin/sh\necho Error: no such image >&2; exit 1\n")
    (folder / "pretend").chmod(0o755)
    done = docker_run(*request_words, *words, folder=tmp_path, path=str(folder), program=program)
    assert (done.communicate()[0], done.returncode) == (f"trainyard: {said}\n", 78)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_real_run_is_interrupted_with_ctrl_c_and_goes_on(
    image: Image, tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    """By podman, in the real image: the plan comes first, 75 with a checkpoint, then the rest."""
    settings = tmp_path / "settings.yaml"
    settings.write_text("eval_samples: 4\nlogging_steps: 1\n")
    words = [
        *("--device", "cpu", "--model", str(tiny_model), "--data", str(walks), "--run", "one", "--image", image.name),
        *("--output", str(tmp_path / "runs"), "--max-steps", "12", "--config-file", str(settings)),
    ]
    path = f"{Path(image.podman).parent}:{os.environ['PATH']}"
    begun = docker_run(*words, folder=tmp_path, path=path, program="podman")
    assert begun.stdout is not None
    said = ""
    for line in begun.stdout:
        said += line
        if re.search(r"step +3/12 ", line):
            begun.send_signal(signal.SIGINT)
    assert begun.wait() == 75, said
    assert said.startswith("job    ") and said.endswith("to go on: the same command with RUN=one (or --run one)\n")
    run = tmp_path / "runs" / "one"
    (kept,) = (run / "checkpoints").glob("step-*")
    assert check_manifest(kept) == ""

    done = docker_run(*words, folder=tmp_path, path=path, program="podman")
    said, _ = done.communicate()
    assert done.returncode == 0, said
    assert f"going on from step {int(kept.name.removeprefix('step-'))} " in said
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert run.stat().st_uid == os.getuid()
    shutil.rmtree(run)  # nothing in it that its owner could not remove
