"""Tests the model's behaviour on one batch before training on thousands, because wrong training raises no error.

Each test is a forward pass of one record, one of them with its backward pass. The tests are the same for every
family, and use no knowledge of any family.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isclose
from typing import Any

import torch
from torch import Tensor

from trainer.model.head import chunk_of, log_probabilities, own_logits, supervised_loss, use_own_head
from trainer.model.refusal import first_words, is_of_machine
from trainer.model.targets import path_of

SAME_LOSS = 0.01  # nats, or a share of the loss where that is larger; the same sums in another order differ by 1e-6
LEAKED = 0.02  # nats by which one token's loss may move; the same sums twice do not differ
Batch = dict[str, Tensor]


def batch_on(base: Any, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
    """(the model's inputs, positions, targets) of a training batch, on the device of `base`; at most one chunk of
    supervised positions."""
    given = {name: tensor.to(base.device) for name, tensor in batch.items() if name != "labels"}
    chunk = chunk_of(base)
    positions, targets = (given.pop(name)[:chunk] for name in ("loss_positions", "loss_targets"))
    return given, positions, targets


@contextmanager
def asked(model: Any, *, training: bool = False) -> Iterator[None]:
    """Runs the model in the launcher's precision; afterwards restores mode and random numbers, and clears
    gradients."""
    base, was_training = model.get_base_model(), model.training
    devices = [base.device] if base.device.type == "cuda" else []
    half = os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
    model.train(training)
    try:
        with torch.random.fork_rng(devices), torch.autocast(base.device.type, torch.bfloat16, half):
            yield
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def token_losses(model: Any, batch: Batch) -> Tensor:
    """(n) nats, one for each token that is learned."""
    base = model.get_base_model()
    given, positions, targets = batch_on(base, batch)
    with torch.no_grad(), asked(model):
        found = log_probabilities(base, positions, targets, chunk_of(base), use_cache=False, **given)
    return -found


def compare_heads(model: Any, batch: Batch) -> str:
    """The training loss in words. If the model's own logits give another loss, training uses them from now on: a
    family may scale or mask its logits without any sign of that in its configuration."""
    base = model.get_base_model()
    given, positions, targets = batch_on(base, batch)
    with torch.no_grad(), asked(model):
        logits = own_logits(base, positions, use_cache=False, **given)
        theirs = torch.nn.functional.cross_entropy(logits, targets).item()
        try:
            ours = supervised_loss(base, **given, loss_positions=positions, loss_targets=targets)["loss_sum"].item()
            ours /= len(targets)
            said = f"{ours:.4f}"
            same = isclose(ours, theirs, rel_tol=SAME_LOSS, abs_tol=SAME_LOSS)
        except Exception as error:
            if is_of_machine(error):
                raise
            same, said = False, first_words(error)
    if same:
        return said
    use_own_head(base)
    return f"{theirs:.4f} by the model's own, which takes more memory (by ours: {said})"


def without_gradient(model: Any, batch: Batch) -> list[str]:
    """Paths of the linears whose adapters no loss depends on: a step would not change them, and several processes
    would wait for their gradients."""
    given, positions, targets = batch_on(model.get_base_model(), batch)
    with asked(model, training=True):
        outputs = supervised_loss(model.get_base_model(), **given, loss_positions=positions, loss_targets=targets)
        outputs["loss_sum"].backward()
        lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    return sorted({path_of(name) for name in lacking})


def picture_counts(model: Any, batch: Batch, losses: Tensor) -> bool:
    """Whether another picture changes any of the `losses` of `batch`. Where all features are kept they are changed: the
    tower that would see another picture may not be there."""
    kept = getattr(model.get_base_model().base_model, "get_image_features", None)
    if kept is not None and hasattr(kept, "other_picture"):
        with kept.other_picture():
            return not torch.equal(token_losses(model, batch), losses)
    other = {name: tensor.flip(-1) * -1 for name, tensor in batch.items() if is_of_pictures(tensor)}
    return not torch.equal(token_losses(model, {**batch, **other}), losses)


def is_of_pictures(tensor: Tensor) -> bool:
    """Whether a tensor holds pixels: as pictures, as tiles, or as a row for each patch."""
    return tensor.is_floating_point() and tensor.ndim > 1


def leaked(model: Any, batch: Batch, losses: Tensor) -> float:
    """The most, in nats, by which a change of later tokens of an answer moves the losses before them."""
    ids, targets = batch["input_ids"].clone(), batch["loss_targets"][: len(losses)]
    half = len(targets) // 2
    places = batch["loss_positions"][: len(targets)][half:] + 1  # the places of the later tokens
    words = targets.unique()
    if len(words) < 2 or not len(places):
        return 0.0
    flat = ids.flatten()
    following = (torch.searchsorted(words, targets[half:]) + 1) % len(words)
    flat[places] = words[following]
    moved = token_losses(model, {**batch, "input_ids": flat.view(ids.shape)}) - losses
    return moved[: half + 1].abs().max().item()


def share_left_alone(base: Any, adapted: Sequence[Any], decoder: str) -> float:
    """The share of the decoder's weights, without embeddings, that are neither in 4 bits nor have an adapter."""
    from bitsandbytes.nn import Linear4bit

    inside = base.get_submodule(decoder)
    tables = {module.weight for module in inside.modules() if isinstance(module, torch.nn.Embedding)}
    reached = {module.weight for module in adapted}
    reached |= {module.weight for module in inside.modules() if isinstance(module, Linear4bit)}
    sizes = {
        p: getattr(p, "ds_numel", None) or _numbers(p)
        for name, p in inside.named_parameters()
        if ".lora_" not in name and p not in tables
    }
    return sum(size for p, size in sizes.items() if p not in reached) / max(1, sum(sizes.values()))


def _numbers(parameter: Tensor) -> int:
    """Number of weights in a parameter, also when several are packed into each of its numbers."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())
