"""What this machine is, against what was planned for it, and how the libraries are told."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from trainer.config import TrainConfig
from trainer.outcome import ConfigError


def prepare_libraries(config: TrainConfig) -> None:
    """Keep what the libraries say to what a user can act on; call before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports home when it is constructed
    if config.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for one and warn
    warnings.simplefilter("ignore", FutureWarning)  # about names that TRL itself uses
    logging.raiseExceptions = False  # a log file on a full disk would print a traceback for every line
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # offers an inference kernel we do not use
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")  # a bar in a file is one endless line


def plain_cpu(config: TrainConfig) -> bool:
    """Whether accelerate is to be told about the CPU; when it is, it leaves DeepSpeed out."""
    return config.device == "cpu" and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true"


def check_machine(config: TrainConfig, state: Any) -> None:
    """Raises ConfigError when this machine is not what was planned: processes, CUDA, bf16."""
    import torch

    if state.num_processes != config.world_size:
        raise ConfigError(
            f"{state.num_processes} process(es) started where {config.world_size} were planned: "
            "start through `accelerate launch` with the planned --num_processes and configuration file"
        )
    if config.device == "cpu":
        return
    if not torch.cuda.is_available():
        build = torch.version.cuda or "CPU only"
        raise ConfigError(
            f"device cuda was asked for, and torch sees no GPU (torch build: {build}): "
            "use a GPU node and `make env TORCH=cuda`, or DEVICE=cpu"
        )
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        name = torch.cuda.get_device_name()
        raise ConfigError(f"{name} (compute capability {major}.{minor}) has no bf16: use a GPU of 8.0 or newer")


def device_map(config: TrainConfig, state: Any) -> Any:
    from accelerate.utils import DistributedType

    if state.distributed_type == DistributedType.DEEPSPEED:
        return None  # ZeRO-3 places the weights
    return {"": "cpu" if config.device == "cpu" else state.local_process_index}
