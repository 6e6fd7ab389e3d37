"""Measures how much one layer of each sort keeps of a token for the backward pass, on tensors without memory.

The language model runs as in training, in bf16 under autocast, on fake tensors. Every tensor that autograd saves is
noted with the layer that saved it. Three lengths are run, which separates what grows with the tokens from what grows
with their pairs and from what does not grow. Attention counts as the fused kernel, which keeps queries, keys and
values at the queries' width, and its output; the mask's row is one value for each pair of tokens.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LENGTHS = (64, 128, 192)  # multiples of the blocks that linear attention works in
# the functions that run experts: rows sorted by expert, times a matrix for each expert
GROUPED = ("grouped_mm", "_grouped_mm")


@dataclass(kw_only=True, slots=True)
class Kept:
    """The values that a layer keeps of one token."""

    values: int = 0
    fp32_values: int = 0
    pair_values: int = 0
    active_expert_params: int = 0
    q_width: int = 0
    kv_width: int = 0
    widest: int = 0
    inputs: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)
    """By linear: (number of the value that it reads, the value's width if nothing else keeps it, else 0)."""


@dataclass(slots=True)
class _Seen:
    """The counts of one layer in one forward pass."""

    saved: dict[str, int] = field(default_factory=lambda: {"values": 0, "fp32_values": 0})
    read: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)
    """By linear: the storage of the value that it reads, and how many numbers that value has."""
    experts: int = 0
    q_width: int = 0
    kv_width: int = 0
    widest: int = 0


