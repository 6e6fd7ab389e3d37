"""What the processes of one run tell each other beside gradients: few bytes, from CPU to CPU.

Over gloo whatever the GPUs use, since waiting for an answer over NCCL would wait for the GPU too, every step.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol


class Ranks(Protocol):
    first: bool

    def any(self, mine: bool) -> bool:
        """Whether any rank says so. Every rank must ask, and gets the same answer."""

    def from_first(self, mine: Any) -> Any:
        """The first rank's value, on every rank."""


class Alone:
    """The only process there is."""

    first = True

    def any(self, mine: bool) -> bool:
        return mine

    def from_first(self, mine: Any) -> Any:
        return mine


class Together:
    """The processes of torch's default group, which must be there already."""

    def __init__(self, timeout_s: float) -> None:
        import torch.distributed as dist

        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self.first = dist.get_rank() == 0

    def any(self, mine: bool) -> bool:
        import torch
        import torch.distributed as dist

        flag = torch.tensor([int(mine)], dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def from_first(self, mine: Any) -> Any:
        import torch.distributed as dist

        box = [mine]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


def ranks_of(num_processes: int, timeout_s: float = 1800) -> Ranks:
    """Each question fails (RuntimeError) when a rank does not answer it within `timeout_s`."""
    return Together(timeout_s) if num_processes > 1 else Alone()
