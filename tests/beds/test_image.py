"""The image as it is built from docker/Dockerfile, run by podman with the restrictions of a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomllib
from image import LOCKS, Image
from paths import ROOT

import trainer
from launcher import image as places
from trainer.log import bare
from trainer.training.checkpoint import check_manifest

RESTRICTED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--passwd=false")


def test_linters_find_nothing_in_the_dockerfile_and_the_scripts() -> None:
    programs = Path(sys.executable).parent
    for words in (["hadolint", "docker/Dockerfile"], ["shellcheck", "docker/build.sh", "docker/sif.sh"]):
        done = subprocess.run([programs / words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.slow
def test_checkov_finds_nothing_in_the_dockerfile() -> None:
    checkov = ROOT / ".venv" / "checkov" / "bin" / "checkov"
    if not checkov.exists():
        reason = "no .venv/checkov: sh make-env.sh checkov"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    words = ["--file", "docker/Dockerfile", "--framework", "dockerfile", "--skip-download", "--output", "json"]
    done = subprocess.run([checkov, *words], cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)["results"]
    assert [check["check_id"] for check in found["failed_checks"]] == []
    assert len(found["passed_checks"]) > 100


def test_the_locks_hold_the_projects_pins() -> None:
    """`make lock` writes them again after a change."""
    locks = {path.name: path.read_text() for path in (ROOT / "docker").glob("*.lock")}
    pinned = {line.removesuffix(" \\") for text in locks.values() for line in text.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["train"]}
    assert wanted - {pin.lower() for pin in pinned} == set()
    (torch,) = (pin for pin in wanted if pin.startswith("torch=="))
    assert f"{torch}+cpu \\" in locks["torch-cpu.lock"] and f"{torch} \\" in locks["torch-cuda.lock"]


@pytest.mark.parametrize("docker", ["docker", "buildah"])
def test_a_sif_is_packed_from_the_image_that_was_built(docker: str, tmp_path: Path) -> None:
    """Stand-ins for both programs: the image would take minutes."""
    tar = '"$3"' if docker == "docker" else '"$(echo "$4" | cut -d: -f2)"'
    for name, script in {
        docker: f'echo {docker} "$@" >>"$LOG"; [ "$1" = build ] || echo packed >{tar}',
        "apptainer": 'echo apptainer "$1" "$2" "$3" >>"$LOG"; cat "${4#docker-archive:}" >>"$LOG"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "TRAINYARD_TORCH": "cpu"}
    environ["TRAINYARD_DOCKER"] = docker
    done = subprocess.run(["sh", "docker/sif.sh"], cwd=ROOT, env=environ, capture_output=True, text=True)
    version = trainer.__version__
    assert (done.stdout, done.returncode) == (f"trainyard-{version}-cpu.sif\n", 0), done.stderr
    build, save, *packed = log.read_text().splitlines()
    begun = f"{docker} build --file docker/Dockerfile --tag trainyard:{version}-cpu --build-arg TORCH=cpu "
    assert build.startswith(begun)
    image = f"trainyard:{version}-cpu"
    saved = {
        "docker": rf"docker save --output (\S+)/image\.tar {image}",
        "buildah": rf"buildah push --quiet {image} docker-archive:(\S+)/image\.tar:{image}",
    }
    assert re.fullmatch(saved[docker], save)
    assert packed == [f"apptainer build --force trainyard-{version}-cpu.sif", "packed"]


def test_a_sif_asks_for_every_program_before_it_builds(tmp_path: Path) -> None:
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    environ = {"PATH": str(tmp_path), "TRAINYARD_DOCKER": "buildah"}
    done = subprocess.run(["sh", "docker/sif.sh"], cwd=ROOT, env=environ, capture_output=True, text=True)
    said = "not on PATH: buildah apptainer: install or load what is missing (DOCKER= may be docker, podman or buildah)"
    assert (done.stdout, done.stderr, done.returncode) == ("", f"trainyard: {said}\n", 78)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TRAINYARD_TORCH": "cu99"}, "TORCH=cu99: known are cpu cuda"),
        ({"TRAINYARD_DOCKER": "dokcer"}, "no dokcer on PATH: install it, or say DOCKER=podman"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(environ: dict[str, str], said: str) -> None:
    done = subprocess.run(
        ["sh", "docker/build.sh"], cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr.strip(), done.returncode) == ("", f"trainyard: {said}", 78)


def configuration(image: Image) -> dict[str, Any]:
    command = [image.podman, "image", "inspect", image.name]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)[0]["Config"]


@pytest.mark.slow
def test_the_image_holds_what_the_contract_says(image: Image) -> None:
    """local/image.py is what docker-run, Slurm and Kubernetes are told; the Dockerfile makes it true."""
    config = configuration(image)
    assert config["User"] == f"{places.UID}:{places.UID}"
    assert config["WorkingDir"] == places.WORK_DIR
    assert config["Entrypoint"] == list(places.SUPERVISE)
    assert "Cmd" not in config or not config["Cmd"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment.pop("PATH")  # the base's
    assert environment == places.ENVIRONMENT


@pytest.mark.slow
def test_the_image_says_which_version_and_commit_it_is(image: Image) -> None:
    labels = configuration(image)["Labels"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == trainer.__version__
    assert labels[f"{prefix}.revision"].removesuffix("-dirty") == head


def python(image: Image, code: str, *options: str) -> str:
    command = [
        *(image.podman, "run", "--rm", *RESTRICTED, *options, "--entrypoint", places.PYTHON, image.name, "-c", code)
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_package_in_the_image_is_of_its_locks(image: Image) -> None:
    """Also those of sdists.lock, which are built in another stage. pip itself is the base's."""
    code = "from importlib.metadata import distributions; print(*{f'{d.name}=={d.version}' for d in distributions()})"
    locks = "\n".join((ROOT / lock).read_text() for lock in LOCKS)
    there, wanted = ({_pin(word) for word in text.split() if "==" in word} for text in (python(image, code), locks))
    assert wanted - there == set()
    assert {pin.partition("==")[0] for pin in there - wanted} == {"pip", "trainyard"}


