"""Machines that cannot be had: an `nvidia-smi` that prints what a file of tests/nvidia_smi/ holds. A stand-in."""

from __future__ import annotations

import shlex
from pathlib import Path

from paths import ROOT

MACHINES = ROOT / "tests" / "nvidia_smi"


def said_by(machine: str) -> dict[str, str]:
    """What the machine's nvidia-smi prints, by the words that it is called with."""
    text = (MACHINES / f"{machine}.txt").read_text()
    parts = [part.partition("\n") for part in text.split("$ nvidia-smi ")[1:]]
    return {words: printed for words, _, printed in parts}


def put_nvidia_smi(folder: Path, machine: str) -> Path:
    """`folder`, for the front of PATH, with an nvidia-smi of that machine."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [f"{shlex.quote(words)}) cat <<'E'\n{printed}E\n;;" for words, printed in said_by(machine).items()]
    program = folder / "nvidia-smi"
    other = "*) echo '| NVIDIA-SMI 580.95  Driver Version: 580.95  CUDA Version: 13.0 |';;"
    program.write_text("\n".join(["#!/bin/sh", 'case "$*" in', *cases, other, "esac", ""]))
    program.chmod(0o755)
    return folder
