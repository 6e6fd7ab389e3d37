"""Runs a training step on tensors that have a size but no memory, and counts every byte that it would hold: the
model's own code, PEFT's, torch's autograd and this trainer's head, for a model of any size on any machine.

Only code that needs values is replaced: a 4-bit weight is its packed bytes, expanded for use as bitsandbytes does;
attention is the fused kernel; autocast is that of a GPU. Only the language model runs, on text alone, because the
frozen tower runs before it, separately.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import bitsandbytes
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.config import TrainConfig
from trainer.measure.parts import matching
from trainer.measure.trace import FusedAttention
from trainer.model.anatomy import anatomy_of, target_pattern
from trainer.model.base import add_lora, auto_class
from trainer.model.head import install_supervised_head

# The functions that models call and that autocast on a GPU computes in fp32, from torch's list.
IN_FP32 = ("layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "nll_loss", "softplus")
ABSMAX_BLOCK, NESTED_BLOCK = 64, 256


@dataclass(kw_only=True, slots=True)
class Held:
    """Bytes of a step."""

    now: int = 0
    peak: int = 0
    at: dict[str, int] = field(default_factory=dict)
    """Bytes held at the peak, by the part of the step that allocated them."""


class Ledger(TorchDispatchMode):
    """Counts every storage that an operation makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Held()
        self.part = "weights"
        self._by_part: dict[str, int] = {}
        self._known = weakref.WeakKeyDictionary[Any, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.take(tensor)
        return found

    def begin(self) -> Held:
        """The bytes held now; the peak is counted anew from this moment."""
        now = Held(now=self.held.now, peak=self.held.now, at=dict(self._by_part))
        self.held.peak, self.held.at = now.peak, now.at
        return now

    def take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size, part = storage.nbytes(), self.part
        self._known[storage] = size
        weakref.finalize(storage, self._free, size, part)
        self._by_part[part] = self._by_part.get(part, 0) + size
        self.held.now += size
        if self.held.now > self.held.peak:
            self.held.peak, self.held.at = self.held.now, dict(self._by_part)

    def _free(self, size: int, part: str) -> None:
        self.held.now -= size
        self._by_part[part] -= size


class Packed(bitsandbytes.nn.Linear4bit):
    """A frozen linear in 4 bits: half a byte a weight, plus its constants. PEFT treats it as bitsandbytes' own
    class."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compute_dtype = torch.bfloat16
        count = linear.weight.numel()
        constants = -(-count // ABSMAX_BLOCK) + 4 * -(-count // (ABSMAX_BLOCK * NESTED_BLOCK))
        self.weight = nn.Parameter(torch.empty(count // 2, dtype=torch.uint8, device="meta"), requires_grad=False)
        for name, value in (("compress_statistics", True), ("quant_type", "nf4")):  # PEFT reads these attributes
            setattr(self.weight, name, value)
        self.register_buffer("constants", torch.empty(constants, dtype=torch.uint8, device="meta"))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        found = _Opened.apply(x.to(torch.bfloat16), self.weight, self.in_features, self.out_features)
        return (found if self.bias is None else found + self.bias).to(x.dtype)


class _Opened(torch.autograd.Function):
    """A product with a weight that is expanded from its 4 bits only while the product is computed, forwards and
    backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, reads: int, gives: int) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.sizes = reads, gives
        return x @ packed.new_empty((reads, gives), dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (packed,) = ctx.saved_tensors
        reads, gives = ctx.sizes
        return gradients[0] @ packed.new_empty((gives, reads), dtype=gradients[0].dtype), None, None, None


@contextmanager
def like_gpu() -> Iterator[None]:
    """A context in which attention is the fused kernel, dropout keeps flags, and the functions that autocast computes
    in fp32 on a GPU are computed so. It patches functions, because the backward pass leaves torch's own modes."""
    in_fp32 = {name: _computed_in_fp32(getattr(nn.functional, name)) for name in IN_FP32}
    enabled = torch.is_autocast_enabled
    with (
        patch.multiple(nn.functional, scaled_dot_product_attention=_attention, dropout=_dropout, **in_fp32),
        # PEFT asks for the GPU's state
        patch.object(torch, "is_autocast_enabled", lambda device="cpu": enabled(device)),
    ):
        yield


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    if (repeats := query.shape[-3] // key.shape[-3]) > 1:
        key, value = (tensor.repeat_interleave(repeats, -3) for tensor in (key, value))
    masks = [] if attn_mask is None else [attn_mask.to(torch.bfloat16)]  # the kernel takes numbers, not flags
    return FusedAttention.apply(*(tensor.to(torch.bfloat16) for tensor in (query, key, value)), *masks)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _computed_in_fp32(function: Any) -> Any:
    def compute(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return function(*map(_in_fp32, args), **{name: _in_fp32(value) for name, value in kwargs.items()})

    return compute


def _in_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def adapted(model_config: Any, config: TrainConfig) -> tuple[Any, Any]:
    """(the model with its adapters, the base inside), as a run loads them, without memory."""
    with torch.device("meta"):
        base = auto_class(model_config).from_config(model_config, dtype=torch.bfloat16, trust_remote_code=False)
    anatomy = anatomy_of(base)
    base.requires_grad_(False)
    if config.quantization == "nf4":
        targets = matching(base, target_pattern(anatomy))
        for path, module in list(base.named_modules()):
            if module in targets:
                base.set_submodule(path, Packed(module))
        base.is_loaded_in_4bit = True
    model = add_lora(base, config, anatomy)
    install_supervised_head(base)
    return model, base


def after_a_step(model: Any, base: Any, ledger: Ledger) -> tuple[list[Any], Any]:
    """(the trained weights, their optimizer with its moments). Gives the model fake memory, which `ledger` counts."""
    model.to_empty(device="cpu")
    base.tie_weights()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, fused=True)
    for parameter in learned:  # so that AdamW makes its moments
        parameter.grad = torch.empty_like(parameter)
    ledger.part = "moments"
    optimizer.step()
    optimizer.zero_grad()
    return learned, optimizer


def step_on_paper(model_config: Any, config: TrainConfig, *, tokens: int, scored: int) -> dict[str, Held]:
    """The bytes held between two optimizer steps ("between") and in one step ("step"), on a micro-batch with `tokens`
    tokens a sample, `scored` of them learned.

    Raises whatever the model's forward raises on tensors without values.
    """
    model, base = adapted(model_config, config)
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        learned, optimizer = after_a_step(model, base, ledger)
        ledger.part = "gradients"
        for parameter in learned:  # gradients of the earlier micro-batches, which add up
            parameter.grad = torch.empty_like(parameter)
        found = ledger.begin()
        _step(model.train(), optimizer, learned, ledger, config, tokens, scored)
    return {"between": found, "step": ledger.held}


def _step(
    model: Any, optimizer: Any, learned: list[Any], ledger: Ledger, config: TrainConfig, tokens: int, scored: int
) -> None:
    samples = config.micro_batch_size
    ledger.part = "forward"
    batch = {
        "input_ids": torch.zeros(samples, tokens, dtype=torch.long),
        "attention_mask": torch.ones(samples, 1, tokens, tokens, dtype=torch.bool),
        "position_ids": torch.zeros(samples, tokens, dtype=torch.long),
        "loss_positions": torch.zeros(samples * scored, dtype=torch.long),
        "loss_targets": torch.zeros(samples * scored, dtype=torch.long),
    }
    with like_gpu():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch)["loss_sum"] / scored
        ledger.part = "backward"
        loss.backward()
    ledger.part = "optimizer"
    torch.nn.utils.clip_grad_norm_(learned, config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
