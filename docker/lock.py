"""Writes the exact, hashed dependencies of the image, of login nodes and of developers from pyproject.toml. Needs the
network and a minute.

    make lock                                                                    # all of them, both flavours of torch
    python docker/lock.py cu126 --index https://download.pytorch.org/whl/cu126   # one more, with options for uv
    python docker/lock.py --check                                                # make lint: have the locks all pins?

    launch.lock           a login node's, for every Python and platform
    libraries.lock        everything that is the same for all flavours of torch
    torch-<flavour>.lock  torch and what it alone brings: the CUDA libraries, Triton, torchvision and timm, or nothing
    sdists.lock           what has no wheel and is built where it is installed, with the build tools of libraries.lock
    developers.lock       what tests and linters need beside these
    checkov.lock          the linter of manifests and images, in an environment of its own
    resolver.lock         uv, which answers what the pins bring with them; used by this script alone

make-env.sh installs from launch.lock, from checkov.lock, or from all others. The image has those of torch, the
libraries and the sdists, each as a layer of its own: a new trl does not make every node pull torch again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parent
PYPROJECT = HERE.parent / "pyproject.toml"
CUDA, CPU = "cuda", "cpu"
INDEX = {CUDA: (), CPU: ("--index", "https://download.pytorch.org/whl/cpu")}
RESOLVER = "uv==0.13.9"
OWN_LOCK = HERE / "resolver.lock"
"""The resolver that is installed is the one of this lock, so that a new RESOLVER is asked from the second time on."""
# Everything else must have a wheel: what pip builds in isolation has build tools that no hash fixes.
SDISTS = ("deepspeed", "docopt")
WITH_TORCH = re.compile(r"torch$|torchvision$|timm$|triton$|cuda-|nvidia-")
# The oldest Python that the image may be built with, and developers may use. The hashes are those of all files of a
# release, so newer ones are served, too.
PYTHON = "3.11"
LAUNCH_PYTHON = "3.10"
"""The oldest of a login node."""


def pinned() -> dict[str, list[str]]:
    """pyproject's pins: those of a login node as `launch`, the others by the name of their extra."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return {"launch": project["dependencies"], **project["optional-dependencies"]}


def requirements(flavour: str) -> str:
    """pyproject's pins, with the build of torch that the flavour's index calls by a local version."""
    local = "" if flavour == CUDA else f"+{flavour}"
    pinned_to = pinned()
    pins = (*pinned_to["launch"], *pinned_to["train"], *(pinned_to["cuda"] if flavour != CPU else ()))
    return "\n".join(f"{pin}{local}" if re.match("torch(vision)?==", pin) else pin for pin in pins)


