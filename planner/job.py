"""JobSpec: one complete job, in parts that each have one reason to change.

A JobSpec holds everything that the decision depends on, so the same JobSpec always gives the same Plan and script.
Both sides of the launch read it and nothing heavier: no torch, no clock, no environment.

A field's name is unique over all parts. So a variable names its field without the part, and run.json and `plan
--format json` hold the fields side by side: moving a field to another part changes no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from trainer.architecture.shape import PLANNED_PX, ModelShape
from trainer.architecture.targets import ALL
from trainer.config import LORA_PRESETS, Device, Quantization, Vision

# Tokens of even the shortest record beside its picture: the markers around picture and turns, a word to answer.
FEW_WORDS = 8
THIS_MACHINE = "this machine"
"""The `vram_source` of a run on this machine without GPUs, and the `site` of every run that uses its hardware."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The share of a cluster that the job gets, and for how long."""

    gpus: int = 1
    """Per node; 0 only on the devices cpu and mps."""
    nodes: int = 1
    vram_gib: float = 24.0
    """Nominal memory per GPU: the chooser subtracts context and headroom."""
    gpu_type: str | None = None
    device: Device = "cuda"
    cpus: int = 4
    """Per node."""
    mem_gib: int = 32
    """Host memory per node."""
    ask_mem: bool = True
    """False: Slurm is not asked for memory, because it does not track it."""
    time_limit_min: int = 720


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How the model is trained, as far as the plan depends on it or a variable sets it."""

    accelerate_config: str = "auto"
    quantization: Quantization = "nf4"
    lora_r: int = LORA_PRESETS["medium"]
    lora_alpha: int = 2 * LORA_PRESETS["medium"]
    lora_dropout: float = 0.05
    lora_targets: str = ALL
    """The linears of the language model that get adapters: all, attention, or names."""
    vision: Vision = "frozen"
    """lora: adapters on the image tower and projector too."""
    effective_batch_size: int | None = None
    """Samples an optimizer step, over all GPUs; None: 8, rounded up to a multiple of the GPU count."""
    max_length: int = 1024
    """Tokens a sample, image tokens included, for which memory is planned."""
    config_file: str | None = None
    """YAML file from which the ranks read the remaining settings."""
    max_steps: int = 1500
    learning_rate: float = 2e-4
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """Facts about the records of this dataset, and the micro-batch that was tried with them."""

    supervised_tokens: int = 128
    """Tokens a sample that the loss is computed on."""
    images_per_sample: int = 1
    evaluates: bool = True
    """Whether records are held out to score and answer."""
    features_ahead: bool | None = None
    """Whether the features of all pictures are in the store, or the settings ask for them: then no image tower is
    loaded, except under ZeRO-3."""
    measured_with: str | None = None
    """Label of the candidate that `find-batch-size` tried with exactly this data; None when it was never run."""
    measured_batch: int = 0
    """The largest micro-batch that fitted in that test."""
    measured_peak_gib: float = 0.0
    """Memory of the process that needed most with that micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The sources of values, in words."""

    vram_source: str = "assumed"
    """The source of `vram_gib`; for a plan without GPUs, that of `mem_gib`."""
    length_source: str = "MAX_LENGTH"
    """The source of `max_length`."""
    site: str = ""
    """The site file and the names of the values taken from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """The image that the job runs in, and the folders that it sees."""

    image: str | None = None
    """A registry's reference, a .sif or .sqsh file, or the folder of an unpacked image."""
    binds: tuple[str, ...] = ()
    """Further folders that containers see, each as SOURCE[:TARGET][:ro]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slurm:
    """Options that only Slurm has."""

    runtime: str = "none"
    account: str | None = None
    wckey: str | None = None
    cluster: str | None = None
    """A cluster other than sbatch's default."""
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    gpu_flag: str = "gres"
    """How Slurm is asked for GPUs: gres or gpus-per-node; none asks for whole nodes, when Slurm does not know their
    GPUs."""
    extra_flags: tuple[str, ...] = ()
    """Further options of sbatch, each as --name or --name=value."""
    modules: tuple[str, ...] = ()
    """Modules loaded in the job's shell, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubernetes:
    """Options that only Kubernetes has."""

    namespace: str | None = None
    queue: str | None = None
    """Kueue's local queue."""
    pvc: str | None = None
    """Name of the claim that holds runs, data and models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """One job: the model and the data, the run's name and folders, and the parts. `planner.request.resolve` makes it
    from a Request, the files and the model."""

    model: str
    """Folder or hub id."""
    model_is_folder: bool = False
    """Whether the model was a folder when the request was read."""
    shape: ModelShape
    data: str
    """Files of JSON records, or folders of them, with commas between; trainer/data/sources.py chooses the files."""
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
    environment: tuple[tuple[str, str], ...] = ()
    """Further variables for the job's processes; they override the plan's. Never a secret."""

    resources: Resources = Resources()
    training: Training = Training()
    records: Records = Records()
    sources: Sources = Sources()
    container: Container = Container()
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()

    @classmethod
    def of(cls, **values: Any) -> JobSpec:
        """The spec with these fields, each given by its own name without its part."""
        own, parts = _by_part(values)
        made: dict[str, Any] = {part: PARTS[part](**named) for part, named in parts.items()}
        return cls(**own, **made)

    def but(self, **values: Any) -> JobSpec:
        """This spec with these fields changed, each given by its own name without its part."""
        own, parts = _by_part(values)
        return replace(self, **own, **{part: replace(getattr(self, part), **named) for part, named in parts.items()})

    def value(self, name: str) -> Any:
        """The field of that name, in whichever part it is."""
        return getattr(getattr(self, PART_OF[name]) if name in PART_OF else self, name)

    def values(self) -> dict[str, Any]:
        """All fields side by side, each by its own name."""
        return {name: self.value(name) for name in FIELDS}

    def to_dict(self) -> dict[str, Any]:
        """All fields side by side, as plain data for JSON."""
        return {**self.values(), "shape": asdict(self.shape)}

    @property
    def num_processes(self) -> int:
        return max(1, self.resources.gpus) * self.resources.nodes

    @property
    def lora_params(self) -> int:
        """Number of trainable weights."""
        training = self.training
        return self.shape.lora_params(training.lora_r, training.vision, training.lora_targets)

    @property
    def patches_per_sample(self) -> int:
        """The most rows that the tower works on for one record. A picture of any size may be as large as the record's
        tokens allow."""
        shape, pictures = self.shape, self.records.images_per_sample
        if shape.fixed_pictures or not pictures or not shape.tokens_per_image:
            return pictures * shape.vision_patches
        return -(-self.training.max_length * shape.vision_patches // shape.tokens_per_image)

    @property
    def too_short_for_pictures(self) -> str:
        """A sentence if no record with a picture can be kept; empty if one might be."""
        least, length = self.shape.tokens_per_image + FEW_WORDS, self.training.max_length
        if not self.shape.fixed_pictures or self.sources.length_source != "MAX_LENGTH" or length >= least:
            return ""
        return (
            f"MAX_LENGTH={length} leaves out every record with a picture, which alone takes "
            f"{self.shape.tokens_per_image} tokens: say at least {least}"
        )

    @property
    def assumed_pictures(self) -> str:
        """A sentence on the picture that the plan assumes where a picture takes as many tokens as its size asks for;
        empty where nothing is assumed."""
        shape, length = self.shape, self.training.max_length
        if shape.fixed_pictures or not shape.vision_patches or not self.records.images_per_sample:
            return ""
        if self.sources.length_source != "MAX_LENGTH":
            return ""
        return (
            f"How many tokens a picture takes depends on its size: {shape.tokens_per_image} at {PLANNED_PX} x "
            f"{PLANNED_PX} px. The plan holds for records of up to MAX_LENGTH={length} tokens; longer ones are left "
            "out. `python -m trainer validate data` counts yours."
        )

    @property
    def run_dir(self) -> str:
        return f"{self.output}/{self.run_id}"


PARTS: dict[str, Any] = {each.name: type(each.default) for each in fields(JobSpec) if is_dataclass(each.default)}
PART_OF = {inner.name: part for part, kind in PARTS.items() for inner in fields(kind)}
FIELDS: dict[str, Field[Any]] = {
    each.name: each for kind in (JobSpec, *PARTS.values()) for each in fields(kind) if each.name not in PARTS
}
"""All fields by their own names."""


def _by_part(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(the fields that belong to no part, the fields of each part)."""
    own = {name: value for name, value in values.items() if name not in PART_OF}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name in PART_OF:
            parts.setdefault(PART_OF[name], {})[name] = value
    return own, parts
