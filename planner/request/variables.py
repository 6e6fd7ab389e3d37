"""The table of variables, with everything that is true of each one. Every scheduler reads the same table.

Each variable has two spellings: a flag (`--gpu-type a100`, `--gpu-type=a100`) and, for make, `GPU_TYPE=a100`.
The Makefile hands these on in the environment as TRAINYARD_GPU_TYPE and lists the names in TRAINYARD_GIVEN. Names
that are not listed there are not read, so variables that a site or another run has exported change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from planner import values
from planner.choose import CONFIGS
from planner.request import scheduler_values
from planner.request.asked import Request
from planner.request.other_names import unknown_name
from planner.request.scheduler_values import named, or_none
from planner.request.secret import refuse_secret
from trainer.config import SETTINGS, Device, Quantization, Vision
from trainer.flags import EXAMPLES
from trainer.outcome import ConfigError, Problems
from trainer.text import shown

PREFIX = "TRAINYARD_"
GIVEN_ENV = "TRAINYARD_GIVEN"
DEFAULT_MODEL = EXAMPLES["model"]
DEFAULT_DATA = "data"
DEFAULT_OUTPUT = "runs"

_NO_GPU_HINT = "; for a run without GPUs leave it out and say DEVICE=cpu"


_CUDA = dict.fromkeys(("gpu", "gpus", "nvidia"), "cuda")
# A variable's columns name schedulers as TO= does.
SLURM, K8S, LOCAL = ("slurm",), ("k8s",), ("local",)
CLUSTERS = (*SLURM, *K8S)
EVERY = (*CLUSTERS, *LOCAL)


class Variable(NamedTuple):
    """A variable of a request."""

    name: str
    """As in `make plan NAME=value`."""
    field: str | None
    """The JobSpec field that it sets; None if it does not change the job."""
    parse: values.Parser
    help: str
    takes: tuple[str, ...] = EVERY
    """The schedulers that take it; the others refuse it."""
    site: tuple[str, ...] = ()
    """The schedulers whose site file may hold it."""
    grid: bool = False
    """Members of a grid may differ in it. It changes the training alone: all members ask for the same resources."""
    resume: bool = False
    """`resume` on a cluster may change it: it decides where and how long a run runs, never what the run computes."""
    also: str = ""
    """Its names in other programs and in files, in capitals, for the refusal of such a name. Settings and the flags of
    sbatch are known without it."""
    sweeps: bool = False
    """Only `sweep` takes it, and `plan` and `render` when they show a sweep."""

    @property
    def setting(self) -> str | None:
        """The trainer's setting of the same name, if there is one."""
        return self.field if self.field in SETTINGS else None

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")


