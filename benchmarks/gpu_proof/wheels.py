"""The libraries for a machine that can fetch nothing: downloaded here, installed there.

    python -m benchmarks.gpu_proof.wheels DIR      # here: the pinned wheels that a machine with torch lacks
    python3 -m benchmarks.gpu_proof --wheels DIR   # there

DIR takes less than 64 MiB, since bitsandbytes comes with its library for CUDA 13 alone. A machine that has torch built
for CUDA is expected to have the rest: accelerate, Pillow, pyarrow, psutil.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import tomllib

PROJECT_DIR = Path(__file__).resolve().parents[2]
# Of this project's pins; behind them what they need and such a machine seldom has.
PINNED = ("bitsandbytes", "transformers", "trl", "peft", "datasets")
MORE = (
    "dill", "multiprocess", "liger-kernel", "submitit", "hjson", "pydantic", "pydantic-core", "annotated-types",
    "typing-inspection",
)  # fmt: skip
# DeepSpeed is published as source alone; without its compiled parts, which are made when they are first used.
BUILT = ("deepspeed",)
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64"]
PYTHON, CUDA = "3.12", "13"  # there
MOST_MIB = 64


def main(folder: str) -> None:
    """Raises CalledProcessError, and ValueError for more than MOST_MIB."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run(
        [*pip, "download", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp",
         *platforms, "--dest", folder, *pins(PINNED), *MORE],
        check=True,
    )  # fmt: skip
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", folder, *pins(BUILT)],
        check=True, env={**os.environ, "DS_BUILD_OPS": "0"},
    )  # fmt: skip
    for wheel in Path(folder).glob("bitsandbytes-*.whl"):
        keep_one_cuda(wheel)
    size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
    if size > MOST_MIB:
        raise ValueError(f"{folder} has {size:.1f} MiB, {MOST_MIB} may be carried")
    print(f"{folder}: {size:.1f} MiB")


def pins(names: tuple[str, ...]) -> list[str]:
    """NAME==VERSION, as pyproject.toml has them."""
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {pin.partition("==")[0]: pin for pin in project["optional-dependencies"]["train"]}
    return [pinned[name] for name in names]


def keep_one_cuda(wheel: Path) -> None:
    """Leave out of bitsandbytes' wheel the libraries for everything but CUDA of that version."""
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(small := wheel.with_suffix(".part"), "w") as some:
        for entry in whole.infolist():
            library = entry.filename.endswith(".so") and "libbitsandbytes_cpu" not in entry.filename
            if not library or f"libbitsandbytes_cuda{CUDA}" in entry.filename:
                some.writestr(entry, whole.read(entry), zipfile.ZIP_DEFLATED)
    small.replace(wheel)


def begin_again_with(folder: Path) -> None:
    """Install the wheels beside everything, and start this program anew with them."""
    site = tempfile.mkdtemp(prefix="trainyard-site-")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", site,
         *map(str, sorted(folder.glob("*.whl")))],
        check=True,
    )  # fmt: skip
    place = sys.argv.index("--wheels")
    words = sys.argv[1:place] + sys.argv[place + 2 :]
    path = os.pathsep.join(filter(None, (site, os.environ.get("PYTHONPATH"))))
    os.execve(
        sys.executable, [sys.executable, "-m", "benchmarks.gpu_proof", *words], {**os.environ, "PYTHONPATH": path}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
