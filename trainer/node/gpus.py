"""The NVIDIA side of a node, asked of its driver and read from torch's files. No torch, and no GPU memory taken."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.outcome import ConfigError, SickNode, node_name

# The plan's figures in a job's environment: what a GPU is sold with, and what a process is predicted to need.
VRAM_ENV, PEAK_ENV = "TRAINYARD_VRAM_GIB", "TRAINYARD_PEAK_GIB"


# A card reports less than it is sold with: an L4 or A10 of 24 GB 22.5 GiB (ECC and firmware).
NAME_PLATE_SHARE = 0.92
LEAST_CAPABILITY = 8.0  # bf16
SMI_TIMEOUT_S = 30
GPU_QUERY = "uuid,name,memory.total,memory.free,compute_cap"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    uuid: str
    name: str
    total_mib: float
    free_mib: float
    capability: float


def check_gpus(planned: int, environ: Mapping[str, str]) -> str:
    """Driver, torch's CUDA, then number, kind and memory of the GPUs that the job may use; what is there, in words."""
    build = torch_cuda()
    if build == "":
        raise ConfigError(
            "device cuda was planned, and torch here is built for the CPU only: make env TORCH=cuda, or DEVICE=cpu"
        )
    if not shutil.which("nvidia-smi", path=environ.get("PATH")):
        if Path("/proc/driver/nvidia/version").exists():
            return "the driver's tools are not here, the ranks look themselves"  # in some containers
        raise ConfigError(
            f"device cuda was planned, and {node_name()} has no NVIDIA driver: use a GPU node, or DEVICE=cpu"
        )
    found = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)", _smi())
    if build and found and int(found[1]) < int(build.split(".")[0]):
        raise ConfigError(
            f"torch is built for CUDA {build}, and the driver of {node_name()} supports {found[1]}.{found[2]} "
            "at most: use nodes with a newer driver, or a torch built for that CUDA"
        )
    there = read_gpus(_smi(f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"))
    gpus, missing = visible(there, environ.get("CUDA_VISIBLE_DEVICES"))
    if missing:
        raise SickNode(f"CUDA_VISIBLE_DEVICES names GPU {', '.join(missing)}, nvidia-smi lists {len(there)}")
    if len(gpus) < planned:
        raise ConfigError(
            f"{planned} GPUs a node were planned, {node_name()} shows {len(gpus)}: GPUS={max(1, len(gpus))}"
        )
    for index, gpu in enumerate(gpus[:planned]):
        if gpu is not None:
            _check_gpu(index, gpu, environ)
    names = ", ".join(f"{gpu.name} ({gpu.total_mib / 1024:.1f} GiB)" if gpu else "MIG" for gpu in gpus[:planned])
    driver = f", of the driver {found[1]}.{found[2]}" if found else ""
    return f"{names}; CUDA of torch {build}{driver}"


def _check_gpu(index: int, gpu: Gpu, environ: Mapping[str, str]) -> None:
    if gpu.capability < LEAST_CAPABILITY:
        raise ConfigError(f"{gpu.name} (compute capability {gpu.capability}) has no bf16: use a GPU of 8.0 or newer")
    sold, needed = (float(environ.get(name) or 0) for name in (VRAM_ENV, PEAK_ENV))
    total, free = gpu.total_mib / 1024, gpu.free_mib / 1024
    if total < sold * NAME_PLATE_SHARE:
        raise ConfigError(
            f"planned for GPUs of {sold:g} GiB, {gpu.name} on {node_name()} has {total:.1f}: VRAM={int(total)}"
        )
    if free < needed:
        raise SickNode(
            f"GPU {index} ({gpu.name}) has {free:.1f} of {total:.1f} GiB free, the plan needs {needed:.1f}: "
            "another process is on it"
        )


def torch_cuda() -> str | None:
    """CUDA that the installed torch is built for (13.0); "" for none, None without torch. Reads, imports nothing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*(?:'([\d.]+)'|None)", text, re.MULTILINE)
    return (found[1] or "") if found else None


def _smi(*words: str) -> str:
    """What nvidia-smi says. Raises SickNode when it fails or does not answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SickNode(f"nvidia-smi did not answer in {SMI_TIMEOUT_S} s: a GPU or its driver hangs") from None
    if done.returncode:
        raise SickNode(f"nvidia-smi failed ({done.returncode}): {' '.join((done.stdout + done.stderr).split())[:200]}")
    return done.stdout


def read_gpus(table: str) -> list[Gpu]:
    """The GPUs of a GPU_QUERY. Raises SickNode for one that answers with anything but values."""
    gpus = []
    for line in table.splitlines():
        try:
            uuid, name, total, free, capability = (cell.strip() for cell in line.split(","))
            gpus.append(
                Gpu(
                    uuid=uuid, name=name, total_mib=float(total), free_mib=float(free), capability=float(capability)
                )
            )  # fmt: skip
        except ValueError:
            raise SickNode(f"GPU {len(gpus)} does not answer: nvidia-smi says {line.strip()[:120]}") from None
    return gpus


def visible(gpus: Sequence[Gpu], listed: str | None) -> tuple[list[Gpu | None], list[str]]:
    """(the GPUs that CUDA_VISIBLE_DEVICES leaves, entries that are not there). None: there, but unknown (MIG)."""
    if listed is None:
        return list(gpus), []
    seen: list[Gpu | None] = []
    missing = []
    for entry in (word.strip() for word in listed.split(",") if word.strip()):
        if entry.startswith("-"):
            break  # CUDA sees nothing from here on
        if entry.startswith("MIG"):
            seen.append(None)
        elif entry.isdecimal() and int(entry) < len(gpus):
            seen.append(gpus[int(entry)])
        elif match := [gpu for gpu in gpus if not entry.isdecimal() and gpu.uuid.startswith(entry)]:
            seen.append(match[0])
        else:
            missing.append(entry)
    return seen, missing
