"""The locks that login nodes, developers and the image install from: every pin, and a hash for each package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest
from paths import ROOT


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


lock = module("lock")


def test_the_locks_have_every_pin_and_a_hash_for_each_package() -> None:
    assert lock.stale() == []
    done = subprocess.run([sys.executable, "docker/lock.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        ((["pyyaml==9.9"], [], []), ["launch.lock: pyyaml is 6.0.3, pyproject.toml has 9.9"]),
        (([], ["new-thing==1.0"], []), ["the image's: new-thing is nothing, pyproject.toml has 1.0"]),
    ],
)
def test_a_pin_that_a_lock_lacks_is_named(
    pins: tuple[list[str], list[str], list[str]], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "pinned", lambda: pins)
    assert lock.stale()[:1] == said


def test_a_package_without_a_hash_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = lock.blocks
    monkeypatch.setattr(lock, "blocks", lambda text: {n: b.partition(" ")[0] for n, b in blocks(text).items()})
    assert "launch.lock: pyyaml has no hash" in lock.stale()


def test_a_login_node_installs_by_hashes_and_a_developer_the_images_versions() -> None:
    text = (ROOT / "make-env.sh").read_text()
    assert "pip --require-hashes --no-deps -r docker/launch.lock" in text
    words = ["sed", "-n", *re.findall(r"sed -n '(s/.*?)' docker/", text), "docker/libraries.lock"]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert made == [block.split()[0] for block in lock.blocks((ROOT / "docker/libraries.lock").read_text()).values()]


def test_the_bill_of_materials_is_of_all_that_the_image_installs() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    files = set(re.findall(r"COPY docker/(\S+\.lock)", dockerfile))
    assert files == {"torch-${TORCH}.lock", "libraries.lock", "deepspeed.lock"}
    found = lock.blocks(module("sbom").locked("cpu"))
    assert {"torch", "transformers", "deepspeed", "pyyaml"} <= set(found) and "triton" not in found
