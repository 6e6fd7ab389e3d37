"""The memory that this process holds, and the most that it has held."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainer.config import TrainConfig

MEASURED = {"cuda": "GPU memory, torch's allocator", "cpu": "resident memory (RSS)", "mps": "Metal's memory, now"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    name: str
    bytes: int
    """Bytes held at the end of the stage: allocated on a GPU, resident on the CPU."""
    peak_bytes: int
    """The most bytes held since the beginning."""
    reserved_bytes: int | None
    """The most bytes that torch's allocator has taken from a GPU; None on the CPU."""
    process_bytes: int
    """The most bytes held since the beginning, including GPU memory that torch does not manage."""


def read_stage(name: str, config: TrainConfig) -> Stage:
    """The memory held now, as a stage of that name; for the stage `peak`, the most held so far."""
    reserved = None
    if config.device == "cuda":
        import torch

        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        reserved, (free, total) = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()
        # Memory outside torch: context, NCCL, and other processes on the card.
        process = reserved + total - free - torch.cuda.memory_reserved()
    elif config.device == "mps":  # Metal keeps no peak
        import torch

        held = peak = process = torch.mps.driver_allocated_memory()
    else:
        status = Path("/proc/self/status").read_text()
        held, peak = (int(re.findall(rf"{key}:\s+(\d+) kB", status)[0]) * 1024 for key in ("VmRSS", "VmHWM"))
        process = peak
    held = peak if name == "peak" else held
    return Stage(name=name, bytes=held, peak_bytes=peak, reserved_bytes=reserved, process_bytes=process)