def _pin(word: str) -> str:
    """A requirement as its name is written everywhere."""
    name, _, version = word.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_c_module_for_python_can_be_compiled_as_triton_does(image: Image) -> None:
    """Triton itself takes a GPU. These are its compiler's options, and it too loads from its cache folder."""
    code = """
import importlib.util, os, pathlib, subprocess, sysconfig
source = pathlib.Path("/tmp/m.c")
source.write_text('#include <Python.h>\\n'
                  'static struct PyModuleDef d = {PyModuleDef_HEAD_INIT, "m", "made", -1, NULL};\\n'
                  'PyMODINIT_FUNC PyInit_m(void) { return PyModule_Create(&d); }')
made = os.environ["TRITON_CACHE_DIR"] + "/m.so"
os.makedirs(os.path.dirname(made))
include = sysconfig.get_paths()["include"]
subprocess.run(["gcc", source, "-O3", "-shared", "-fPIC", "-Wno-psabi", "-o", made, f"-I{include}"], check=True)
spec = importlib.util.spec_from_file_location("m", made)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.__doc__)
"""
    said = python(image, code, "--user", "54321:0", "--tmpfs", f"{places.CACHE_DIR}:exec", "--tmpfs", places.TMP_DIR)
    assert said == "made\n"


@pytest.fixture
def train(image: Image, tiny_model: Path, walks: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the planned command for the tiny model as `user`, with nothing writable but three places."""
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(0o777)
    for folder in (tiny_model, walks):
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def start(user: str, **options: str) -> subprocess.Popen[str]:
        values = {
            "model": "model", "data": "data", "output_dir": "runs/one", "run_id": "one", "device": "cpu",
            "world_size": "1", "micro_batch_size": "4", "gradient_accumulation_steps": "1", "max_steps": "12",
            "learning_rate": "2e-3", "lora_r": "8", "lora_alpha": "16", "eval_samples": "4", "logging_steps": "1",
            **options,
        }  # fmt: skip
        command = [
            *(image.podman, "run", "--rm", "--user", user, *RESTRICTED),
            *("--tmpfs", places.TMP_DIR, "--tmpfs", places.CACHE_DIR, "--env", "OMP_WAIT_POLICY=passive"),
            *("--volume", f"{runs}:{places.RUNS_DIR}", "--volume", f"{walks}:{places.DATA_DIR}:ro"),
            *("--volume", f"{tiny_model}:{places.WORK_DIR}/model:ro", image.name, "accelerate", "launch"),
            *("--config_file", "accelerate_configs/cpu_mps.yaml", "--num_processes", "1", "--num_machines", "1"),
            *("--cpu", "-m", "trainer.train", *(word for pair in values.items() for word in (f"--{pair[0]}", pair[1]))),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


@pytest.mark.slow
def test_a_stopped_container_leaves_a_checkpoint_and_the_next_one_goes_on(
    train: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """As a user that the image does not know, without capabilities, on a read-only root."""
    begun = train("54321:0")
    assert begun.stdout is not None
    said = ""
    for line in begun.stdout:
        said += line
        if re.search(r"step +3/12 ", line):
            begun.terminate()
    assert begun.wait() == 75, said
    assert "trainyard: asked to stop by SIGTERM" in said
    run = tmp_path / "runs" / "one"
    (kept,) = (run / "checkpoints").glob("step-*")
    assert check_manifest(kept) == ""

    done = train("54321:0")
    said, _ = done.communicate()
    assert done.returncode == 0, said
    assert f"going on from step {int(kept.name.removeprefix('step-'))} " in said
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_uid == 54321


@pytest.mark.slow
def test_the_images_own_user_trains_to_the_end(train: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    done = train(f"{places.UID}:{places.UID}", max_steps="2")
    said, _ = done.communicate()
    assert done.returncode == 0, said
    assert (tmp_path / "runs" / "one" / "adapter" / "adapter_model.safetensors").stat().st_uid == places.UID


@pytest.mark.slow
def test_a_wrong_request_is_78_to_whoever_started_the_container(image: Image) -> None:
    done = subprocess.run(
        [image.podman, "run", "--rm", *RESTRICTED, "--tmpfs", places.TMP_DIR, image.name, "python", "train.py"],
        capture_output=True, text=True,
    )  # fmt: skip
    said = "trainyard: supervise takes the plan's command: -- accelerate launch ... -m trainer.train ...\n"
    assert (done.returncode, bare(done.stderr)) == (78, said)
