"""Writes the image's exact, hashed dependencies from pyproject.toml. Needs the network and half a minute.

    make lock                                                                    # both flavours of torch
    python docker/lock.py cu126 --index https://download.pytorch.org/whl/cu126   # one more, with options for uv

    libraries.lock        everything that is the same for all flavours
    torch-<flavour>.lock  torch and what it alone brings: the CUDA libraries and Triton, or nothing
    deepspeed.lock        has no wheel: the image compiles it

Three files, so that each is a layer of its own: a new trl does not make every node pull torch again.
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
WITH_TORCH = re.compile(r"torch$|triton$|cuda-|nvidia-")
# The oldest Python that the image may be built with. The hashes are those of all files of a release.
PYTHON = "3.11"


def requirements(flavour: str) -> str:
    """pyproject's pins, with the build of torch that the flavour's index calls by a local version."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    local = "" if flavour == CUDA else f"+{flavour}"
    pins = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    return "\n".join(f"{pin}{local}" if pin.startswith("torch==") else pin for pin in pins)


def resolve(flavour: str, options: Sequence[str]) -> dict[str, str]:
    """Text of each pinned package with its hashes, by name."""
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, RESOLVER)
        subprocess.run(pip, check=True)
        asked = Path(folder, "asked.in")
        asked.write_text(requirements(flavour), encoding="utf-8")
        words = [
            *(f"{folder}/bin/uv", "pip", "compile", "--quiet", str(asked), "--generate-hashes"),
            *("--no-header", "--no-annotate", "--python-version", PYTHON, "--python-platform", "linux"),
            *("--index-strategy", "unsafe-best-match", *options),
        ]
        text = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    blocks = re.findall(r"^\S.*(?:\n .*)*", text, re.MULTILINE)
    return {block.split("==")[0]: block for block in blocks}


def write(name: str, pins: dict[str, str]) -> None:
    text = f"# Written by docker/lock.py from pyproject.toml.\n{chr(10).join(pins.values())}\n"
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"docker/{name}: {len(pins)} packages")


def main(flavours: Sequence[str], options: Sequence[str]) -> None:
    for flavour in flavours:
        pins = resolve(flavour, options or INDEX.get(flavour, ()))
        write(f"torch-{flavour}.lock", {name: pin for name, pin in pins.items() if WITH_TORCH.match(name)})
        write("deepspeed.lock", {BUILT_HERE: pins.pop(BUILT_HERE)})
        write("libraries.lock", {name: pin for name, pin in pins.items() if not WITH_TORCH.match(name)})


if __name__ == "__main__":
    split = next((i for i, word in enumerate(sys.argv) if word.startswith("--")), len(sys.argv))
    main(sys.argv[1:split] or (CUDA, CPU), sys.argv[split:])
