"""The image as it is built from docker/Dockerfile, run by podman with the restrictions of a cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from image import Image

import trainer
from trainer import image as places

PROJECT_DIR = Path(__file__).resolve().parent.parent
RESTRICTED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--passwd=false")

pytestmark = pytest.mark.slow


def configuration(image: Image) -> dict[str, Any]:
    command = [image.podman, "image", "inspect", image.name]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)[0]["Config"]


def test_the_image_holds_what_the_contract_says(image: Image) -> None:
    """trainer/image.py is what docker-run, Slurm and Kubernetes are told; the Dockerfile makes it true."""
    config = configuration(image)
    assert config["User"] == f"{places.UID}:{places.UID}"
    assert config["WorkingDir"] == places.WORK_DIR
    assert config["Entrypoint"] == list(places.SUPERVISE)
    assert "Cmd" not in config or not config["Cmd"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment.pop("PATH")  # the base's
    assert environment == places.ENVIRONMENT


def test_the_image_says_which_version_and_commit_it_is(image: Image) -> None:
    labels = configuration(image)["Labels"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    ).stdout.strip()
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == trainer.__version__
    assert labels[f"{prefix}.revision"].removesuffix("-dirty") == head


def python(image: Image, code: str, *options: str) -> str:
    command = [
        *(
            image.podman,
            "run",
            "--rm",
            *RESTRICTED,
            *options,
            "--entrypoint",
            places.PYTHON,
            image.name,
            "-c",
            code,
        )
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("user", ["10001:10001", "54321:0"])
def test_every_writable_place_works_for_any_user_with_a_read_only_root(image: Image, user: str) -> None:
    """The code is the image's own, nothing else can be written, and the libraries take the user for one."""
    code = f"""
import os, pathlib, tempfile
for name, place in {places.ENVIRONMENT!r}.items():
    assert os.environ[name] == place
    pathlib.Path(place).mkdir(parents=True, exist_ok=True)
    pathlib.Path(place, "written").write_text(name)
pathlib.Path({places.RUNS_DIR!r}, "written").touch()
try:
    pathlib.Path({places.WORK_DIR!r}, "written").touch()
except OSError as error:
    print(os.getuid(), error.strerror, tempfile.gettempdir(), os.path.expanduser("~"))
"""
    mounts = ("--tmpfs", places.CACHE_DIR, "--tmpfs", places.RUNS_DIR, "--tmpfs", places.TMP_DIR)
    said = python(image, code, "--user", user, *mounts)
    assert said == f"{user.split(':')[0]} Read-only file system /tmp /cache/home\n"


def test_deepspeeds_cpu_adam_is_compiled_for_any_recent_processor(image: Image) -> None:
    """It steps without a C++ compiler, and nothing in it is beyond AVX2."""
    code = """
import re, shutil, subprocess, torch
from deepspeed.git_version_info import installed_ops
from deepspeed.ops.adam import DeepSpeedCPUAdam
assert shutil.which("g++") is None and shutil.which("gcc")
weights = torch.nn.Parameter(torch.ones(100))
weights.grad = torch.ones(100)
optimizer = DeepSpeedCPUAdam([weights], lr=0.25)
optimizer.step()
machine_code = subprocess.run(["objdump", "-d", optimizer.ds_opt_adam.__file__], capture_output=True, text=True).stdout
print(installed_ops["cpu_adam"], weights[0].item(), sorted(set(re.findall("%([xyz]mm)", machine_code))))
"""
    said = python(image, code, "--env", "DS_ACCELERATOR=cpu", "--tmpfs", places.CACHE_DIR)
    assert said.splitlines()[-1] == "1 0.75 ['xmm', 'ymm']"