# fmt: off
VARIABLES: tuple[Variable, ...] = (
    Variable("GPUS", "gpus", values.whole(1, 64, _NO_GPU_HINT), "GPUs a node (1, TO=local: all; none on the CPU)",
             also="GPU NGPUS NUM_GPUS N_GPU NPROC_PER_NODE NUM_PROCESSES WORLD_SIZE"),
    Variable("NODES", "nodes", values.whole(1, 1024), "machines (1)",
             also="NNODES NUM_NODES NUM_MACHINES MACHINES"),
    Variable("VRAM", "vram_gib", values.gib, "memory of one GPU in GiB (GPU_TYPE's, else 24)",
             also="GPU_MEM GPU_MEMORY GPU_VRAM"),
    Variable("GPU_TYPE", "gpu_type", values.gpu_type, "kind of GPU, as the cluster calls it: a100, l40s, ...",
             site=CLUSTERS, also="GPU_NAME GPU_MODEL"),
    Variable("TIME", "time_limit_min", values.minutes, f"time limit: {values.DURATIONS} (12h; TO=local: none)",
             site=CLUSTERS, resume=True, also="TIME_LIMIT WALLTIME"),
    Variable("MODEL", "model", values.model, f"folder or hub id ({DEFAULT_MODEL})",
             grid=True),
    Variable("DATA", "data", values.path(), f"file of JSON records, or folder with train.jsonl ({DEFAULT_DATA})",
             grid=True),
    Variable("OUTPUT", "output", values.path("%\\"), "folder that holds one folder a run (runs)",
             site=SLURM, also="OUTPUT_DIR"),
    Variable("NAME", "name", values.identifier(40), "the job's name (from MODEL)"),
    Variable("RUN", "run_id", values.identifier(63), "the run's id (NAME and a suffix)",
             also="RUN_ID"),
    Variable("CONFIG", "accelerate_config", values.accelerate_config("auto", *CONFIGS), f"auto, {', '.join(CONFIGS)}",
             grid=True, also="ACCELERATE_CONFIG"),
    Variable("CONFIG_FILE", "config_file", values.path(), "YAML with settings (python -m trainer config --help)",
             grid=True, also="SETTINGS SETTINGS_FILE"),
    Variable("DEVICE", "device", values.one_of(*get_args(Device), meant=_CUDA),
             "cuda, cpu or mps; TO=local: what is there (cuda)"),
    Variable("RUNTIME", "runtime", values.runtime,
             "none (the checkout's environment), or apptainer or pyxis with IMAGE",
             takes=SLURM, site=SLURM, resume=True),
    Variable("IMAGE", "image", or_none(values.image), "container image: a reference, a .sif or .sqsh file, a folder",
             site=CLUSTERS, resume=True),
    Variable("BINDS", "binds", scheduler_values.binds, "what containers also see: /scratch,/sets:/data/sets:ro",
             takes=(*SLURM, *LOCAL), site=SLURM, resume=True),
    Variable("ACCOUNT", "account", or_none(values.scheduler_name), "account to charge (the cluster's default)",
             takes=SLURM, site=SLURM, resume=True),
    Variable("WCKEY", "wckey", or_none(values.scheduler_name), "workload characterization key, where Slurm wants one",
             takes=SLURM, site=SLURM, resume=True),
    Variable("CLUSTER", "cluster", or_none(scheduler_values.cluster), "which of several Slurm clusters (this one)",
             takes=SLURM, site=SLURM, resume=True),
    Variable("PARTITION", "partition", or_none(values.scheduler_name), "partition (the cluster's default)",
             takes=SLURM, site=SLURM, resume=True),
    Variable("QOS", "qos", or_none(values.scheduler_name), "quality of service (the cluster's default)",
             takes=SLURM, site=SLURM, resume=True),
    Variable("CONSTRAINT", "constraint", or_none(scheduler_values.constraint), "features that nodes must have",
             takes=SLURM, site=SLURM, resume=True),
    Variable("EXCLUDE", "exclude", or_none(scheduler_values.hosts), "nodes to stay away from: n1,n[3-5]",
             takes=SLURM, site=SLURM, resume=True),
    Variable("RESERVATION", "reservation", or_none(values.scheduler_name), "reservation to run in",
             takes=SLURM, site=SLURM, resume=True),
    Variable("MAIL_USER", "mail_user", or_none(scheduler_values.mail_user), "who gets Slurm's mail",
             takes=SLURM, site=SLURM, resume=True),
    Variable("MAIL_TYPE", "mail_type", or_none(scheduler_values.mail_type), "when: END,FAIL, ...",
             takes=SLURM, site=SLURM, resume=True),
    Variable("GPU_FLAG", "gpu_flag", values.one_of("gres", "gpus-per-node", "none"),
             "how GPUs are asked for: gres, gpus-per-node, none (gres)",
             takes=SLURM, site=SLURM, resume=True),
    Variable("EXTRA_FLAGS", "extra_flags", scheduler_values.extra_flags, "more for sbatch: --nice=100 --licenses=x:1",
             takes=SLURM, site=SLURM, resume=True),
    Variable("MODULES", "modules", scheduler_values.modules, "modules to load: cuda/12.4,python/3.11",
             takes=SLURM, site=SLURM, resume=True),
    Variable("ENVIRONMENT", "environment", scheduler_values.environment, "for the job: NCCL_DEBUG=INFO,HF_HOME=/x",
             site=CLUSTERS, resume=True),
    Variable("NAMESPACE", "namespace", named(values.identifier(63)), "Kubernetes namespace (that of kubectl's context)",
             takes=K8S, site=K8S),
    Variable("QUEUE", "queue", or_none(scheduler_values.object_name(63)),
             "Kueue's queue (none: starts at once)",
             takes=K8S, site=K8S, resume=True),
    Variable("PVC", "pvc", named(scheduler_values.object_name(253)),
             "claim that holds runs, data and models (trainyard)",
             takes=K8S, site=K8S),
    Variable("SIZE", None, scheduler_values.quantity, "claim: its size, 200Gi",
             takes=K8S),
    Variable("SITE", None, values.path(), "file of the cluster's defaults (site.yaml in slurm/ or k8s/), or none",
             takes=CLUSTERS),
    Variable("CPUS", "cpus", values.whole(1, 1024), "CPU cores a node (4 a GPU)",
             site=CLUSTERS, resume=True),
    Variable("MEM", "mem_gib", or_none(values.host_gib),
             "host memory a node in GiB, or none (16 a GPU, at least 32)",
             site=CLUSTERS, resume=True),
    Variable("MAX_STEPS", "max_steps", values.setting("max_steps"), "optimizer steps (1500)",
             grid=True),
    Variable("LEARNING_RATE", "learning_rate", values.setting("learning_rate"), "peak learning rate (2e-4)",
             grid=True),
    Variable("LORA", "lora_r", values.rank, "LoRA rank, or high, medium, low: 128, 64, 32 (medium)",
             grid=True),
    Variable("LORA_ALPHA", "lora_alpha", values.setting("lora_alpha"), "LoRA alpha, twice the rank (128)",
             grid=True),
    Variable("LORA_DROPOUT", "lora_dropout", values.setting("lora_dropout"), "LoRA dropout; 0 takes less memory (0.05)",
             grid=True),
    Variable("LORA_TARGETS", "lora_targets", values.setting("lora_targets"),
             "linears with adapters: all, attention, or names as in layers: q_proj,v_proj (all)",
             grid=True),
    Variable("VISION", "vision", values.one_of(*get_args(Vision)), "image tower: frozen or lora (frozen)",
             grid=True),
    Variable("QUANTIZATION", "quantization", values.one_of(*get_args(Quantization)), "nf4 or none (nf4)",
             grid=True),
    Variable("EFFECTIVE_BATCH", "effective_batch_size", values.whole(1, 65536), "samples a step, all GPUs (8)",
             grid=True, also="BATCH_SIZE GRAD_ACCUM"),
    Variable("MAX_LENGTH", "max_length", values.setting("max_length"), "tokens a sample, images included (1024)",
             grid=True),
    Variable("SEED", "seed", values.setting("seed"), "seed of everything drawn (0)",
             grid=True),
    Variable("GRID", None, values.text, "sweep: what members differ in: LEARNING_RATE=1e-4,2e-4 LORA=low,high",
             sweeps=True),
    Variable("SWEEP", None, values.path(), "sweep: file for W&B, or entity/project/id (wandb_sweep.yaml)",
             takes=(*SLURM, *LOCAL), sweeps=True),
    Variable("TRIALS", None, values.whole(1, 256), "sweep: trials to take from W&B (12)",
             takes=(*SLURM, *LOCAL), sweeps=True),
    Variable("PARALLEL", None, values.whole(1, 256), "sweep: members that run at once, at most (4)",
             takes=(*SLURM, *K8S), sweeps=True),
    Variable("FORMAT", None, values.one_of("text", "json"), "plan: text or json (text)"),
)
# fmt: on
OF_SWEEPS = tuple(variable.name for variable in VARIABLES if variable.sweeps)
BY_NAME = {variable.name: variable for variable in VARIABLES}
BY_FLAG = {variable.flag: variable for variable in VARIABLES}


