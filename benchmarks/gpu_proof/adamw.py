"""Paged 8-bit AdamW beside torch's: bytes of state a weight, and where both arrive on the same problem."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_proof.stage import Stage

WIDTH, STEPS = 2048, 60


def carry_out(stage: Stage) -> dict[str, Any]:
    import torch
    from bitsandbytes.optim import PagedAdamW8bit

    def learn(optimizer_class: Any, **options: Any) -> tuple[list[float], float]:
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.zeros(WIDTH, 64, device=stage.device))
        target = torch.randn(WIDTH, 64, device=stage.device)
        optimizer = optimizer_class([weight], lr=0.05, **options)
        losses = []
        for _ in range(STEPS):
            loss = (weight - target).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        state = [t for t in optimizer.state[weight].values() if isinstance(t, torch.Tensor) and t.dim()]
        return losses, sum(t.nbytes for t in state) / weight.numel()

    plain, plain_bytes = learn(torch.optim.AdamW)
    paged, paged_bytes = learn(PagedAdamW8bit)
    return {
        "last_loss": {"AdamW": plain[-1], "paged 8-bit": paged[-1]},
        "state_bytes_per_weight": {"AdamW": plain_bytes, "paged 8-bit": paged_bytes},
    }
