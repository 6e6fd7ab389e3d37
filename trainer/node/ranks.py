"""Messages between the processes of one run besides gradients: few bytes, from CPU to CPU.

They use gloo whatever the GPUs use, since waiting for an answer over NCCL would also wait for the GPU, every step.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from trainer.outcome import ConfigError

T = TypeVar("T")


class Ranks:
    """The processes of torch's default group, which must exist already; or a single process."""

    def __init__(self, num_processes: int, timeout_s: float = 1800) -> None:
        """Each question fails (RuntimeError) when a rank does not answer it within `timeout_s`."""
        self.first, self._group = True, None
        if num_processes > 1:
            import torch.distributed as dist

            self.first = dist.get_rank() == 0
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))

    def any(self, mine: bool) -> bool:
        """Whether `mine` is true on any rank. Every rank must call this, and gets the same answer."""
        if self._group is None:
            return mine
        import torch
        import torch.distributed as dist

        flag = torch.tensor([int(mine)], dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def rank0_only(self, work: Callable[[], T]) -> T:
        """The result of `work`, or the ConfigError that it raises, on every rank; only the first rank does the
        work."""
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = work()
            except ConfigError as error:
                box[1] = error
        if self._group is not None:
            import torch.distributed as dist

            dist.broadcast_object_list(box, src=0, group=self._group)
        found, refusal = box
        if refusal is not None:
            raise refusal
        return found
