"""The locks that login nodes, developers and the image install from: every pin, and a hash for each package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
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
EXTRAS = tuple(lock.pinned())
HASH = f"--hash=sha256:{'0' * 64}"


def test_the_locks_have_every_pin_and_a_hash_for_each_package() -> None:
    assert lock.stale() == []
    done = subprocess.run([sys.executable, "docker/lock.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("extra", "pin", "said"),
    [
        ("launch", "pyyaml==9.9", "launch.lock: pyyaml is 6.0.3, pyproject.toml has 9.9"),
        ("train", "new-thing==1.0", "the image's: new-thing is nothing, pyproject.toml has 1.0"),
        ("dev", "types-PyYAML==1", "developers.lock: types-PyYAML is 6.0.12.20261113, pyproject.toml has 1"),
        ("checkov", "checkov==1", "checkov.lock: checkov is 3.3.30, pyproject.toml has 1"),
    ],
)
def test_a_pin_that_a_lock_lacks_is_named(extra: str, pin: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "pinned", lambda: {n: [pin] * (n == extra) for n in EXTRAS})
    assert said in lock.stale()


def test_a_package_without_a_hash_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = lock.blocks
    monkeypatch.setattr(lock, "blocks", lambda text: {n: b.partition(" ")[0] for n, b in blocks(text).items()})
    assert {"launch.lock: pyyaml has no hash", "developers.lock: pytest has no hash"} <= {*lock.stale()}


def test_developers_have_no_second_version_of_what_the_image_has(monkeypatch: pytest.MonkeyPatch) -> None:
    read = lock.locked()
    read["developers"]["numpy"] = f"numpy==1.0 \\\n    {HASH}"
    monkeypatch.setattr(lock, "locked", lambda: read)
    assert lock.stale() == ["developers.lock: numpy is in the image's locks, too"]


def test_hashes_of_files_that_an_index_does_not_show_are_kept_for_the_same_version_alone() -> None:
    other = HASH.replace("0", "1")
    block = f"torch==2.0+cpu \\\n    {other}"
    assert (
        lock.with_known_hashes(block, f"torch==2.0+cpu \\\n    {HASH}")
        == f"torch==2.0+cpu \\\n    {HASH} \\\n    {other}"
    )
    assert lock.with_known_hashes(block, f"torch==2.1+cpu \\\n    {HASH}") == block
    marked = f'a==1 ; python_version < "4" \\\n    {other}'
    assert lock.with_known_hashes(marked, marked) == marked


def test_make_lock_asks_for_the_projects_pins_and_writes_the_locks_that_lie_here_from_what_it_is_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The resolver answers as it once did: which packages go into which lock, and how they stand there, is ours."""
    read, pins = lock.locked(), lock.pinned()
    shared = {**read["libraries"], **read["sdists"]}
    asked: list[tuple[str, tuple[str, ...]]] = []

    def answer(asked_for: str, options: Sequence[str], held: Mapping[str, str] = {}) -> dict[str, str]:
        asked.append((asked_for, tuple(options)))
        if asked_for == "\n".join(pins["launch"]):
            return dict(read["launch"])
        if asked_for == "\n".join(pins["checkov"]):
            return dict(read["checkov"])
        if asked_for == lock.RESOLVER:
            return dict(read["resolver"])
        image = {**shared, **read["torch-cpu" if "+cpu" in asked_for else "torch-cuda"]}
        if not held:
            return image
        assert held == image and asked_for.endswith("\n".join(pins["dev"]))
        return {**image, **read["developers"]}

    before = {path.name: path.read_text() for path in lock.HERE.glob("*.lock")}
    monkeypatch.setattr(lock, "resolve", answer)
    monkeypatch.setattr(lock, "HERE", tmp_path)
    lock.main((lock.CUDA, lock.CPU), ())
    assert {path.name: path.read_text() for path in tmp_path.glob("*.lock")} == before
    assert [options for words, options in asked if words == "\n".join(pins["launch"])] == [
        ("--universal", "--python-version", "3.10")
    ]
    for flavour, options in ((lock.CUDA, ()), (lock.CPU, ("--index", "https://download.pytorch.org/whl/cpu"))):
        words = lock.requirements(flavour)
        assert (words, ("--python-version", "3.11", "--python-platform", "linux", *options)) in asked
        assert {pin.partition("+")[0] for pin in words.split()} >= {*pins["launch"], *pins["train"]}


def test_every_environment_is_installed_by_hashes_and_nothing_is_built_with_what_no_lock_has() -> None:
    """Each install of make-env.sh and of the image, but that of systems without locks and of Trainyard itself."""
    script = (ROOT / "make-env.sh").read_text()
    head, _, rest = re.split(r"(make_unlocked\(\) \{.*?\n\})", script, flags=re.S)
    installs = re.findall(r"^ .*\b(?:hashed|pip) (.*)$", head + rest, re.M)
    found = {name for line in installs for name in re.findall(r"-r docker/(\S+)\.lock", line)}
    assert found == {"launch", "checkov", "torch-cuda", "torch-cpu", "libraries", "developers", "sdists"}
    # The last is make lock's own.
    assert {path.stem for path in (ROOT / "docker").glob("*.lock")} == found | {"resolver"}
    assert "--require-hashes" in (ROOT / "docker" / "lock.py").read_text()
    assert 'hashed() { pip --require-hashes --no-deps --only-binary :all: "$@"; }' in head
    assert [line for line in installs if "--require-hashes" in line] == [
        "--require-hashes --no-deps --no-build-isolation -r docker/sdists.lock"
    ]
    image = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    commands = re.findall(r"pip install (.*)", image)
    assert len(commands) == 4 and all("--no-deps" in line for line in commands)
    assert all("--only-binary :all:" in line or "--no-build-isolation" in line for line in commands)
    assert [("--require-hashes" in line, ".lock" in line) for line in commands] == [(True, True)] * 3 + [(False, False)]


def test_the_bill_of_materials_is_of_all_that_the_image_installs() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    files = set(re.findall(r"COPY docker/(\S+\.lock)", dockerfile))
    assert files == {"torch-${TORCH}.lock", "libraries.lock", "sdists.lock"}
    found = lock.blocks(module("sbom").locked("cpu"))
    assert {"torch", "transformers", "deepspeed", "docopt", "pyyaml"} <= set(found) and "triton" not in found