def resolve(asked_for: str, options: Sequence[str], held: Mapping[str, str] = {}) -> dict[str, str]:
    """Text of each pinned package with its hashes, by name; a package that is in `held` has the version that it has
    there."""
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "--no-deps", "--require-hashes")
        subprocess.run((*pip, "--only-binary", ":all:", "--requirement", str(OWN_LOCK)), check=True)
        asked = Path(folder, "asked.in")
        asked.write_text(asked_for, encoding="utf-8")
        bound = Path(folder, "held.txt")
        bound.write_text("\n".join(pin_of(block) for block in held.values()), encoding="utf-8")
        without_wheel = [word for name in SDISTS for word in ("--no-binary", name)]
        words = [
            *(f"{folder}/bin/uv", "pip", "compile", "--quiet", str(asked), "--generate-hashes"),
            *("--no-header", "--no-annotate", "--index-strategy", "unsafe-best-match"),
            *("--constraint", str(bound), "--only-binary", ":all:", *without_wheel, *options),
        ]
        return blocks(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def blocks(text: str) -> dict[str, str]:
    """The packages of a lock, each with its hashes, by name."""
    found = re.findall(r"^[^\s#].*(?:\n .*)*", text, re.MULTILINE)
    return {block.split("==")[0]: block for block in found}


def pin_of(block: str) -> str:
    """name==version, without the marker and the hashes that follow it."""
    return re.split(r"[ ;\n]", block)[0]


def version_of(block: str) -> str:
    """Without the local version that names a flavour of torch."""
    return pin_of(block).partition("==")[2].partition("+")[0]


def locked() -> dict[str, dict[str, str]]:
    """The packages of each lock that lies here, by the lock's name without its ending."""
    return {path.stem: blocks(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.lock"))}


def of_image(read: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The packages of the image's locks, all flavours of torch together."""
    parts = (found for name, found in read.items() if name in ("libraries", "sdists") or name.startswith("torch-"))
    return {package: block for found in parts for package, block in found.items()}


def stale() -> list[str]:
    """What is wrong with the locks that lie here: pins of pyproject.toml that they lack, packages without hashes, and
    packages of which developers would have another version than the image."""
    read, pins = locked(), pinned()
    image = of_image(read)
    found = [
        f"{name}.lock: {package} has no hash" for name, packages in read.items() for package, block in packages.items()
        if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)
    ]  # fmt: skip
    found += [
        f"developers.lock: {package} is in the image's locks, too" for package in {*read["developers"]} & {*image}
    ]
    for asked, packages, name in (
        (pins["launch"], read["launch"], "launch.lock"),
        ([*pins["launch"], *pins["train"], *pins["cuda"]], image, "the image's"),
        (pins["dev"], read["developers"], "developers.lock"),
        (pins["checkov"], read["checkov"], "checkov.lock"),
        ([RESOLVER], read["resolver"], "resolver.lock"),
    ):
        for pin in asked:
            package, version = pin.split("==")
            has = version_of(packages.get(package.lower(), "==nothing"))
            if has != version:
                found.append(f"{name}: {package} is {has}, pyproject.toml has {version}")
    return found


def with_known_hashes(block: str, before: str) -> str:
    """`block` with the hashes that it had before, if that was the same version: an index may show only those files of
    a release that suit its machines."""
    if pin_of(block) != pin_of(before):
        return block
    hashes = sorted({*re.findall(r"--hash=\S+", block), *re.findall(r"--hash=\S+", before)})
    return " \\\n    ".join([block.split(" \\\n")[0], *hashes])


def write(name: str, pins: dict[str, str]) -> None:
    path = HERE / f"{name}.lock"
    before = blocks(path.read_text(encoding="utf-8")) if path.exists() else {}
    lines = [with_known_hashes(block, before.get(package, "")) for package, block in sorted(pins.items())]
    path.write_text("\n".join(["# Written by docker/lock.py from pyproject.toml.", *lines, ""]), encoding="utf-8")
    print(f"docker/{path.name}: {len(pins)} packages")


def main(flavours: Sequence[str], options: Sequence[str]) -> None:
    pins = pinned()
    everywhere = ("--universal", "--python-version", LAUNCH_PYTHON)
    write("launch", resolve("\n".join(pins["launch"]), everywhere))
    write("resolver", resolve(RESOLVER, everywhere))
    linux = ("--python-version", PYTHON, "--python-platform", "linux")
    write("checkov", resolve("\n".join(pins["checkov"]), linux))
    for flavour in flavours:
        index = options or INDEX.get(flavour, ())
        image = resolve(requirements(flavour), (*linux, *index))
        write(f"torch-{flavour}", {name: pin for name, pin in image.items() if WITH_TORCH.match(name)})
        write("sdists", {name: image[name] for name in SDISTS})
        write("libraries", {n: pin for n, pin in image.items() if not WITH_TORCH.match(n) and n not in SDISTS})
        beside = resolve("\n".join([requirements(flavour), *pins["dev"]]), (*linux, *index), held=image)
        write("developers", {name: pin for name, pin in beside.items() if name not in image})


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit("\n".join([*stale(), "make lock writes them anew"]) if stale() else 0)
    split = next((i for i, word in enumerate(sys.argv) if word.startswith("--")), len(sys.argv))
    main(sys.argv[1:split] or (CUDA, CPU), sys.argv[split:])
