"""The table of settings: type, range, default and help of each one, and its other columns (Setting).

trainer/settings.py decides where a value comes from: command line, environment, YAML file, or the default below.
`python -m trainer config --help` and docs/settings.md show the docstrings.
"""

# No `from __future__ import annotations`: the types below are data that trainer/flags.py reads at every start. As text
# they would be compiled each time, one by one.

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from trainer.flags import Form, Range, options

Device = Literal["cuda", "cpu", "mps"]
Quantization = Literal["nf4", "none"]
Vision = Literal["frozen", "lora"]
Optimizer = Literal["adamw", "paged_adamw_8bit"]
Learn = Literal["all", "last"]

# Ranks by the names that LORA= takes beside numbers; alpha is twice the rank unless it is given.
LORA_PRESETS: dict[str, int] = {"high": 128, "medium": 64, "low": 32}

# The trainer adds these to DeepSpeed's zero_optimization, since accelerate's YAML file may not hold them. DeepSpeed's
# defaults would keep 1e9 gathered elements and a bucket of 5e8 in memory: more than sharding a 4B model saves.
ZERO3_SETTINGS: dict[str, int] = {
    "stage3_param_persistence_threshold": 0,  # small adapters are sharded too
    "stage3_max_live_parameters": 100_000_000, "stage3_max_reuse_distance": 100_000_000,
    "stage3_prefetch_bucket_size": 50_000_000, "reduce_bucket_size": 50_000_000,
}  # fmt: skip

MOST_TOKENS = 1 << 20
# The number of steps of a schedule.
STEPS = Range(1, 10_000_000)
NAMES = Form("all, attention, or names with commas between", r"[A-Za-z_]\w{0,99}(,[A-Za-z_]\w{0,99}){0,49}")
OPTIMIZER_WORDS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
    **dict.fromkeys(("paged_adamw", "adamw_8bit", "adamw_bnb_8bit"), "paged_adamw_8bit"),
}


class Setting(NamedTuple):
    """The columns of a setting beside its type. A field of TrainConfig without a Setting has these defaults."""

    continues: bool = False
    """A checkpoint may be continued after this has changed, because losses and scores do not depend on it, or depend
    on it only through the chosen records, which are themselves compared. All other settings are compared, so that a
    new one cannot be forgotten."""
    planned: str = ""
    """What to ask the plan for, which decides it: a YAML file that says something else is refused. Empty: the plan does
    not decide it."""
    swept: bool = False
    """A W&B sweep may choose it."""
    folder: bool = False
    """It names a folder that the job must see: in a pod, one that is mounted."""
    env: str = ""
    """Its name in the environment and in .env."""
    also: str = ""
    """Its names in other trainers, in tutorials and in older versions, with spaces between."""
    words: Mapping[str, str] = MappingProxyType({})
    """Other words for its values."""


