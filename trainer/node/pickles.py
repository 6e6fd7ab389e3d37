"""Loads the pickles of a checkpoint safely. Pickles are programs: anyone who may write into the run's folder could
have written them, and the manifest's sums prove only that a file is complete, not who wrote it.

Every load in this process builds only numbers and the classes named in this file, whatever a library asks for.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
ONLY_WEIGHTS, ANYTHING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def load_only_weights() -> None:
    """Let no torch.load of this process run code, not even DeepSpeed's, which asks for `weights_only=False`."""
    os.environ.pop(ANYTHING, None)  # with both variables torch refuses to load at all
    os.environ[ONLY_WEIGHTS] = "1"


def allow_own_classes() -> None:
    """Allow the contents of Trainyard's checkpoints besides numbers: the state of numpy's random numbers, and
    DeepSpeed's classes. The list was taken from real checkpoints:
    torch.serialization.get_unsafe_globals_in_checkpoint."""
    import numpy as np
    import torch

    state = np.empty(0, np.uint32)
    allowed: list[Any] = [state.__reduce__()[0], np.ndarray, np.dtype, type(state.dtype)]
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum

        allowed += [ZeroStageEnum, LossScaler]
    torch.serialization.add_safe_globals(allowed)


def unsafe_pickle(folder: Path) -> str:
    """The pickle below `folder` that cannot be loaded safely, and why; "" when all can. No code in them is run."""
    import torch

    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        try:
            # A mapped file, where its format allows it, so that no numbers are read.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # the file decides which error is raised
            return f"{path.relative_to(folder)} {refusal(error)}"
    return ""


def refusal(error: Exception) -> str:
    """Why a pickle was not loaded. torch's own message would advise loading it unsafely."""
    if found := re.search(r"GLOBAL ([\w.]+) ", str(error)):
        return f"holds {found[1]}, which could run anything: it was not loaded"
    return f"cannot be loaded as numbers alone ({type(error).__name__})"
