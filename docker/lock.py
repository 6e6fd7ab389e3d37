"""Writes the exact, hashed dependencies of the image and of login nodes from pyproject.toml. Needs the network and half
a minute.

    make lock                                                                    # login nodes, both flavours of torch
    python docker/lock.py cu126 --index https://download.pytorch.org/whl/cu126   # one more, with options for uv
    python docker/lock.py --check                                                # make lint: have the locks all pins?

    launch.lock           a login node's, for every Python and platform: make-env.sh installs it
    libraries.lock        everything that is the same for all flavours; what developers install has these versions, too
    torch-<flavour>.lock  torch and what it alone brings: the CUDA libraries, Triton, torchvision and timm, or nothing
    deepspeed.lock        has no wheel: the image compiles it

The image has three files, so that each is a layer of its own: a new trl does not make every node pull torch again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parent
PYPROJECT = HERE.parent / "pyproject.toml"
CUDA, CPU = "cuda", "cpu"
INDEX = {CUDA: (), CPU: ("--index", "https://download.pytorch.org/whl/cpu")}
RESOLVER = "uv==0.13.9"
BUILT_HERE = "deepspeed"
WITH_TORCH = re.compile(r"torch$|torchvision$|timm$|triton$|cuda-|nvidia-")
# The oldest Python that the image may be built with. The hashes are those of all files of a release.
PYTHON = "3.11"
LAUNCH_PYTHON = "3.10"
"""The oldest of a login node."""


def pinned() -> tuple[list[str], list[str], list[str]]:
    """pyproject's pins: those of a login node, of training, and of training on GPUs beside them."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return project["dependencies"], extras["train"], extras["cuda"]


def requirements(flavour: str) -> str:
    """pyproject's pins, with the build of torch that the flavour's index calls by a local version."""
    local = "" if flavour == CUDA else f"+{flavour}"
    launch, train, cuda = pinned()
    pins = (*launch, *train, *(cuda if flavour != CPU else ()))
    return "\n".join(f"{pin}{local}" if re.match("torch(vision)?==", pin) else pin for pin in pins)


def resolve(asked_for: str, options: Sequence[str]) -> dict[str, str]:
    """Text of each pinned package with its hashes, by name."""
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, RESOLVER)
        subprocess.run(pip, check=True)
        asked = Path(folder, "asked.in")
        asked.write_text(asked_for, encoding="utf-8")
        words = [
            *(f"{folder}/bin/uv", "pip", "compile", "--quiet", str(asked), "--generate-hashes"),
            *("--no-header", "--no-annotate", "--index-strategy", "unsafe-best-match", *options),
        ]
        return blocks(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def blocks(text: str) -> dict[str, str]:
    """The packages of a lock, each with its hashes, by name."""
    found = re.findall(r"^[^\s#].*(?:\n .*)*", text, re.MULTILINE)
    return {block.split("==")[0]: block for block in found}


def stale() -> list[str]:
    """What is wrong with the locks that lie here: pins of pyproject.toml that they lack, packages without hashes."""
    launch, train, cuda = pinned()
    read = {path.name: blocks(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.lock"))}
    image = {
        name: block for locked in read.values() if locked is not read["launch.lock"] for name, block in locked.items()
    }
    found = [
        f"{name}: {package} has no hash" for name, locked in read.items() for package, block in locked.items()
        if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)
    ]  # fmt: skip
    of_image = [*launch, *train, *cuda]
    for pins, locked, name in ((launch, read["launch.lock"], "launch.lock"), (of_image, image, "the image's")):
        for pin in pins:
            package, version = pin.split("==")
            has = re.split(r"[ ;+]", locked.get(package, "==nothing").partition("==")[2])[0]
            if has != version:
                found.append(f"{name}: {package} is {has}, pyproject.toml has {version}")
    return found


def write(name: str, pins: dict[str, str]) -> None:
    text = f"# Written by docker/lock.py from pyproject.toml.\n{chr(10).join(pins.values())}\n"
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"docker/{name}: {len(pins)} packages")


def main(flavours: Sequence[str], options: Sequence[str]) -> None:
    write("launch.lock", resolve("\n".join(pinned()[0]), ("--universal", "--python-version", LAUNCH_PYTHON)))
    image = ("--python-version", PYTHON, "--python-platform", "linux")
    for flavour in flavours:
        pins = resolve(requirements(flavour), (*image, *(options or INDEX.get(flavour, ()))))
        write(f"torch-{flavour}.lock", {name: pin for name, pin in pins.items() if WITH_TORCH.match(name)})
        write("deepspeed.lock", {BUILT_HERE: pins.pop(BUILT_HERE)})
        write("libraries.lock", {name: pin for name, pin in pins.items() if not WITH_TORCH.match(name)})


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit("\n".join([*stale(), "make lock writes them anew"]) if stale() else 0)
    split = next((i for i, word in enumerate(sys.argv) if word.startswith("--")), len(sys.argv))
    main(sys.argv[1:split] or (CUDA, CPU), sys.argv[split:])
