"""Fixtures that need a place of their own: a test cluster, a copy of the checkout, a data folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cluster as test_cluster
import pytest
from image import image  # noqa: F401 - a fixture
from paths import ROOT
from tiny_families import tiny_idefics, tiny_llama, tiny_qwen, tiny_smolvlm  # noqa: F401 - fixtures
from training import tiny_model, walks  # noqa: F401 - fixtures
from wandb_server import service  # noqa: F401 - a fixture

LAUNCH_SIDE = (
    "Makefile",
    "trainyard",
    "make-env.sh",
    "pyproject.toml",
    "docker",
    "accelerate_configs",
    "trainer",
    "planner",
    "launcher",
    "slurm",
    "k8s",
    "local",
    "examples",
)

TABLE = r"/^\[project/,/^\[tool/p"

# `make test` hands its own variables down, and a scheduler's would be read by the programs under test.
for _name in list(os.environ):
    if _name.startswith(("TRAINYARD_", "MAKE", "MFLAGS", "SLURM_", "SBATCH_")) and _name != "TRAINYARD_REWRITE_GOLDEN":
        del os.environ[_name]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[test_cluster.Cluster]:
    """Two Slurm nodes with eight pretend GPUs each. Without Slurm skipped, or failed where CI=true."""
    if reason := test_cluster.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, but {reason}", pytrace=False)
        pytest.skip(reason)
    with test_cluster.Cluster.started(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what launches jobs, in a folder with an awkward name, its environments made already."""
    folder = tmp_path / "check out's"
    folder.mkdir()
    for name in LAUNCH_SIDE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("site.yaml"))
        else:
            shutil.copy2(source, folder / name)
    for flavour in ("launch", "cpu"):
        prepare_environment(folder, flavour)
    return folder


def prepare_environment(folder: Path, flavour: str) -> None:
    """An environment that make takes for finished; its Python is the one that runs the tests."""
    python = folder / ".venv" / flavour / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    words = ["cat", "docker/launch.lock"] if flavour == "launch" else ["sed", "-n", TABLE, "pyproject.toml"]
    pins = subprocess.run(words, cwd=folder, capture_output=True, check=True)
    (folder / ".venv" / flavour / ".made").write_bytes(pins.stdout)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A data folder with two good records. The picture is never opened by the launch side."""
    folder = tmp_path / "some data"
    folder.mkdir()
    (folder / "grid.png").write_bytes(b"not opened")
    line = '{"image": "grid.png", "context": "", "question": "Which button?", "output": "a"}\n'
    (folder / "train.jsonl").write_text(line * 2)
    return folder
