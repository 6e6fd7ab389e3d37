"""Everything one training run can be told: typed, ranged and documented here, once.

Where a value comes from (command line, environment, YAML, these defaults) is trainer/settings.py's; the
docstrings are what `python -m trainer config --help` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from trainer.flags import Range

Device = Literal["cuda", "cpu"]
Quantization = Literal["nf4", "none"]
Vision = Literal["frozen", "lora"]
Optimizer = Literal["adamw", "paged_adamw_8bit"]
Learn = Literal["all", "last"]

# r / alpha; the preset's name is what a user says.
LORA_PRESETS: dict[str, tuple[int, int]] = {"high": (128, 256), "medium": (64, 128), "low": (32, 64)}

# Under the accelerate YAML's zero_optimization, merged in by the trainer (accelerate's file refuses these
# keys). DeepSpeed's defaults would leave 1e9 gathered elements and a 5e8 bucket alive: more than sharding a
# 4B model saves.
ZERO3_SETTINGS: dict[str, int] = {
    "stage3_param_persistence_threshold": 0,  # small adapters are sharded too
    "stage3_max_live_parameters": 100_000_000, "stage3_max_reuse_distance": 100_000_000,
    "stage3_prefetch_bucket_size": 50_000_000, "reduce_bucket_size": 50_000_000,
}  # fmt: skip

MOST_TOKENS = 1 << 20
# Any whole number from 1 that a schedule can have.
Steps = Annotated[int, Range(1, 10_000_000)]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    model: str
    """Folder or hub id of an image-text-to-text model."""
    data: str
    """A JSONL file, or a folder holding train.jsonl and, if there is one, eval.jsonl."""
    output_dir: str
    """The run's folder: adapter, metrics, TensorBoard and W&B files go here."""
    run_id: str
    """Stable over attempts; also the W&B run id."""
    image_root: str | None = None
    """Folder to look in for images that are not where the records say."""
    learn: Learn = "all"
    """Which answers of a conversation: all but those that say `weight: 0` or `loss: false`, or the last alone, what
    stands before it being shown."""
    text_only: bool = False
    """The records have no picture, and none is missing: without this a set without one is refused, and so are keys and
    markers of pictures, videos, audio and boxes that are not read."""
    strict: bool = False
    """End before training when any record would be left out; otherwise it is left out, and said."""
    device: Device = "cuda"
    """Asked for, never fallen back to."""
    world_size: Annotated[int, Range(1, 65536)] = 1
    """Processes that must be there, or the run stops before it starts."""
    micro_batch_size: Annotated[int, Range(1, 4096)] = 1
    """Samples a process and forward pass: memory grows with it, the result does not depend on it."""
    gradient_accumulation_steps: Annotated[int, Range(1, 65536)] = 8
    """Forward passes an optimizer step. Effective batch: this x micro_batch_size x world_size, 8 by default."""
    activation_checkpointing: bool = False
    """Recompute the language model's activations in the backward pass instead of keeping them."""
    optimizer: Optimizer = "adamw"
    """paged_adamw_8bit keeps its state in a quarter of the memory."""
    quantization: Quantization = "nf4"
    """Precision of the frozen language model: 4 bits, or as it was published."""
    vision: Vision = "frozen"
    """lora: adapters on the linears of image tower and projector too, for pictures unlike any photograph; each step
    then goes back through the tower."""
    lora_r: Annotated[int, Range(1, 1024)] = 64
    """Rank of the adapters. `lora: high | medium | low` sets rank and alpha: 128/256, 64/128, 32/64."""
    lora_alpha: Annotated[int, Range(1, 4096)] = 128
    """The adapters' output is scaled by alpha / rank; given neither this nor `lora`, it is twice the rank."""
    lora_dropout: Annotated[float, Range(0, 0.9)] = 0.05
    """Costs more than a quarter of the activations' memory; 0 on large data."""
    init_adapter: str | None = None
    """Folder of an earlier run (or its adapter) to start from: the same model, rank, alpha and layers."""
    max_length: Annotated[int, Range(16, MOST_TOKENS)] = 1024
    """Tokens a sample, image tokens included; longer records are left out, and said."""
    max_steps: Steps = 1500
    """Optimizer steps."""
    learning_rate: Annotated[float, Range(1e-30, 1)] = 2e-4
    """Peak; cosine decay to zero after the warm-up."""
    warmup_fraction: Annotated[float, Range(0, 1)] = 0.1
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: Annotated[float, Range(0, 1)] = 0.01
    """Pull of the adapters' weights towards zero."""
    max_grad_norm: Annotated[float, Range(0, 1000)] = 1.0
    """Longer gradients are cut to this; 0: none are."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Of everything drawn: adapters, order of the records, which sessions are held out."""
    logging_steps: Steps = 10
    """Optimizer steps between two lines of the log."""
    eval_steps: Steps = 250
    """Optimizer steps between two evaluations: held-out loss and action accuracy. The last step has one too, and the
    adapter of the best is the one that is kept."""
    early_stopping_patience: Annotated[int, Range(0, 1000)] = 0
    """Evaluations in a row without a better one that end the run; 0: none do."""
    save_steps: Steps = 250
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Annotated[int, Range(1, 1000)] = 3
    """The newest so many stay, and the best by held-out action accuracy."""
    eval_fraction: Annotated[float, Range(0, 0.9)] = 0.1
    """Share of the records held out, by session, when the data brings no eval.jsonl."""
    eval_samples: Annotated[int, Range(0, 1_000_000)] = 256
    """Held-out records for the held-out loss, and that answers are written out for, before and after training. 0: no
    evaluation on the way, so the last adapter is the one that is kept, and nothing ends early."""
    score_samples: Annotated[int, Range(0, 10_000_000)] = 10_000_000
    """Held-out records whose allowed actions are scored: all, unless there are more than this."""
    feature_cache_gib: Annotated[int, Range(0, 100_000)] = 8
    """Most disk for what the frozen tower makes of each picture, kept until the run ends so that none goes through it
    twice; never more than a quarter of what is free. 0: it sees every picture every time."""
    collective_timeout_s: Annotated[int, Range(5, 86_400)] = 1800
    """A process that does not answer the others for so many seconds ends the attempt with 1. Reading the whole data
    set, which the others wait for, must fit."""
    answer_field: str = "auto"
    """Key of the JSON answer that is the action; auto: the first key of the answers."""
    actions: str = "auto"
    """The allowed actions, for example up,down; auto: those of the training answers."""


# (setting, how much it matters, where to look, why), the most telling first; printed with --help.
KNOBS: tuple[tuple[str, str, str, str], ...] = (
    ("learning_rate", "critical", "1e-5 to 1e-3", "too high diverges, too low learns nothing in the given steps"),
    ("lora_r", "high", "32, 64, 128", "what the adapters can hold; memory grows with it"),
    ("lora_alpha", "high", "1 to 2 x lora_r", "scales the adapters like a second learning rate: change one at a time"),
    ("effective batch", "medium", "8 to 32", "steadier steps; change the learning rate with it"),
    ("max_steps", "medium", "2 to 5 epochs", "fewer underfit, more repeat the training sessions by heart"),
    ("weight_decay", "low", "0.001 to 0.1", "matters on small data, late in the run"),
    ("warmup_fraction", "low", "0.03 to 0.1", "only its absence is felt"),
)  # fmt: skip
