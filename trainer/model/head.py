"""Runs the language-model head only at positions that are learned, a chunk of positions at a time.

A frame-grid sample has hundreds of prompt and image positions and a handful of answer tokens. The stock head scores
them all; at Gemma 3's vocabulary of 262,208 that is the largest tensor of the whole step. This module first gathers
the hidden states at the supervised positions (flat indices that come with the batch), and computes their gradient at
once, so that no more than one chunk of logits is ever alive and nothing is computed twice.

A family may do more to its logits than its head and a soft cap: scale them, mask them, add to them. The contract
finds that out, and then the model's own forward computes the logits, only at these positions if it can.
"""

from __future__ import annotations

import functools
import types
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.architecture.head_chunk import chunk_positions

OWN_HEAD = "trainyard_own_head"
KEEP = "logits_to_keep"


def use_own_head(base: Any) -> None:
    """Let the own forward of `base` compute its logits from now on."""
    setattr(base, OWN_HEAD, True)


def uses_own_head(base: Any) -> bool:
    return getattr(base, OWN_HEAD, False)


def log_probabilities(base: Any, positions: Tensor, targets: Tensor, chunk: int, **inputs: Any) -> Tensor:
    """(n) log-probabilities (nats) that `base` gives to the tokens `targets` (n) at the flat `positions` (n) of its
    `inputs` (batch x length), with the logits of `chunk` positions at once."""
    if uses_own_head(base):
        return -nn.functional.cross_entropy(own_logits(base, positions, **inputs), targets, reduction="none")
    states = base.base_model(**inputs).last_hidden_state.flatten(0, 1)[positions]
    head, softcap = base.get_output_embeddings(), softcap_of(base)
    parts = zip(states.split(chunk), targets.split(chunk), strict=True)
    found = [-nn.functional.cross_entropy(_logits(head, softcap, s), t, reduction="none") for s, t in parts]
    return torch.cat(found)


def own_logits(base: Any, positions: Tensor, **inputs: Any) -> Tensor:
    """(n, vocabulary) logits in fp32 of the model's own forward at flat `positions` (n) of its inputs, computed only
    at their columns if the model can."""
    length = inputs["input_ids"].shape[1]
    columns, place = (positions % length).unique(return_inverse=True)
    if KEEP in signature(type(base).forward).parameters:
        logits = base(**inputs, **{KEEP: columns}).logits
        if logits.shape[1] == len(columns):
            return logits[positions // length, place].float()
    else:
        logits = base(**inputs).logits
    return logits[positions // length, positions % length].float()


def softcap_of(base: Any) -> float | None:
    softcap: float | None = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
    return softcap


def _logits(head: nn.Module, softcap: float | None, states: Tensor) -> Tensor:
    """The logits of `states` in fp32."""
    logits: Tensor = head(states).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def chunk_of(base: Any) -> int:
    """Positions whose logits exist at once when the head of `base` runs."""
    return chunk_positions(base.config.get_text_config().vocab_size, sharded=_sharded(base.get_output_embeddings()))


def _sharded(head: nn.Module | None) -> bool:
    return head is not None and any(hasattr(parameter, "ds_tensor") for parameter in head.parameters())


def _chunks(head: nn.Module, targets: Tensor, chunk: int) -> int:
    """How often the head runs. Under ZeRO-3 all ranks gather its shards together, so it runs as often as on the rank
    with the most chunks; a chunk without positions gives zeros."""
    count = -(-len(targets) // chunk)
    if _sharded(head):
        most = torch.tensor(count, device=targets.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        count = int(most)
    return count


def _score(states: Tensor, targets: Tensor, head: nn.Module, softcap: float | None) -> tuple[Tensor, Tensor]:
    """(summed cross-entropy in nats, count of positions predicted right) of one chunk; the gradient is left in
    `states.grad` if they require it.

    The gradient at the logits is written over their log-probabilities: what autograd would keep takes 16 bytes a logit
    where this takes BYTES_PER_LOGIT. The loss is the same to the last bit, the gradient to 1e-6 of its largest value.
    """
    with torch.set_grad_enabled(states.requires_grad):
        logits = head(states)
    scores = logits.detach().float()
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    correct = (scores.argmax(-1) == targets).sum()
    found = scores.log_softmax(-1)
    loss = nn.functional.nll_loss(found, targets, reduction="sum")
    if states.requires_grad:
        gradient = found.exp_()
        gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
        if softcap is not None:
            gradient *= scores.div_(softcap).square_().neg_().add_(1)
        del scores
        logits.backward(gradient.to(logits.dtype))  # the head is frozen: the backward pass ends at the states
    return loss, correct


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Module, softcap: float | None, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """hidden (n, h), targets (n) -> (summed cross-entropy in nats, count of positions predicted right)."""
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        correct = hidden.new_zeros((), dtype=torch.int64)
        for number in range(_chunks(head, targets, chunk)):
            piece = slice(number * chunk, (number + 1) * chunk)
            states = hidden[piece].detach().requires_grad_(wants_gradient)
            part, right = _score(states, targets[piece], head, softcap)
            if gradient is not None:
                gradient[piece] = cast(Tensor, states.grad)
            loss += part
            correct += right
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * loss_gradient.to(gradient.dtype), None, None, None, None


def supervised_loss(model: Any, *args: Any, loss_positions: Tensor, loss_targets: Tensor, **kwargs: Any) -> Any:
    """{"loss_sum", "correct"} of `model`'s head at the flat `loss_positions` alone; the other inputs are the usual
    ones."""
    if uses_own_head(model):
        logits = own_logits(model, loss_positions, use_cache=False, **kwargs)
        correct = (logits.detach().argmax(-1) == loss_targets).sum()
        return {"loss_sum": nn.functional.cross_entropy(logits, loss_targets, reduction="sum"), "correct": correct}
    states = model.base_model(*args, use_cache=False, **kwargs).last_hidden_state
    picked, head = states.flatten(0, 1)[loss_positions], model.get_output_embeddings()
    loss_sum, correct = _ChunkedCrossEntropy.apply(picked, loss_targets, head, softcap_of(model), chunk_of(model))
    return {"loss_sum": loss_sum, "correct": correct}


def install_supervised_head(model: Any) -> None:
    """Let `model(..., loss_positions=p, loss_targets=t)` return {"loss_sum", "correct"} in place of logits.

    `loss_positions` (n) are flat indices into batch x length of the states that predict `loss_targets` (n). Without
    them the forward is the original one. The new forward lies inside the one that DDP and DeepSpeed wrap.

    Raises:
        ValueError: the head is trainable, but its own gradient is not computed.
    """
    head = model.get_output_embeddings()
    if head is not None and any(parameter.requires_grad for parameter in head.parameters()):
        raise ValueError("the language-model head must be frozen: its gradient is not computed")
    original = model.forward

    @functools.wraps(type(model).forward)  # generate() checks its arguments against this signature
    def forward(self: Any, *args: Any, loss_positions: Tensor | None = None, **kwargs: Any) -> Any:
        if loss_positions is None:
            return original(*args, **kwargs)
        return supervised_loss(self, *args, loss_positions=loss_positions, **kwargs)

    model.forward = types.MethodType(forward, model)
