"""The image, built for real from docker/Dockerfile by buildah, and a podman that runs it without a daemon.

What a build takes from elsewhere is made here once and kept in a cache folder: a Debian base (debootstrap) and the
wheels of the locks, CPU flavour. Layers are kept too, so that only the first build is a matter of minutes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import ROOT

PROGRAMS = ("buildah", "podman", "crun", "debootstrap", "unshare")
FLAVOUR = "cpu"
LOCKS = tuple(f"docker/{name}.lock" for name in (f"torch-{FLAVOUR}", "libraries", "sdists"))
BASE = "localhost/trainyard-test-base"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainyard-test-image"

# A container has its host's cgroup and network here: neither can be made in every place that tests run in.
CONTAINERS_CONF = """\
[containers]
cgroups = "disabled"
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
# crun refuses a host with both kinds of cgroups, so podman sees none of the second.
WRAPPER = """\
#!/bin/sh
export CONTAINERS_STORAGE_CONF='{cache}/storage.conf' CONTAINERS_CONF='{cache}/containers.conf' BUILDAH_ISOLATION=chroot
exec unshare --mount sh -c 'umount --quiet /sys/fs/cgroup/unified; exec "$@"' sh {program} "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A built image and the program that runs it."""

    name: str
    """Its id: another test run may build another image meanwhile."""
    podman: str
    """Path of a `podman` that knows where the image is; a PATH with its folder in front knows `buildah` too."""


def missing() -> str | None:
    """Why no image can be built on this machine; None when it can."""
    if os.geteuid() != 0:
        return "building the image without a daemon takes root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"not installed: {', '.join(absent)}" if absent else None


@pytest.fixture(scope="session")
def image() -> Image:
    """The checkout's image for the CPU. Where it cannot be built skipped, or failed where CI=true."""
    if reason := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, but {reason}", pytrace=False)
        pytest.skip(reason)
    return build()


def build() -> Image:
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        podman = _containers()
        _make_base()
        wheels = _make_wheels()
        build = [
            *("sh", "docker/build.sh", "--build-arg", f"BASE={BASE}", "--volume", f"{wheels}:/wheels:ro"),
            *("--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"),
            f"--layers={str(_overlay()).lower()}",
        ]
        name = _run(*build, TRAINYARD_DOCKER="buildah", TRAINYARD_TORCH=FLAVOUR).splitlines()[-1]
        built = _run(podman, "image", "inspect", "--format", "{{.Id}}", f"localhost/{name}").strip()
    return Image(name=built, podman=podman)


@contextmanager
def _alone() -> Iterator[None]:
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*words: str, **environment: str) -> str:
    """The stdout of a program. Fails the tests with the program's message."""
    path = f"{CACHE / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-3000:]}", pytrace=False)
    return done.stdout


def _overlay() -> bool:
    """Whether layers can be stacked on this machine; if not, each layer is a copy of all below it, and so not kept."""
    return 'driver = "overlay"' in (CACHE / "storage.conf").read_text()


def _overlay_mounts() -> bool:
    script = "mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m"
    trial = CACHE / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir()
    return subprocess.run(["unshare", "--mount", "sh", "-c", script], cwd=trial, capture_output=True).returncode == 0


def _containers() -> str:
    """The path of a podman, with a buildah beside it, whose images lie in the cache folder."""
    folder = CACHE / "bin"
    folder.mkdir(exist_ok=True)
    driver = "overlay" if _overlay_mounts() else "vfs"
    storage = f'[storage]\ndriver = "{driver}"\ngraphroot = "{CACHE}/images"\nrunroot = "{CACHE}/run"\n'
    (CACHE / "storage.conf").write_text(storage)
    (CACHE / "containers.conf").write_text(CONTAINERS_CONF)
    for name in ("podman", "buildah"):
        program = next(
            str(Path(part, name))
            for part in os.environ["PATH"].split(":")
            if Path(part) != folder and os.access(Path(part, name), os.X_OK)
        )
        (folder / name).write_text(WRAPPER.format(cache=CACHE, program=program))
        (folder / name).chmod(0o755)
    return str(folder / "podman")


def _make_base() -> None:
    """Debian as small as it gets, as an image."""
    if BASE in _run("buildah", "images", "--format", "{{.Name}}").split():
        return
    rootfs = CACHE / "rootfs"
    shutil.rmtree(rootfs, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", "bookworm", str(rootfs))
    container = _run("buildah", "from", "scratch").strip()
    _run("buildah", "copy", "--quiet", container, str(rootfs), "/")
    _run("buildah", "commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(rootfs)


def _make_wheels() -> Path:
    """A folder with what the locks name: a build sees neither pip's settings nor its cache."""
    digest = hashlib.sha256(b"".join((ROOT / lock).read_bytes() for lock in LOCKS)).hexdigest()
    folder = CACHE / f"wheels-{digest[:12]}"
    if not (folder / ".complete").exists():
        for old in CACHE.glob("wheels-*"):
            shutil.rmtree(old)
        download = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--python-version", "3.11", "--dest", str(folder)),
            *(word for lock in LOCKS for word in ("--requirement", lock)),
        ]
        environ = {**os.environ, "DS_BUILD_OPS": "0"}
        # As make-env.sh does: a mirror may have torch without CUDA, PyPI has not.
        if subprocess.run(download, cwd=ROOT, env=environ, capture_output=True).returncode:
            _run(*download, "--extra-index-url", f"https://download.pytorch.org/whl/{FLAVOUR}", DS_BUILD_OPS="0")
        (folder / ".complete").touch()
    return folder
