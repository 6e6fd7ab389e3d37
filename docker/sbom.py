"""Writes what is in the image as CycloneDX, from its locks. Needs the network for the tool, and half a minute.

    make sbom                # trainyard-0.1.0.cdx.json, of the CUDA image
    make sbom TORCH=cpu

Of the Python packages; what the base has, its publisher says (docker buildx imagetools inspect).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOL = "cyclonedx-bom==7.5.0"


def locked(flavour: str) -> str:
    """The requirements of the image of that flavour of torch, with their hashes. Raises OSError."""
    names = (f"torch-{flavour}.lock", "libraries.lock", "sdists.lock")
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def main(flavour: str) -> Path:
    sys.path.insert(0, str(HERE.parent))
    from trainer import __version__

    out = Path(f"trainyard-{__version__}{'' if flavour == 'cuda' else f'-{flavour}'}.cdx.json")
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, TOOL)
        subprocess.run(pip, check=True)
        (asked := Path(folder, "image.txt")).write_text(locked(flavour), encoding="utf-8")
        words = [sys.executable, "-m", "cyclonedx_py", "requirements", str(asked), "--pyproject", "pyproject.toml"]
        words += ["--output-reproducible", "--output-file", str(out)]
        subprocess.run(words, check=True, cwd=HERE.parent, env={**os.environ, "PYTHONPATH": folder})
    return HERE.parent / out


if __name__ == "__main__":
    print(main(os.environ.get("TRAINYARD_TORCH") or "cuda"))
