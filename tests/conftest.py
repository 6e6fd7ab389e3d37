"""Fixtures that need a place of their own: a test cluster, a copy of the checkout, a data folder."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster as test_cluster
import pytest
from checkouts import is_put_back, make_checkout
from fast_schedule import FastSchedule, loads_libraries, starts_without_libraries
from image import image  # noqa: F401 - a fixture
from tiny_families import tiny_idefics, tiny_llama, tiny_mllama, tiny_qwen, tiny_smolvlm  # noqa: F401 - fixtures
from training import tiny_model, walks  # noqa: F401 - fixtures
from wandb_server import service  # noqa: F401 - a fixture

# `make test` hands its own variables down, and a scheduler's would be read by the programs under test.
for _name in list(os.environ):
    if _name.startswith(("TRAINYARD_", "MAKE", "MFLAGS", "SLURM_", "SBATCH_")) and _name != "TRAINYARD_REWRITE_GOLDEN":
        del os.environ[_name]

# Hundreds of processes are started: where the environment forbids compiled files, as many images do, each of them
# would compile the project anew, which takes twice as long as what most do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell lets what it starts with & ignore Ctrl-C, and so would every process that a test stops with it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_test_file = collection_path.suffix == ".py" and collection_path.is_file()
    return True if is_test_file and starts_without_libraries(config) and loads_libraries(collection_path) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return FastSchedule(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers first the files with the most that takes long: a worker takes a whole file, and a long one
    at the end would leave the others idle. Those that wait for Slurm and those that compute then take turns."""
    if not hasattr(config, "workerinput"):
        return
    long = Counter(item.path for item in items if {"slow", "cluster"} & {mark.name for mark in item.iter_markers()})
    items.sort(key=lambda item: -long[item.path])


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are in no test's name: gzip writes the time into them, and all workers must find the same names."""
    return argname if isinstance(val, bytes) else None


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
def checkout(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what launches jobs, in a folder with an awkward name, its environments made already."""
    folder, spare = tmp_path / "check out's", tmp_path_factory.getbasetemp() / "spare checkout"
    if spare.exists():
        spare.rename(folder)
    else:
        make_checkout(folder)
    yield folder
    if folder.exists() and not spare.exists() and is_put_back(folder):
        folder.rename(spare)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A data folder with two good records. The picture is never opened by the launch side."""
    folder = tmp_path / "some data"
    folder.mkdir()
    (folder / "grid.png").write_bytes(b"not opened")
    line = '{"image": "grid.png", "context": "", "question": "Which button?", "output": "a"}\n'
    (folder / "train.jsonl").write_text(line * 2)
    return folder
