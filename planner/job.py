"""The job's vocabulary: what is asked for (JobSpec), what is predicted (Estimate), what was decided (Plan).

Both sides of the launch read these and nothing heavier: no torch, no clock, no environment. A JobSpec holds
everything the decision depends on, so the same JobSpec always gives the same Plan and the same script.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.architecture.shape import ModelShape
from trainer.config import LORA_PRESETS, Device, Optimizer, Quantization, Vision
from trainer.launch import Launch

# What even the shortest record has beside its picture: the marks around picture and turns, a word to answer.
FEW_WORDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a person asked for, checked: a field a variable. None: nothing was said of it, or `none` was."""

    said: frozenset[str] = frozenset()
    """The names of those that something was said of."""
    gpus: int | None = None
    nodes: int | None = None
    vram: float | None = None
    gpu_type: str | None = None
    time: int | None = None
    model: str | None = None
    data: str | None = None
    output: str | None = None
    name: str | None = None
    run: str | None = None
    config: str | None = None
    config_file: str | None = None
    device: Device | None = None
    runtime: str | None = None
    image: str | None = None
    binds: tuple[str, ...] | None = None
    account: str | None = None
    wckey: str | None = None
    cluster: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    gpu_flag: str | None = None
    extra_flags: tuple[str, ...] | None = None
    modules: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] | None = None
    namespace: str | None = None
    queue: str | None = None
    pvc: str | None = None
    size: str | None = None
    site: str | None = None
    cpus: int | None = None
    mem: int | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    lora: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    vision: Vision | None = None
    quantization: Quantization | None = None
    effective_batch: int | None = None
    max_length: int | None = None
    seed: int | None = None
    grid: str | None = None
    sweep: str | None = None
    trials: int | None = None
    parallel: int | None = None
    format: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """One job, complete. `planner.request.resolve` makes it from a Request, the files and the model."""

    model: str
    """Folder or hub id."""
    model_is_folder: bool = False
    """As found when the request was read."""
    shape: ModelShape
    data: str
    """Files of JSON records, or folders of them, with commas between: trainer/data/sources.py says which are read."""
    output: str = "runs"
    """Folder that holds one folder a run."""
    project_dir: str
    """Absolute path of the checkout that the job runs from."""
    name: str
    run_id: str
    sweep: str | None = None
    """Id of the sweep that the run is a member of; also its W&B group."""
    wandb_sweep: str | None = None
    """entity/project/id of the W&B sweep that gives the run its values."""

    gpus: int = 1
    """Per node; 0 only on device cpu."""
    nodes: int = 1
    vram_gib: float = 24.0
    """Per GPU, as sold: the chooser takes off context and headroom."""
    vram_source: str = "assumed"
    """Where vram_gib comes from, in words."""
    gpu_type: str | None = None
    device: Device = "cuda"
    accelerate_config: str = "auto"

    time_limit_min: int = 720
    runtime: str = "none"
    image: str | None = None
    """Container image: a registry's reference, a .sif or .sqsh file, or the folder of an unpacked one."""
    binds: tuple[str, ...] = ()
    """What containers also see, each as SOURCE[:TARGET][:ro]."""
    account: str | None = None
    wckey: str | None = None
    cluster: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    gpu_flag: str = "gres"
    """How Slurm is asked for GPUs: gres or gpus-per-node; none: for whole nodes, where it does not know their GPUs."""
    namespace: str | None = None
    queue: str | None = None
    """Kueue's local queue."""
    pvc: str | None = None
    """Name of the claim that holds runs, data and models on Kubernetes."""
    extra_flags: tuple[str, ...] = ()
    """Further options of sbatch, each as --name or --name=value."""
    modules: tuple[str, ...] = ()
    """Loaded in the job's shell, in this order."""
    environment: tuple[tuple[str, str], ...] = ()
    """What the job's processes get besides; wins over what the plan sets. Never a secret."""
    site: str = ""
    """The site file and what was taken from it, in words."""
    cpus: int = 4
    """Per node."""
    mem_gib: int = 32
    """Host memory per node."""
    ask_mem: bool = True
    """False: Slurm is not asked for it, where it does not track memory."""

    quantization: Quantization = "nf4"
    lora_r: int = LORA_PRESETS["medium"]
    lora_alpha: int = 2 * LORA_PRESETS["medium"]
    lora_dropout: float = 0.05
    vision: Vision = "frozen"
    """lora: adapters on the image tower and projector too."""
    effective_batch_size: int | None = None
    """Samples an optimizer step, over all GPUs; None: 8, rounded up to a multiple of the GPU count."""
    max_length: int = 1024
    """Tokens a sample, image tokens included: what memory is planned for."""
    length_source: str = "MAX_LENGTH"
    """Where max_length comes from, in words."""
    supervised_tokens: int = 128
    """Tokens a sample that the loss is computed on."""
    images_per_sample: int = 1
    evaluates: bool = True
    """Whether records are held out to score and answer."""
    measured_with: str | None = None
    """Label of the candidate that `find-batch-size` tried with these very data; None: nobody tried."""
    measured_batch: int = 0
    """The largest micro-batch that fitted then."""
    measured_peak_gib: float = 0.0
    """What the process that needed most had with it."""
    config_file: str | None = None
    """YAML file that the ranks read the remaining settings from."""
    max_steps: int = 1500
    learning_rate: float = 2e-4
    seed: int = 0

    @property
    def num_processes(self) -> int:
        return max(1, self.gpus) * self.nodes

    @property
    def lora_params(self) -> int:
        """Trainable weights."""
        return self.shape.lora_params(self.lora_r, self.vision)

    @property
    def too_short_for_pictures(self) -> str:
        """That no record with a picture can be kept, in words; empty where one might be."""
        least = self.shape.tokens_per_image + FEW_WORDS
        if not self.shape.fixed_pictures or self.length_source != "MAX_LENGTH" or self.max_length >= least:
            return ""
        return (
            f"MAX_LENGTH={self.max_length} leaves out every record with a picture, which alone takes "
            f"{self.shape.tokens_per_image} tokens: say at least {least}"
        )

    @property
    def run_dir(self) -> str:
        return f"{self.output}/{self.run_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Predicted bytes on one GPU."""

    items: tuple[tuple[str, int], ...]
    """(name, bytes) of everything alive at the peak of an optimizer step, in a fixed order."""
    load_peak_bytes: int
    """The most that is alive while the model is being loaded."""
    evaluation: tuple[tuple[str, int], ...] = ()
    """(name, bytes) of everything alive at the peak of an evaluation of one sequence at a time; empty without any."""

    @property
    def evaluation_bytes(self) -> int:
        return sum(size for _, size in self.evaluation)

    @property
    def step_bytes(self) -> int:
        return sum(size for _, size in self.items)

    @property
    def peak_bytes(self) -> int:
        return max(self.step_bytes, self.load_peak_bytes, self.evaluation_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to run the job, and whether it fits."""

    config: str
    """Stem of the YAML in accelerate_configs/."""
    checkpointing: bool
    """Activation checkpointing on the language model."""
    offload: bool
    """Optimizer state in host memory (ZeRO-3 only)."""
    optimizer: Optimizer
    micro_batch_size: int
    """Samples a GPU and forward pass."""
    gradient_accumulation_steps: int
    estimate: Estimate
    usable_bytes: int
    fits: bool
    reason: str
    """Why it was taken or not, in words."""

    @property
    def label(self) -> str:
        plain = self.config in ("single_gpu", "single_gpu_low_mem", "cpu_mps")
        options = {
            "checkpointing": self.checkpointing and not plain,
            "8-bit AdamW": self.optimizer == "paged_adamw_8bit" and not plain,
            "offload": self.offload,
        }
        extras = [option for option, on in options.items() if on]
        return " + ".join([self.config, *extras])


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will run and why. Every backend renders the same Plan."""

    spec: JobSpec
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    """All of them in the order tried, the chosen one included."""
    effective_batch_size: int
    launch: Launch
    """The job's command."""
    env: tuple[tuple[str, str], ...]
    """Environment of every process of the job, sorted; never a secret."""
    notes: tuple[str, ...] = field(default=())
    """What a person should know: defaults rounded, a forced configuration that will not fit, ..."""

    @property
    def num_processes(self) -> int:
        return self.spec.num_processes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `chosen` and `candidates` carry their totals as well."""
        record = asdict(self)
        record["num_processes"] = self.num_processes
        for entry, candidate in zip(
            [record["chosen"], *record["candidates"]], [self.chosen, *self.candidates], strict=True
        ):
            entry["label"] = candidate.label
            entry["estimate"]["items"] = dict(candidate.estimate.items)
            entry["estimate"]["evaluation"] = dict(candidate.estimate.evaluation)
            entry["estimate"]["evaluation_bytes"] = candidate.estimate.evaluation_bytes
            entry["estimate"]["step_bytes"] = candidate.estimate.step_bytes
            entry["estimate"]["peak_bytes"] = candidate.estimate.peak_bytes
        record["launch_argv"] = self.launch.words()
        del record["launch"]
        record["env"] = dict(self.env)
        return record
