"""Checks the NVIDIA side of a node through its driver and torch's files. Imports no torch, and takes no GPU memory."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol, TypeVar

from trainer.launch import PEAK_ENV, VRAM_ENV
from trainer.node.host import host_memory
from trainer.outcome import ConfigError, SickNode, node_name
from trainer.text import GIB

# A card reports less than its nominal memory: an L4 or A10 of 24 GB reports 22.5 GiB (ECC and firmware).
NAME_PLATE_SHARE = 0.92
LEAST_CAPABILITY = 8.0
"""Lowest compute capability of a GPU that computes in bf16."""
SMI_TIMEOUT_S = 30
MOST_OF_FAULT = 120  # characters
NOT_TOLD = ("[N/A]", "N/A", "[Not Supported]")
"""What nvidia-smi says in place of the memory of a GPU that shares the host's, such as the GB10."""
GPU_QUERY = ("--query-gpu=uuid,name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits")


class Gpu(NamedTuple):
    uuid: str
    name: str
    total_gib: float
    free_gib: float
    capability: float
    fault: str = ""
    """The line of nvidia-smi, for a GPU that does not answer with values."""


class Named(Protocol):
    @property
    def uuid(self) -> str: ...


Found = TypeVar("Found", bound=Named)


def check_gpus(planned: int) -> str:
    """Checks driver, torch's CUDA, then number, kind and memory of the GPUs that the job may use; returns what it
    found, in words."""
    build, here = torch_cuda(), node_name()
    if not build:
        raise ConfigError("device cuda was planned, and torch here is without CUDA: make env TORCH=cuda, or DEVICE=cpu")
    if not shutil.which("nvidia-smi"):
        if Path("/proc/driver/nvidia/version").exists():
            return "the driver's tools are not here, the ranks look themselves"  # in some containers
        raise ConfigError(f"device cuda was planned, and {here} has no NVIDIA driver: use a GPU node, or DEVICE=cpu")
    driver = re.search(r"CUDA (?:UMD )?Version\s*:\s*((\d+)\.\d+)", smi())
    if driver and int(driver[2]) < int(build.split(".")[0]):
        raise ConfigError(
            f"torch is built for CUDA {build}, and the driver of {here} supports {driver[1]} at most: "
            "use nodes with a newer driver, or a torch built for that CUDA"
        )
    listed = _listed()
    # In a container with a slice of a card, nvidia-smi may not tell of the card.
    whole = [] if listed and all(map(is_slice, listed.split(","))) else read_gpus(smi(*GPU_QUERY))
    seen = visible(whole, listed)
    for index, gpu in enumerate(seen):
        if gpu and gpu.fault:
            raise SickNode(f"GPU {index} does not answer: nvidia-smi says {gpu.fault}")
    gpus = seen[:planned]
    if len(gpus) < planned:
        raise ConfigError(f"{planned} GPUs a node were planned, {here} shows {len(gpus)}: GPUS={max(1, len(gpus))}")
    sold, needed = (float(os.environ.get(name) or 0) for name in (VRAM_ENV, PEAK_ENV))
    words = []
    for index, gpu in enumerate(gpus):
        words.append(f"{gpu.name} ({gpu.total_gib:.1f} GiB)" if gpu else "MIG")
        if gpu is None:
            continue
        check_bf16(gpu.name, gpu.capability)
        if gpu.total_gib < sold * NAME_PLATE_SHARE:
            raise ConfigError(
                f"planned for GPUs of {sold:g} GiB, {gpu.name} on {here} has {gpu.total_gib:.1f}: "
                f"VRAM={int(gpu.total_gib)}"
            )
        if gpu.free_gib < needed:
            raise SickNode(
                f"GPU {index} ({gpu.name}) has {gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free, "
                f"the plan needs {needed:.1f}: another process is on it"
            )
    return f"{', '.join(words)}; CUDA of torch {build}{f', of the driver {driver[1]}' if driver else ''}"


def check_bf16(name: str, capability: float) -> None:
    """Raises ConfigError for a card that cannot compute in bf16."""
    if capability < LEAST_CAPABILITY:
        raise ConfigError(f"{name} (compute capability {capability}) has no bf16: use a GPU of 8.0 or newer")


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch is built for (13.0); None without CUDA. Runs one small file, imports
    nothing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    cuda: str | None = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return cuda


def smi(*words: str) -> str:
    """The output of nvidia-smi. Raises SickNode when it fails or does not answer."""
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=SMI_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise SickNode(f"nvidia-smi did not answer in {SMI_TIMEOUT_S} s: a GPU or its driver hangs") from None
    if done.returncode:
        raise SickNode(f"nvidia-smi failed ({done.returncode}): {' '.join((done.stdout + done.stderr).split())[:200]}")
    return done.stdout


def read_gpus(table: str) -> list[Gpu]:
    """The GPUs in the answer to GPU_QUERY, those without values too, which have a fault."""
    return [_read_gpu(line) for line in table.splitlines() if line.strip()]


def _read_gpu(line: str) -> Gpu:
    uuid, name, *values = [cell.strip() for cell in line.split(",")] + [""]
    try:
        total, free, capability = values[:-1]
        shared = total in NOT_TOLD
        total_gib, free_gib = (
            (size / GIB for size in host_memory()) if shared else (float(total) / 1024, float(free) / 1024)
        )
        return Gpu(uuid, name, total_gib, free_gib, float(capability))
    except ValueError:
        return Gpu(uuid, name or "a GPU", 0.0, 0.0, 0.0, line.strip()[:MOST_OF_FAULT])


def is_slice(word: str) -> bool:
    """Whether a word of CUDA_VISIBLE_DEVICES is a slice of a card."""
    return word.strip().startswith("MIG")


def _listed() -> str | None:
    """CUDA_VISIBLE_DEVICES. Where it is not set, Kubernetes' device plugin tells a container of its slices."""
    told = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    return os.environ.get("CUDA_VISIBLE_DEVICES", told if is_slice(told) else None)


def visible(gpus: Sequence[Gpu], listed: str | None) -> list[Gpu | None]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves; None stands for a GPU that exists but is unknown (MIG). Raises
    SickNode for a GPU that does not exist."""
    if listed is None:
        return list(gpus)
    return [gpu if gpu or is_slice(word) else not_listed(word, gpus) for word, gpu in read_visible(gpus, listed)]


def read_visible(found: Sequence[Found], listed: str) -> Iterator[tuple[str, Found | None]]:
    """Each word of CUDA_VISIBLE_DEVICES that counts, with the GPU that it names by number or id, or None."""
    for word in (word.strip() for word in listed.split(",") if word.strip()):
        if word.startswith("-"):
            return  # CUDA ignores everything behind such a word
        meant = (one for index, one in enumerate(found) if word == str(index) or one.uuid.startswith(word))
        yield word, next(meant, None)


def not_listed(word: str, found: Sequence[Named]) -> NoReturn:
    raise SickNode(f"CUDA_VISIBLE_DEVICES names GPU {word}, nvidia-smi lists {len(found)}")