CONTINUES = Setting(continues=True)
OUTPUT = "OUTPUT= names the folder of all runs"
RUN = "RUN= names the run"
PROCESSES = "GPUS= and NODES= ask for processes"
BATCH = "EFFECTIVE_BATCH= asks for the samples a step"
OPTIMIZER = "the plan takes the 8-bit AdamW where memory needs it"
CONFIGURATION = "CONFIG= asks for another configuration"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All settings of a run."""

    model: Annotated[
        str, Setting(env="MODEL_NAME", also="model_name model_name_or_path base_model base_model_name_or_path")
    ]
    """Folder or hub id of an image-text-to-text model."""
    data: Annotated[str, Setting(env="GRID_DATASET_PATH", also="dataset dataset_path data_path dataset_name")]
    """A file of JSON records, or a folder holding train.jsonl and, if there is one, eval.jsonl (or validation, val,
    dev); several with commas between."""
    output_dir: Annotated[str, Setting(continues=True, planned=OUTPUT, env="OUTPUT_DIR")]
    """The run's folder: adapter, metrics, TensorBoard and W&B files go here."""
    run_id: Annotated[str, Setting(continues=True, planned=RUN, also="run_name")]
    """The run's name, the same in every attempt; also the W&B run id."""
    image_root: Annotated[
        str | None, Setting(continues=True, folder=True, env="IMAGE_ROOT", also="image_folder media_dir"),
    ] = None  # fmt: skip
    """Folder for images that are not at the paths in the records."""
    max_image_megapixels: Annotated[int, Range(1, 1000)] = 68
    """Larger pictures are left out before they are decoded, since a decoded pixel takes about 12 bytes. The default
    lets 8192 x 8192 pixels pass. A file may have at most 8 bytes for each allowed pixel."""
    learn: Annotated[Learn, Setting(also="mask_history", words={"true": "last", "false": "all"})] = "all"
    """Which answers of a conversation are learned. all: every answer but those with `weight: 0`, `loss: false`,
    `training: false` or `mask: true`; last: the last answer alone. The model sees the other answers, but does not
    learn them."""
    text_only: bool = False
    """true: the records contain text alone. false: a data set without pictures is refused, and so are keys and markers
    of pictures, videos, audio and boxes that are not read."""
    columns: str = "auto"
    """The keys of your records. auto: the keys of the known forms. For other keys write
    `question=ask,answer=label,image=pic`, or a mapping in a YAML file. The columns are context, question, answer,
    system, image, images, frames, split, messages, and role and content of a turn."""
    session_key: str = "auto"
    """Key of a record's session, in the record or in its metadata. A session is never divided between training and
    held-out records. auto: session_id, episode_id, session or episode."""
    strict: Annotated[bool, CONTINUES] = False
    """true: a run is refused when any record would be left out. false: such records are left out and counted in the
    log."""
    device: Annotated[Device, Setting(also="use_cpu no_cuda", words={"true": "cpu", "false": "cuda"})] = "cuda"
    """Where training runs. It is never changed silently: without a GPU, cuda is refused. mps is Apple's GPU, without
    4-bit weights; nobody has tried it yet."""
    world_size: Annotated[int, Range(1, 65536), Setting(planned=PROCESSES)] = 1
    """Number of training processes. A run with another number is refused."""
    micro_batch_size: Annotated[
        int, Range(1, 4096),
        Setting(planned=BATCH, env="BATCH_SIZE", also="batch_size per_device_train_batch_size train_batch_size"),
    ] = 1  # fmt: skip
    """Samples in one forward pass of one process. Memory grows with it; the result does not depend on it."""
    gradient_accumulation_steps: Annotated[
        int, Range(1, 65536), Setting(planned=BATCH, swept=True, env="GRAD_ACCUM", also="grad_accum")
    ] = 8
    """Forward passes in one optimizer step. Effective batch: this x micro_batch_size x world_size, 8 by default."""
    activation_checkpointing: Annotated[
        bool,
        Setting(
            continues=True, planned=CONFIGURATION, also="gradient_checkpointing use_gradient_checkpointing",
            words={"unsloth": "true"},
        ),
    ] = False  # fmt: skip
    """Recompute the language model's activations in the backward pass instead of keeping them."""
    optimizer: Annotated[Optimizer, Setting(planned=OPTIMIZER, also="optim", words=OPTIMIZER_WORDS)] = "adamw"
    """AdamW. paged_adamw_8bit keeps its state in a quarter of the memory."""
    quantization: Annotated[
        Quantization,
        Setting(
            also="load_in_4bit use_4bit quantization_bit quant_bits bits",
            words={"true": "nf4", "false": "none", "4bit": "nf4", "4": "nf4", "16": "none"},
        ),
    ] = "nf4"
    """Precision of the frozen language model. nf4: 4 bits; none: as it was published."""
    vision: Annotated[
        Vision, Setting(also="freeze_vision_tower freeze_vit", words={"true": "frozen", "false": "lora"})
    ] = "frozen"
    """frozen: adapters on the language model alone. lora: adapters on image tower and projector too, for pictures
    that do not look like photographs; each step then computes the gradients of the tower too."""
    lora_r: Annotated[int, Range(1, 1024), Setting(swept=True, also="lora_rank rank r")] = 64
    """Rank of the adapters. `lora: 16` sets rank and alpha, 16/32; `lora: high`, `medium` and `low` are the ranks 128,
    64 and 32."""
    lora_alpha: Annotated[int, Range(1, 4096), Setting(swept=True)] = 128
    """The adapters' output is scaled by alpha / rank. If it is not given, it is twice the rank."""
    lora_dropout: Annotated[float, Range(0, 0.9)] = 0.05
    """Dropout in front of the adapters. Activations need over a quarter more memory with it; use 0 for large data."""
    lora_targets: Annotated[
        str, NAMES, Setting(also="target_modules lora_target lora_target_modules", words={"all-linear": "all"})
    ] = "all"
    """The linears of the language model that get adapters. all: every one; attention: those of every part whose name
    holds attn or attention; else names of linears or of parts, such as q_proj,v_proj or mlp: `python -m trainer layers`
    shows a model's. `vision: lora` adds all of tower and projector."""
    init_adapter: Annotated[str | None, Setting(folder=True, also="adapter_name_or_path lora_model_dir")] = None
    """Folder of an earlier run, or its adapter, to start from. Model, rank, alpha and layers must be the same."""
    max_length: Annotated[
        int, Range(16, MOST_TOKENS),
        Setting(
            continues=True, env="MAX_LENGTH",
            also="max_seq_length max_seq_len model_max_length cutoff_len sequence_len",
        ),
    ] = 1024  # fmt: skip
    """Most tokens of a sample, image tokens included. Longer records are left out and counted in the log."""
    max_steps: Annotated[int, STEPS, Setting(env="MAX_STEPS")] = 1500
    """Number of optimizer steps of the run."""
    learning_rate: Annotated[float, Range(1e-30, 1), Setting(swept=True, env="LEARNING_RATE", also="lr")] = 2e-4
    """Peak of the learning rate. After the warm-up the rate falls to zero along a cosine."""
    warmup_fraction: Annotated[float, Range(0, 1), Setting(swept=True, also="warmup_ratio")] = 0.1
    """Share of the steps in which the learning rate rises to its peak."""
    weight_decay: Annotated[float, Range(0, 1), Setting(swept=True)] = 0.01
    """AdamW's weight decay of the adapters."""
    max_grad_norm: Annotated[float, Range(0, 1000), Setting(swept=True, also="max_norm")] = 1.0
    """Gradients with a larger norm are scaled down to this norm. 0: they are never scaled."""
    seed: Annotated[int, Range(0, 2**32 - 1), Setting(swept=True, also="random_seed random_state")] = 0
    """Decides everything that is drawn: the adapters, the order of the records, which sessions are held out."""
    group_lengths: Annotated[
        bool,
        Setting(
            also="group_by_length group_by_modality_length train_sampling_strategy",
            words={"random": "false", "group_by_length": "true"},
        ),
    ] = True
    """true: the records of an optimizer step have similar lengths, so that batches hold little padding. false: any
    lengths."""
    logging_steps: Annotated[int, STEPS, CONTINUES] = 10
    """Optimizer steps between two lines of the log."""
    # Decides which adapter is kept, not what any step or evaluation gives.
    eval_steps: Annotated[int, STEPS, CONTINUES] = 250
    """Optimizer steps between two evaluations: held-out loss and action accuracy. There is one at the last step too.
    The adapter of the best evaluation is kept."""
    early_stopping_patience: Annotated[int, Range(0, 1000), CONTINUES] = 0
    """Number of evaluations in a row without a better one after which the run ends. 0: the run never ends early."""
    save_steps: Annotated[int, STEPS, CONTINUES] = 250
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Annotated[int, Range(1, 1000), Setting(continues=True, also="save_total_limit")] = 3
    """Number of newest checkpoints that are kept. The best one by held-out action accuracy is kept too."""
    eval_fraction: Annotated[
        float, Range(0, 0.9), Setting(continues=True, also="val_size val_set_size split_dataset_ratio")
    ] = 0.1
    """Share of the records that is held out, by whole sessions, when there is no eval.jsonl."""
    eval_samples: Annotated[int, Range(0, 1_000_000)] = 256
    """Number of held-out records for the held-out loss. Before and after training their answers are written out too.
    0: no evaluation during training, so the last adapter is kept and the run never ends early."""
    score_samples: Annotated[int, Range(0, 10_000_000)] = 10_000_000
    """Largest number of held-out records whose allowed actions are scored."""
    feature_cache_gib: Annotated[int, Range(0, 100_000), CONTINUES] = 32
    """Disk space for the features that the frozen tower computes, so that each picture goes through the tower once in
    all runs. Features that were not used for longest are removed first. Never more than a quarter of the free space is
    used. 0: no features are kept."""
    feature_store: Annotated[str | None, Setting(continues=True, folder=True, env="FEATURE_STORE")] = None
    """Folder of the features, shared by all runs that name it. Left out: .cache/features beside the runs' folders."""
    features_ahead: Annotated[bool, CONTINUES] = False
    """true: before the model is loaded, the image tower alone computes all features that are not in the store yet; the
    model is then loaded without the tower. A plan sets this after `make features` has filled the store."""
    collective_timeout_s: Annotated[int, Range(5, 86_400), Setting(continues=True, also="ddp_timeout")] = 1800
    """Seconds after which a process that does not answer the others ends the attempt with 1. It must be longer than
    one process needs to read the whole data set, since the others wait for that."""
    answer_field: str = "auto"
    """Key of the action in JSON answers. auto: the first key of the answers; where most answers are JSON objects, the
    other answers are left out. none: an answer is one text, and no answer is left out."""
    actions: str = "auto"
    """The allowed actions, for example up,down; auto: those of the training answers."""


