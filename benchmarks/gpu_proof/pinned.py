"""How fast a batch's pictures reach the device, out of pinned memory and out of any."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu_proof.stage import Stage

PICTURES, ROUNDS = 8, 20


def carry_out(stage: Stage) -> dict[str, Any]:
    import torch

    if stage.rehearsal:
        return {"left_out": "there is no device to copy to"}
    pixels = torch.rand(PICTURES, 3, 896, 896)
    found = {}
    for name, tensor in (("any", pixels), ("pinned", pixels.pin_memory())):
        tensor.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(ROUNDS):
            tensor.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        found[f"{name}_gb_per_second"] = ROUNDS * pixels.nbytes / 1e9 / (time.perf_counter() - began)
    return found
