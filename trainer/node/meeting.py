"""The ranks find each other before anything heavy is loaded: within a bound, and by name when one stays away."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import Any

from trainer.node.preflight import MEETING_TIMEOUT_S
from trainer.outcome import FAILED, SickNode, node_name, write_outcome

_kept: list[Any] = []  # the first rank's store must live as long as the others look into it


def meet(timeout_s: float = MEETING_TIMEOUT_S) -> None:
    """Wait until every rank of torchrun's environment is here; nothing to wait for without one.

    Raises:
        SickNode: not all came in time, naming the hosts that did and the ranks that did not.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1:
        return
    from torch.distributed import PrefixStore, TCPStore

    bound = timedelta(seconds=timeout_s)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun keeps the store itself; without it the first rank does, for this and for torch's own group.
    own = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        tcp = TCPStore(host, port, None, own, timeout=bound, wait_for_workers=False, multi_tenant=own)
    except (RuntimeError, ValueError) as error:
        raise SickNode(f"rank {rank} got no answer from {host}:{port} in {timeout_s:g} s ({_line(error)})") from None
    store = PrefixStore(f"trainyard/meeting/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp)
    _kept.append(tcp)
    store.set(str(rank), node_name())
    names = [str(number) for number in range(world)]
    deadline = time.monotonic() + timeout_s
    while not store.check(names):
        if time.monotonic() < deadline:
            time.sleep(0.1)
            continue
        came = {name: store.get(name).decode() for name in names if store.check([name])}
        away = [name for name in names if name not in came]
        hosts = [f"{host} ({_ranks([r for r in came if came[r] == host])})" for host in dict.fromkeys(came.values())]
        if str(rank) != min(came, key=int):
            raise SickNode("")  # one voice is enough
        raise SickNode(
            f"{len(came)} of {world} processes met within {timeout_s:g} s: here are {', '.join(hosts)}; "
            f"{_ranks(away)} did not come"
        )


def first_all_reduce(state: Any, timeout_s: float = MEETING_TIMEOUT_S) -> None:
    """Add a one from every rank over the training's own backend. Raises SickNode when that fails or takes too long."""
    if state.num_processes == 1:
        return
    import torch
    import torch.distributed as dist

    one = torch.ones(1, device=state.device)
    try:
        dist.all_reduce(one, async_op=True).wait(timedelta(seconds=timeout_s))
        total = int(one.item())
    except RuntimeError as error:
        raise SickNode(
            f"the first all-reduce over {dist.get_backend()} failed in {timeout_s:g} s ({_line(error)})"
        ) from None
    if total != state.num_processes:
        raise SickNode(f"the first all-reduce of {state.num_processes} ones gave {total}")


def leave_alone(error: SickNode) -> int:
    """The exit code of a rank that cannot agree with the others; not 0, so that torchrun ends those who wait."""
    write_outcome(FAILED)
    if error.args[0]:
        print(f"trainyard: {error}", file=sys.stderr, flush=True)
    return FAILED


def _ranks(numbers: list[str]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