# By name, in the order above.
SETTINGS: dict[str, Setting] = {
    name: next((mark for mark in option.marks if isinstance(mark, Setting)), Setting())
    for name, option in options(TrainConfig).items()
}

# What LORA takes, in words.
RANKS = f"{', '.join(LORA_PRESETS)} or a rank, {options(TrainConfig)['lora_r'].allowed}"

# (setting, how much it matters, where to look, why), the most telling first; printed with --help.
KNOBS: tuple[tuple[str, str, str, str], ...] = (
    ("learning_rate", "critical", "1e-5 to 1e-3", "too high diverges, too low learns nothing in the given steps"),
    ("lora_r", "high", "8 to 128", "what the adapters can hold; memory grows with it"),
    ("lora_alpha", "high", "1 to 2 x lora_r", "scales the adapters like a second learning rate: change one at a time"),
    ("effective batch", "medium", "8 to 32", "steadier steps; change the learning rate with it"),
    ("max_steps", "medium", "2 to 5 epochs", "fewer underfit, more repeat the training sessions by heart"),
    ("weight_decay", "low", "0.001 to 0.1", "matters on small data, late in the run"),
    ("warmup_fraction", "low", "0.03 to 0.1", "only its absence is felt"),
)  # fmt: skip


def read_rank(text: str) -> int | None:
    """The rank that `text` stands for, a number or a preset's name; None for what is neither."""
    found: int | None = LORA_PRESETS.get(text) or options(TrainConfig)["lora_r"].read(text)
    return found
