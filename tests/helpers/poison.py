"""Pickles that act when they are loaded, in a folder whose sums hold."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


class Poison:
    """An object that makes the file `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def sums_anew(checkpoint: Path) -> None:
    """Write a manifest that holds, as anybody who can write a file can."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))
