"""The speed of a run. A window goes from one training log to the next:

    samples_per_second  records trained on, of all processes, a second
    tokens_per_second   their tokens, prompt and image tokens included, padding not, a second
    mfu                 FLOPs that the model needs for them (nothing recomputed, nothing unpacked) a second, as a share
                        of the GPUs' peak in bf16; only on GPUs whose peak is known
    tokens_seen         tokens of all windows, earlier attempts included
    resident_gib        on the CPU: memory that the first process holds at the end of the window; on a GPU
                        gpu_peak_allocated_gib and gpu_peak_reserved_gib, the most so far, of torch's allocator

The seconds are wall-clock time, with data loading, without evaluation and saving.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor
from transformers import TrainerCallback

from trainer.config import TrainConfig
from trainer.data.repeats import OWN_ROWS
from trainer.outcome import ConfigError
from trainer.text import GIB

if TYPE_CHECKING:
    from trainer.architecture.shape import ModelShape
    from trainer.model.features import FeatureCache

# Dense bf16 with fp32 accumulation, TFLOP/s, from the vendors' data sheets; the first matching name counts.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("H200", 989), ("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("A100", 312), ("L40S", 362), ("L40", 181),
    ("A10G", 70), ("A10", 125), ("L4", 121), ("A40", 150), ("A6000", 155), ("RTX 4090", 165), ("RTX 3090", 71),
)  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """FLOP a second of one GPU of that name; None when it is not known."""
    return next((tflops * 1e12 for name, tflops in PEAK_TFLOPS if name in device_name), None)


def known_shape(model: str) -> ModelShape | None:
    """The model's sizes; None for a model that was never measured."""
    from trainer.architecture.shapes import resolve_shape

    with contextlib.suppress(ConfigError):
        return resolve_shape(model, measure=False)
    return None


def model_flops(
    shape: ModelShape, *, samples: int, tokens: int, scored: int, images: int, lora_r: int, tower_trained: bool = False
) -> float:
    """FLOPs of a forward and a backward pass over so many samples, their tokens (`scored` of them in the answers) and
    images; a multiplication and an addition count as two.

    A frozen weight costs 2 a token forwards and 2 backwards (it has no gradient), an adapter's weight 6; attention 12
    x width a pair of tokens, as if no pair were masked; the head runs on scored tokens only, the frozen tower
    forwards.
    """
    frozen = shape.linear_params + shape.total("active_expert_params")
    linears = 4 * frozen + 6 * shape.lora_params(lora_r)
    attention = 12 * shape.total("q_width") * tokens / max(1, samples)
    hidden, patches = shape.vision_hidden, shape.vision_patches
    tower = 2 * patches * shape.vision_params + 4 * patches**2 * hidden * shape.vision_layers
    return (
        tokens * (linears + attention)
        + scored * 4 * shape.vocab * shape.hidden
        + images * tower * (2 if tower_trained else 1)
    )


class Meter(TrainerCallback):
    """Counts the trained samples without waiting for the device; only `read`, at a training log, synchronises."""

    def __init__(self, config: TrainConfig, device: torch.device, features: FeatureCache | None = None) -> None:
        self._config, self._device, self._features = config, device, features
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._shape = known_shape(config.model) if self._peak else None
        self._earlier = {"correct": 0, "scored": 0, "tokens_seen": 0}
        """Counts from before this window, or from the attempt that began the window."""
        self._begin()

    def _begin(self) -> None:
        """Begin a window."""
        self._correct_and_tokens = torch.zeros(2, dtype=torch.long, device=self._device)
        self._counted: Counter[str] = Counter()
        self._began = self._last = time.monotonic()
        self._away = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        self._away += now - self._last
        self._last = now

    on_save = on_evaluate

    def count(self, inputs: Mapping[str, Any], correct: Tensor) -> None:
        """Count a micro-batch of this process; `correct` is the number of its answer tokens that were predicted."""
        rows = inputs.get(OWN_ROWS, len(inputs["input_ids"]))
        self._correct_and_tokens += torch.stack((correct.detach().long(), inputs["attention_mask"][:rows].sum()))
        pictures = len(inputs.get("image_grid_thw", inputs.get("pixel_values", ())))
        images = self._features.take_computed() if self._features else pictures
        self._counted.update(scored=inputs["loss_targets"].numel(), samples=rows, images=images)

    def state(self) -> dict[str, int]:
        """The counts of this process's open window for a checkpoint."""
        correct, tokens = self._correct_and_tokens.tolist()
        found = {"correct": correct, "scored": self._counted["scored"], "tokens_seen": tokens}
        return {name: self._earlier[name] + value for name, value in found.items()}

    def restore(self, state: Mapping[str, int]) -> None:
        self._earlier = {name: state[name] for name in self._earlier}

    def read(self, accelerator: Any) -> dict[str, float]:
        """The measurements of the window that ends now, of all processes; the next window begins. Collective."""
        here = self.state()
        sums = (
            *here.values(),
            self._earlier["tokens_seen"],
            *(self._counted[n] for n in ("scored", "samples", "images")),
        )
        total = accelerator.reduce(torch.tensor(sums, device=self._device), "sum").tolist()
        correct, all_scored, tokens_seen, tokens_before, scored, samples, images = total
        tokens = tokens_seen - tokens_before
        seconds = max(1e-9, time.monotonic() - self._began - self._away)
        found = {
            "mean_token_accuracy": correct / max(1, all_scored),
            "tokens_seen": tokens_seen,
            "samples_per_second": samples / seconds,
            "tokens_per_second": tokens / seconds,
        }
        if self._peak and self._shape:
            flops = model_flops(
                self._shape, samples=samples, tokens=tokens, scored=scored, images=images,
                lora_r=self._config.lora_r, tower_trained=self._config.vision == "lora",
            )  # fmt: skip
            found["mfu"] = flops / seconds / (self._peak * accelerator.num_processes)
        if self._device.type == "cuda":
            found["gpu_peak_allocated_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
            found["gpu_peak_reserved_gib"] = torch.cuda.max_memory_reserved(self._device) / GIB
        else:
            found["resident_gib"] = psutil.Process().memory_info().rss / GIB
        self._earlier = {"correct": 0, "scored": 0, "tokens_seen": here["tokens_seen"]}
        self._begin()
        return found
