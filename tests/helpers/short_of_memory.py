"""`python -m short_of_memory ...`: trainer.train on ranks of which the second has no room for more than two sequences.

Under ZeRO-3 a rank asks for the room before the model runs; the size that it asks for is the real one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from trainer.evaluation import batches
from trainer.evaluation.rows import needed_bytes


def room_for_two() -> None:
    two: list[int] = []
    reserve = batches._reserve

    def needed(sizes: Any, asked: Any, rows: int) -> int:
        two[:] = [needed_bytes(sizes, asked, 2)]
        return needed_bytes(sizes, asked, rows)

    def short(size: int, device: Any) -> Any:
        if os.environ["RANK"] == "1" and size > two[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return reserve(size, device)

    batches.needed_bytes = needed
    batches._reserve = short


if __name__ == "__main__":
    from trainer.train import main

    room_for_two()
    sys.exit(main(sys.argv[1:]))
