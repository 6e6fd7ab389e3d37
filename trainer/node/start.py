"""The first steps of a rank, before anything heavy is loaded: it meets the other ranks, within a time limit and
naming those that stay away, and checks that this machine is the planned one."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from datetime import timedelta
from typing import Any

from trainer import log
from trainer.config import TrainConfig
from trainer.node.gpus import check_bf16
from trainer.node.pickles import load_only_weights
from trainer.node.preflight import MEETING_TIMEOUT_S
from trainer.outcome import FAILED, ConfigError, SickNode, node_name, write_outcome

_kept: list[Any] = []  # the first rank's store must live as long as the other ranks use it


def prepare_libraries(config: TrainConfig) -> None:
    """Limit the libraries' messages to those that a user can act on, and limit what they load to numbers; call before
    they are imported."""
    load_only_weights()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL sends usage data when it is constructed
    if config.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would search for an accelerator and warn
    warnings.simplefilter("ignore", FutureWarning)  # warnings about names that TRL itself uses
    logging.raiseExceptions = False  # a log file on a full disk would print a traceback for every line
    # it advertises an inference kernel that Trainyard does not use
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # A progress bar in a file is one endless line, and two bars at a terminal overwrite each other.
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def set_precision(device: str) -> None:
    """Let this process compute in the precision of a run on `device`, as the run's launcher would say it."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if device == "cuda" else "no"


def init_distributed(config: TrainConfig) -> Any:
    """Connect the processes of this run, on a machine that is as planned; returns accelerate's PartialState.

    Raises:
        ConfigError: no node like this one could run the configuration.
        SickNode: not all processes came, or they cannot reach each other.
    """
    from accelerate import PartialState

    rendezvous()
    # With cpu=True accelerate would not use DeepSpeed.
    cpu = config.device == "cpu" and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true"
    state = PartialState(cpu=cpu, timeout=timedelta(seconds=config.collective_timeout_s))
    check_machine(config, state)
    first_all_reduce(state)
    return state


def rendezvous(timeout_s: float = MEETING_TIMEOUT_S) -> None:
    """Wait until every rank of torchrun's environment has come; without such an environment return at once.

    Raises:
        SickNode: not all came in time, naming the hosts that did and the ranks that did not.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1:
        return
    from torch.distributed.rendezvous import rendezvous

    try:
        # A world of one: otherwise the first rank's store would itself wait for the others, without knowing who stays
        # away.
        store, _, _ = next(rendezvous("env://", rank, 1, timeout=timedelta(seconds=timeout_s)))
    except (RuntimeError, ValueError) as error:
        host = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise SickNode(f"rank {rank} got no answer from {host} in {timeout_s:g} s ({_line(error)})") from None
    _kept.append(store)
    keys = [f"trainyard/met/{number}" for number in range(world)]
    store.set(keys[rank], node_name())
    deadline = time.monotonic() + timeout_s
    while not store.check(keys) and time.monotonic() < deadline:  # the store's wait() would print an error of its own
        time.sleep(0.1)
    came = {number: store.get(key).decode() for number, key in enumerate(keys) if store.check([key])}
    if len(came) == world:
        return
    if rank != min(came):
        raise SickNode("")  # one message is enough
    hosts = [f"{host} ({_ranks([r for r in came if came[r] == host])})" for host in dict.fromkeys(came.values())]
    away = [number for number in range(world) if number not in came]
    raise SickNode(
        f"{len(came)} of {world} processes met within {timeout_s:g} s: here are {', '.join(hosts)}; "
        f"{_ranks(away)} did not come"
    )


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
    if config.device == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device mps was asked for, and torch sees no Apple GPU here: use a Mac, or DEVICE=cpu")
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device cuda was asked for, and torch sees no GPU (torch build: {torch.version.cuda or 'CPU only'}): "
            "use a GPU node and `make env TORCH=cuda`, or DEVICE=cpu"
        )
    major, minor = torch.cuda.get_device_capability()
    check_bf16(torch.cuda.get_device_name(), major + minor / 10)


def first_all_reduce(state: Any) -> None:
    """Add a one from every rank over the training's backend. Raises SickNode when that fails or takes too long."""
    if state.num_processes == 1:
        return
    import torch
    import torch.distributed as dist

    one = torch.ones(1, device=state.device)
    try:
        dist.all_reduce(one, async_op=True).wait(timedelta(seconds=MEETING_TIMEOUT_S))
        if int(one.item()) != state.num_processes:
            raise RuntimeError(f"{state.num_processes} ones gave {one.item():g}")
    except RuntimeError as error:
        raise SickNode(f"the first all-reduce over {dist.get_backend()} failed ({_line(error)})") from None


def device_map(state: Any) -> dict[str, str | int] | None:
    """The device for a rank's weights while they are loaded; None under ZeRO-3, which places them."""
    if state.distributed_type == "DEEPSPEED":
        return None
    return {"": state.local_process_index if state.device.type == "cuda" else state.device.type}


def exit_unagreed(error: SickNode) -> int:
    """The exit code of a rank that cannot agree with the others; not 0, so that torchrun ends the waiting ranks."""
    write_outcome(FAILED)
    if error.words:
        log.complain(str(error))
    return FAILED


def _ranks(numbers: list[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