def read_given(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Text by variable name, from flags and from make's environment; flags win. `--gpu-type` may be `--gpu_type`, and
    `--gpus=2` may be `GPUS=2`.

    Raises:
        ConfigError: with all unknown names, flags without a value and secrets.
    """
    given: dict[str, str] = {}
    problems = Problems()
    for name in environ.get(GIVEN_ENV, "").split():
        if name in BY_NAME:
            given[name] = environ.get(PREFIX + name, "")
        else:
            problems.append(unknown_name(name, VARIABLES))
    words = list(argv)
    while words:
        flag, equals, text = words.pop(0).partition("=")
        variable = BY_NAME.get(flag) if equals else None  # advice names variables so: GPUS=2
        variable = variable or BY_FLAG.get(flag.replace("_", "-"))
        with problems.kept():
            if not (variable or flag.startswith("--")):
                if equals and flag.isupper():
                    raise unknown_name(flag, VARIABLES)
                raise ConfigError(f"unexpected {shown(flag)}: options are written --gpus 2 or --gpus=2; see --help")
            if variable is None:
                del words[: not equals and words[:1] != [] and not words[0].startswith("--")]  # its value
                raise unknown_name(flag, VARIABLES)
            if not equals and not words:
                raise ConfigError(f"{flag} needs a value: {variable.help}", name=variable.name)
            given[variable.name] = text if equals else words.pop(0)
    for name, text in given.items():
        with problems.kept():
            refuse_secret(name, text)
            if name == "ENVIRONMENT" and text:
                BY_NAME[name].parse(name, text)  # before a verb that does not use it prints it
    problems.refuse()
    return given


def refuse_untaken(given: Mapping[str, str], scheduler: str) -> None:
    """Raises ConfigError with all given variables that the scheduler does not take."""
    problems = Problems()
    for name, text in given.items():
        takes = BY_NAME[name].takes
        if takes != EVERY and scheduler not in takes:
            said = f"is for TO={' or '.join(takes)} only, leave it out"
            problems.append(ConfigError(said, name=name, given=text))
    problems.refuse()


def parse_given(given: Mapping[str, str]) -> Request:
    """The values of the given texts. Raises ConfigError with all mistakes, in the table's order."""
    found: dict[str, Any] = {}
    problems = Problems()
    for name in BY_NAME:
        if name in given:
            with problems.kept():
                if not given[name]:
                    raise ConfigError(f"{name}= is empty: give a value, or leave {name} out", name=name)
                refuse_secret(name, given[name])
                found[name] = BY_NAME[name].parse(name, given[name])
    problems.refuse()
    return Request(values=found)


def job_fields(asked: Request) -> dict[str, Any]:
    """The JobSpec fields of a request. MEM=none is planned with the default memory, which is not asked for."""
    fields = {v.field: asked.values[v.name] for v in VARIABLES if v.field and v.name in asked.values}
    if "MEM" in asked.values:
        fields["ask_mem"] = asked.mem is not None
        if asked.mem is None:
            del fields["mem_gib"]
    return fields


def help_text(usage: str) -> str:
    """The table of variables in both spellings."""
    rows = [f"  {v.flag:<18} {v.name:<16} {v.help}" for v in VARIABLES]
    return "\n".join([usage, "", "  flag               with make        what it is (default)", *rows, ""])


def site_keys(scheduler: str) -> tuple[str, ...]:
    """The variables that a site file may hold, as the file spells them."""
    return tuple(variable.name.lower() for variable in VARIABLES if scheduler in variable.site)


def resumable(scheduler: str) -> tuple[str, ...]:
    """The variables that `resume` may change."""
    return tuple(variable.name for variable in VARIABLES if variable.resume and scheduler in variable.takes)