class FusedAttention(torch.autograd.Function):
    """Keeps the same tensors for the backward pass as a fused attention kernel."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *masks: Tensor) -> Tensor:
        *batch, heads, tokens, _ = query.shape  # in the kernel's layout: one token's heads side by side
        found = query.new_empty((*batch, tokens, heads, value.shape[-1])).transpose(-2, -3)
        ctx.save_for_backward(query, key, value, found, *masks)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        return (*map(torch.empty_like, kept[:3]), *(None for _ in kept[4:]))


class _Watching(torch.overrides.TorchFunctionMode):
    """Runs attention as the fused kernel, and notes the result of each call."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            return self._attention(*(args[:3] if len(args) > 2 else (kwargs[n] for n in ("query", "key", "value"))))
        if getattr(function, "__name__", "") in GROUPED:
            rows, matrices = args[:2]
            self._trace.layer.experts += rows.shape[0] * matrices.shape[-1] * matrices.shape[-2]
        found = function(*args, **kwargs)
        self._trace.came(found)
        return found

    def _attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        layer = self._trace.layer
        layer.q_width = max(layer.q_width, query.shape[-3] * query.shape[-1])
        if (repeats := query.shape[-3] // key.shape[-3]) > 1:
            key, value = (tensor.repeat_interleave(repeats, -3) for tensor in (key, value))
        return FusedAttention.apply(*(tensor.to(torch.bfloat16) for tensor in (query, key, value)))


class _Trace:
    """One forward pass: the running layer, and the tensors it keeps."""

    def __init__(self, decoder: nn.Module, layers: Sequence[nn.Module], targets: frozenset[nn.Module]) -> None:
        self.seen = [_Seen() for _ in layers]
        self.outside = _Seen()
        self.layer = self.outside
        self._known = {_storage(tensor) for tensor in (*decoder.parameters(), *decoder.buffers())}
        self._alive: list[Any] = []  # kept alive, because a freed storage may be reused for the next tensor
        self._tokens = 0
        self._layers, self._targets = layers, targets

    @contextlib.contextmanager
    def running(self, tokens: int) -> Iterator[None]:
        self._tokens = tokens
        handles = []
        for module, seen in zip(self._layers, self.seen, strict=True):
            handles += [
                module.register_forward_pre_hook(self._enter(seen), with_kwargs=True),
                module.register_forward_hook(self._leave),
            ]
            handles += [
                part.register_forward_pre_hook(self._reads) for part in module.modules() if part in self._targets
            ]
        try:
            with _Watching(self), torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, seen: _Seen) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.layer = seen
            # Arguments of all layers, such as the tables of positions, are not counted for any layer; the stream is.
            given = [*args[1:], *(value for name, value in kwargs.items() if name != "hidden_states")]
            self._known |= {_storage(tensor) for tensor in _tensors(given)}
            self._alive += given

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.layer = self.outside

    def _reads(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self._alive.append(args[0])
            self.layer.read[module] = (_storage(args[0]), args[0].numel())

    def _keep(self, tensor: Tensor) -> Tensor:
        place = _storage(tensor)
        if place not in self._known:
            self._known.add(place)
            self._alive.append(tensor)
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            # One value a row is counted by ROW_STATISTICS_BYTES; a flag or an index is not counted.
            if tensor.dim() and tensor.shape[-1] > 1 and tensor.is_floating_point():
                self.layer.saved["fp32_values" if tensor.dtype == torch.float32 else "values"] += count
        return tensor

    def came(self, found: Any) -> None:
        """Note the width of an operation's result, if it belongs to the tokens."""
        for tensor in _tensors([found]):
            if tensor.dim() > 1 and self._tokens in tensor.shape[:-1] and _storage(tensor) not in self._known:
                self.layer.widest = max(self.layer.widest, tensor.shape[-1])

    def inputs(self, seen: _Seen) -> dict[nn.Module, tuple[int, int]]:
        places = dict.fromkeys(place for place, _ in seen.read.values())
        numbers = {place: number for number, place in enumerate(places)}
        return {
            linear: (numbers[place], 0 if place in self._known else count // self._tokens)
            for linear, (place, count) in seen.read.items()
        }


def trace(decoder: Any, layers: nn.ModuleList, targets: frozenset[nn.Module]) -> tuple[list[Kept], Kept]:
    """The values that each of `layers` keeps, and those that are kept outside of them. `decoder` has no other layers,
    and is on the meta device.

    Raises whatever the model's forward raises on tensors without values.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    for noisy in ("transformers", "torch._subclasses.fake_tensor"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    decoder.train()
    decoder.requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder.to_empty(device="cpu")
        runs = [_forward(decoder, layers, targets, tokens) for tokens in LENGTHS]
        widths = _cached(decoder, len(layers))
    passes = [_counts(run) for run in runs]
    *found, outside = [_fit([counts[n] for counts in passes]) for n in range(len(layers) + 1)]
    for kept, width, seen in zip(found, widths, runs[0].seen, strict=True):
        kept.kv_width = width
        kept.inputs = runs[0].inputs(seen)
    return found, outside


def _forward(decoder: Any, layers: nn.ModuleList, targets: frozenset[nn.Module], tokens: int) -> _Trace:
    run = _Trace(decoder, list(layers), targets)
    words = torch.empty(1, tokens, dtype=torch.long)
    # As in training: from the first adapter's input on, tensors need a gradient.
    hook = decoder.get_input_embeddings().register_forward_hook(lambda _, args, found: found.detach().requires_grad_())
    with hook, run.running(tokens), torch.autocast("cpu", torch.bfloat16):
        decoder(input_ids=words, use_cache=False)
    return run


def _counts(run: _Trace) -> list[Mapping[str, int]]:
    """The counts of each layer in one forward pass, and behind them those of everything outside the layers."""
    return [
        {**seen.saved, "active_expert_params": seen.experts, "q_width": seen.q_width, "widest": seen.widest}
        for seen in (*run.seen, run.outside)
    ]


def _fit(runs: Sequence[Mapping[str, int]]) -> Kept:
    """The counts a token, and a pair of tokens, from the counts of three lengths."""
    short, middle, long = LENGTHS
    kept = Kept(q_width=runs[0]["q_width"], widest=runs[0]["widest"], pair_values=int(runs[0]["q_width"] > 0))
    for name in ("values", "fp32_values", "active_expert_params"):
        first, second, third = (run[name] for run in runs)
        pairs = ((third - second) / (long - middle) - (second - first) / (middle - short)) / (long - short)
        linear = (second - first) / (middle - short) - pairs * (middle + short)
        setattr(kept, name, max(0, round(linear)))
        kept.pair_values += max(0, round(pairs)) * (2 if name == "fp32_values" else 1)
    return kept


def _cached(decoder: Any, count: int) -> list[int]:
    """Width of the keys that each layer leaves in a cache for one token; 0 for a layer without keys."""
    tokens = LENGTHS[0]
    with torch.no_grad():
        cache = decoder(input_ids=torch.empty(1, tokens, dtype=torch.long), use_cache=True).past_key_values
    keys = [getattr(layer, "keys", None) for layer in cache.layers[:count]]
    widths = [key.numel() // key.shape[-2] if isinstance(key, Tensor) and key.dim() == 4 else 0 for key in keys]
    return widths + [0] * (count - len(widths))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(found: Any) -> Iterator[Tensor]:
    for one in found if isinstance(found, (list, tuple)) else ():
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _tensors(one)
