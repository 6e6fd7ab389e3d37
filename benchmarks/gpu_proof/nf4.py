"""bitsandbytes' 4-bit weights on this device, beside what the format says, worked out on the CPU."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_proof.stage import Stage

SHAPE = (2560, 2048)


def carry_out(stage: Stage) -> dict[str, Any]:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit, Params4bit

    torch.manual_seed(0)
    weight = torch.randn(SHAPE, dtype=torch.float32) * 0.02
    dtype = torch.float32 if stage.rehearsal else torch.bfloat16
    there = weight.to(stage.device, dtype)
    packed, state = quantize_4bit(there, quant_type="nf4", compress_statistics=True)
    opened = dequantize_4bit(packed, state)
    # QLoRA, arXiv:2305.14314: each block of 64 divided by its largest, and the nearest of sixteen values taken.
    code = state.code.float().cpu()
    blocks = there.float().cpu().reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / largest)[..., None].sub(code).abs().argmin(-1)
    expected = (code[nearest] * largest).reshape(SHAPE)

    linear = Linear4bit(SHAPE[1], SHAPE[0], bias=False, compute_dtype=dtype, quant_type="nf4")
    linear.weight = Params4bit(weight.clone(), requires_grad=False, quant_type="nf4")
    linear.to(stage.device)
    rows = torch.randn(64, SHAPE[1], device=stage.device, dtype=dtype, requires_grad=True)
    out = linear(rows)
    out.float().square().mean().backward()
    plain = rows.detach() @ dequantize_4bit(linear.weight.data, linear.weight.quant_state).to(dtype).T
    return {
        "bytes_per_weight": (packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes) / weight.numel(),
        "largest_step_from_the_format": ((opened.float().cpu() - expected).abs() / largest.max()).max().item(),
        "linear_beside_plain_product": ((out - plain).abs().max() / plain.abs().max()).item(),
        "gradient_reaches_its_input": rows.grad is not None and bool(rows.grad.abs().sum() > 0),
    }  # fmt: skip
