"""How fast a run is, and what that means. A window goes from one training log to the next:

  samples_per_second  records trained on, of all processes, a second
  tokens_per_second   their tokens, prompt and image tokens included, padding not, a second
  mfu                 FLOPs that the model needs for them (nothing recomputed, nothing unpacked) a second, as a share
                      of what the GPUs do at most in bf16; only on GPUs whose peak is known
  tokens_seen         tokens of all windows, earlier attempts included

The seconds are the wall clock's, data loading included, evaluation and saving left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from accelerate_configs.job import ModelShape
from accelerate_configs.memory.shapes import resolve_shape
from trainer.config import TrainConfig
from trainer.outcome import ConfigError
from trainer.text import GIB

# Dense bf16 with fp32 accumulation, TFLOP/s, from the vendors' data sheets; the first name that is found counts.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("H200", 989), ("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("A100", 312), ("L40S", 362), ("L40", 181),
    ("A10G", 70), ("A10", 125), ("L4", 121), ("A40", 150), ("A6000", 155), ("RTX 4090", 165), ("RTX 3090", 71),
)  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """FLOP a second of one GPU of that name; None when it is not known."""
    return next((tflops * 1e12 for name, tflops in PEAK_TFLOPS if name in device_name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    samples: int
    tokens: int
    scored: int
    """Of the tokens, those of the answers."""
    images: int


def model_flops(shape: ModelShape, counts: Counts, *, lora_r: int, tower_trained: bool = False) -> float:
    """FLOPs of a forward and a backward pass over `counts`, a multiplication and an addition being two.

    A frozen weight costs 2 a token forwards and 2 backwards (no gradient of its own), an adapter's 6; attention
    12 x width a pair of tokens, as if none were masked; the head runs on scored tokens only, the frozen tower forwards.
    """
    linears = 4 * shape.linear_params + 6 * shape.lora_params(lora_r)
    attention = 12 * shape.layers * shape.q_width * counts.tokens / max(1, counts.samples)
    hidden, patches = shape.vision_hidden, shape.vision_patches
    tower_layers = shape.vision_params // max(1, 4 * hidden**2 + 2 * hidden * shape.vision_mlp)
    tower = 2 * patches * shape.vision_params + 4 * patches**2 * hidden * tower_layers
    return (
        counts.tokens * (linears + attention)
        + counts.scored * 4 * shape.embedding_params
        + counts.images * tower * (2 if tower_trained else 1)
    )


def flops_of(config: TrainConfig) -> Callable[[Counts], float] | None:
    """model_flops of the run; None for a model whose sizes are not known."""
    try:
        shape = resolve_shape(config.model)
    except ConfigError:
        return None
    trained = config.vision == "lora"
    return lambda counts: model_flops(shape, counts, lora_r=config.lora_r, tower_trained=trained)


class Meter(TrainerCallback):
    """Counts what is trained on without waiting for the device; `read`, at a training log, is the only sync."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if on_gpu else None
        self._flops = flops_of(config) if self._peak else None
        self._correct_and_tokens: list[Tensor] = []
        self._scored = self._samples = self._images = 0
        self._earlier = {"correct": 0, "scored": 0, "tokens_seen": 0}
        """From before this window, or from the attempt that began it."""
        self._began = self._last = time.monotonic()
        self._away = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        self._away += now - self._last
        self._last = now

    on_save = on_evaluate

    def count(self, inputs: Mapping[str, Any], correct: Tensor) -> None:
        """A micro-batch of this process; `correct` is how many of its answer tokens were predicted."""
        self._correct_and_tokens.append(torch.stack((correct.detach().long(), inputs["attention_mask"].sum())))
        self._scored += inputs["loss_targets"].numel()
        self._samples += inputs["input_ids"].shape[0]
        pictures = inputs.get("image_grid_thw", inputs.get("pixel_values"))
        self._images += 0 if pictures is None else pictures.shape[0]

    def state(self) -> dict[str, int]:
        """What a checkpoint needs of this process's open window."""
        correct, tokens = self._sums()
        found = {"correct": correct, "scored": self._scored, "tokens_seen": tokens}
        return {name: self._earlier[name] + value for name, value in found.items()}

    def restore(self, state: Mapping[str, int]) -> None:
        self._earlier = {name: state[name] for name in self._earlier}

    def read(self, accelerator: Any) -> dict[str, float]:
        """The window that ends here, of all processes; the next one begins. Collective."""
        now = time.monotonic()
        here = self.state()
        sums = (
            here["correct"],
            here["scored"],
            here["tokens_seen"],
            self._sums()[1],
            self._scored,
            self._samples,
            self._images,
        )
        total = accelerator.reduce(torch.tensor(sums, device=self._device), "sum").tolist()
        correct, all_scored, tokens_seen, tokens, scored, samples, images = total
        seconds = max(1e-9, now - self._began - self._away)
        found = {
            "mean_token_accuracy": correct / max(1, all_scored),
            "tokens_seen": tokens_seen,
            "samples_per_second": samples / seconds,
            "tokens_per_second": tokens / seconds,
        }
        if self._flops and self._peak:
            counts = Counts(samples=samples, tokens=tokens, scored=scored, images=images)
            found["mfu"] = self._flops(counts) / seconds / (self._peak * accelerator.num_processes)
        if self._device.type == "cuda":
            found["gpu_peak_allocated_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
            found["gpu_peak_reserved_gib"] = torch.cuda.max_memory_reserved(self._device) / GIB
        self._earlier = {"correct": 0, "scored": 0, "tokens_seen": here["tokens_seen"]}
        self._correct_and_tokens, self._scored, self._samples, self._images = [], 0, 0, 0
        self._began = self._last = now
        self._away = 0.0
        return found

    def _sums(self) -> tuple[int, int]:
        """(correct answer tokens, tokens) of the open window."""
        if not self._correct_and_tokens:
            return 0, 0
        self._correct_and_tokens = [torch.stack(self._correct_and_tokens).sum(0)]
        correct, tokens = self._correct_and_tokens[0].tolist()
        return int(correct), int(tokens)
