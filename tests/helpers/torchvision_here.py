"""torchvision and timm beside the CPU's torch, for tests of models whose processors need them.

PyPI's torchvision is built for the CUDA build of torch, and its compiled operators do not load without it. What
processors use of it is Python on torch.nn.functional, which runs anywhere: the operators are declared by name, so that
torchvision can be imported, and whoever called one would get an error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from paths import ROOT

FOLDER = ROOT / ".venv" / "torchvision"
PACKAGES = ("torchvision", "timm")


def pins() -> list[str]:
    """What pyproject.toml pins for the CUDA environment."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return [re.findall(rf'"({name}==[\d.]+)"', text)[0] for name in PACKAGES]


def provide() -> None:
    """Let this process import them. It must not have imported transformers yet."""
    assert "transformers" not in sys.modules, "transformers has looked for torchvision already"
    stamp, wanted = FOLDER / "pins", "\n".join(pins())
    if not stamp.exists() or stamp.read_text() != wanted:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(FOLDER))
        subprocess.run([*pip, *pins()], check=True)
        stamp.write_text(wanted)
    sys.path.append(str(FOLDER))
    _declare_operators(FOLDER / "torchvision" / "_meta_registrations.py")


def _declare_operators(registrations: Path) -> None:
    import torch

    names = set(re.findall(r'(?:register_meta\("|torchvision::)(\w+)', registrations.read_text(encoding="utf-8")))
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor declared_alone) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[object] = []
"""Declarations last as long as the object that made them."""
