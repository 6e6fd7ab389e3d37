"""From what a person typed to a JobSpec: one table of variables, read the same way by every backend.

Each variable has two spellings: a flag (`--gpu-type a100`, `--gpu-type=a100`) and, for make, `GPU_TYPE=a100`.
The Makefile hands those on in the environment as TRAINYARD_GPU_TYPE and lists the names in TRAINYARD_GIVEN. A
name that is not listed there is not read: nothing that a site exports, or another run left over, leaks in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from planner import values
from planner.choose import CONFIGS, check_request
from planner.job import JobSpec
from planner.request import scheduler_values
from planner.request.elsewhere import given_elsewhere
from planner.request.scheduler_values import named, or_none
from planner.request.secret import refuse_secret
from planner.request.site import Site, vram
from trainer.config import LORA_PRESETS, Device, Quantization, Vision
from trainer.env_file import read_env_file
from trainer.outcome import ConfigError
from trainer.text import GIB, known_are, shown

PREFIX = "TRAINYARD_"
GIVEN_ENV = "TRAINYARD_GIVEN"
DEFAULT_MODEL = "google/gemma-3-4b-it"
DEFAULT_DATA = "data"
DEFAULT_OUTPUT = "runs"
PAD_TO = 8  # the collator pads batches to a multiple of this

_NO_GPU_HINT = "; for a run without GPUs leave it out and say DEVICE=cpu"


class Variable(NamedTuple):
    """One thing that can be asked for."""

    name: str
    """As in `make plan NAME=value`."""
    field: str | None
    """The JobSpec field it sets; None for what does not change the job."""
    parse: values.Parser
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")


VARIABLES: tuple[Variable, ...] = (
    Variable("GPUS", "gpus", values.whole(1, 64, _NO_GPU_HINT), "GPUs a node (1; none with DEVICE=cpu)"),
    Variable("NODES", "nodes", values.whole(1, 1024), "machines (1)"),
    Variable("VRAM", "vram_gib", values.gib, "memory of one GPU in GiB (GPU_TYPE's, else 24)"),
    Variable("GPU_TYPE", "gpu_type", values.gpu_type, "kind of GPU, as the cluster calls it: a100, l40s, ..."),
    Variable("TIME", "time_limit_min", values.minutes, f"time limit: {values.DURATIONS} (12h)"),
    Variable("MODEL", "model", values.model, f"folder or hub id ({DEFAULT_MODEL})"),
    Variable("DATA", "data", values.path(), f"JSONL file, or folder with train.jsonl ({DEFAULT_DATA})"),
    Variable("OUTPUT", "output", values.path("%\\"), "folder that holds one folder a run (runs)"),
    Variable("NAME", "name", values.identifier(40), "the job's name (from MODEL)"),
    Variable("RUN", "run_id", values.identifier(63), "the run's id (NAME and a suffix)"),
    Variable("CONFIG", "accelerate_config", values.one_of("auto", *CONFIGS), f"auto, {', '.join(CONFIGS)}"),
    Variable("CONFIG_FILE", "config_file", values.path(), "YAML with settings (python -m trainer config --help)"),
    Variable("DEVICE", "device", values.one_of(*get_args(Device)), "cuda or cpu (cuda)"),
    Variable(
        "RUNTIME", "runtime", values.runtime, "none (the checkout's environment), or apptainer or pyxis with IMAGE"
    ),
    Variable("IMAGE", "image", or_none(values.image), "container image: a reference, a .sif or .sqsh file, a folder"),
    Variable("BINDS", "binds", scheduler_values.binds, "what containers also see: /scratch,/sets:/data/sets:ro"),
    Variable("ACCOUNT", "account", or_none(values.scheduler_name), "account to charge (the cluster's default)"),
    Variable("PARTITION", "partition", or_none(values.scheduler_name), "partition (the cluster's default)"),
    Variable("QOS", "qos", or_none(values.scheduler_name), "quality of service (the cluster's default)"),
    Variable("CONSTRAINT", "constraint", or_none(scheduler_values.constraint), "features that nodes must have"),
    Variable("EXCLUDE", "exclude", or_none(scheduler_values.hosts), "nodes to stay away from: n1,n[3-5]"),
    Variable("RESERVATION", "reservation", or_none(values.scheduler_name), "reservation to run in"),
    Variable("MAIL_USER", "mail_user", or_none(scheduler_values.mail_user), "who gets Slurm's mail"),
    Variable("MAIL_TYPE", "mail_type", or_none(scheduler_values.mail_type), "when: END,FAIL, ..."),
    Variable(
        "GPU_FLAG",
        "gpu_flag",
        values.one_of("gres", "gpus-per-node", "none"),
        "how GPUs are asked for: gres, gpus-per-node, none (gres)",
    ),
    Variable("EXTRA_FLAGS", "extra_flags", scheduler_values.extra_flags, "more for sbatch: --nice=100 --licenses=x:1"),
    Variable("MODULES", "modules", scheduler_values.modules, "modules to load: cuda/12.4,python/3.11"),
    Variable("ENVIRONMENT", "environment", scheduler_values.environment, "for the job: NCCL_DEBUG=INFO,HF_HOME=/x"),
    Variable(
        "NAMESPACE", "namespace", named(values.identifier(63)), "Kubernetes namespace (that of kubectl's context)"
    ),
    Variable("QUEUE", "queue", or_none(values.identifier(63)), "Kueue's queue (none: starts at once)"),
    Variable("PVC", "pvc", named(values.identifier(63)), "claim that holds runs, data and models (trainyard)"),
    Variable("SIZE", None, scheduler_values.quantity, "claim: its size, 200Gi"),
    Variable("SITE", None, values.path(), "file of the cluster's defaults (site.yaml in slurm/ or k8s/), or none"),
    Variable("CPUS", "cpus", values.whole(1, 1024), "CPU cores a node (4 a GPU)"),
    Variable(
        "MEM",
        "mem_gib",
        or_none(values.whole(1, 65536, " GiB or none")),
        "host memory a node in GiB, or none (16 a GPU, at least 32)",
    ),
    Variable("MAX_STEPS", "max_steps", values.setting("max_steps"), "optimizer steps (1500)"),
    Variable("LEARNING_RATE", "learning_rate", values.setting("learning_rate"), "peak learning rate (2e-4)"),
    Variable("LORA", "lora", values.one_of(*LORA_PRESETS), "LoRA preset: high, medium, low (medium)"),
    Variable("VISION", "vision", values.one_of(*get_args(Vision)), "image tower: frozen or lora (frozen)"),
    Variable("QUANTIZATION", "quantization", values.one_of(*get_args(Quantization)), "nf4 or none (nf4)"),
    Variable("EFFECTIVE_BATCH", "effective_batch_size", values.whole(1, 65536), "samples a step, all GPUs (8)"),
    Variable("MAX_LENGTH", "max_length", values.setting("max_length"), "tokens a sample, images included (1024)"),
    Variable("SEED", "seed", values.setting("seed"), "seed of everything drawn (0)"),
    Variable("GRID", None, values.text, "sweep: what members differ in: LEARNING_RATE=1e-4,2e-4 LORA=low,high"),
    Variable("SWEEP", None, values.path(), "sweep: file for W&B, or entity/project/id (wandb_sweep.yaml)"),
    Variable("TRIALS", None, values.whole(1, 256), "sweep: trials to take from W&B (12)"),
    Variable("PARALLEL", None, values.whole(1, 256), "sweep: members that run at once, at most (4)"),
    Variable("FORMAT", None, values.one_of("text", "json"), "plan: text or json (text)"),
)
OF_SWEEPS = ("GRID", "SWEEP", "TRIALS", "PARALLEL")
NO_SITE = Site()
BY_NAME = {variable.name: variable for variable in VARIABLES}
BY_FLAG = {variable.flag: variable for variable in VARIABLES}


def read_given(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Text by variable name, from flags and from make's environment; flags win. Raises ConfigError."""
    given: dict[str, str] = {}
    for name in environ.get(GIVEN_ENV, "").split():
        if name not in BY_NAME:
            raise ConfigError(f"unknown {shown(name)}{known_are(name.upper(), BY_NAME)}")
        given[name] = environ.get(PREFIX + name, "")
    words = list(argv)
    while words:
        flag, equals, text = words.pop(0).partition("=")
        if not flag.startswith("--"):
            raise ConfigError(f"unexpected {shown(flag)}: options are written --gpus 2 or --gpus=2; see --help")
        if flag not in BY_FLAG:
            raise ConfigError(f"unknown {shown(flag)}{known_are(flag.lower(), BY_FLAG)}")
        if not equals and not words:
            raise ConfigError(f"{flag} needs a value: {BY_FLAG[flag].help}")
        given[BY_FLAG[flag].name] = text if equals else words.pop(0)
    for name, text in given.items():
        refuse_secret(name, text)
        if name == "ENVIRONMENT" and text:
            BY_NAME[name].parse(name, text)  # at once: a verb that has no use for it would say it back
    return given


def parse_given(given: Mapping[str, str]) -> dict[str, object]:
    """Checked values by variable name, in the table's order."""
    for name, text in given.items():
        if not text:
            raise ConfigError(f"{name}= is empty: give a value, or leave {name} out")
        refuse_secret(name, text)
    return {name: BY_NAME[name].parse(name, given[name]) for name in BY_NAME if name in given}


def job_fields(values: Mapping[str, object]) -> dict[str, Any]:
    """JobSpec's fields from checked values by variable name. MEM=none is planned with the default and not asked for."""
    fields: dict[str, Any] = {field: value for name, value in values.items() if (field := BY_NAME[name].field)}
    if "mem_gib" in fields:
        fields["ask_mem"] = fields["mem_gib"] is not None
        if not fields["ask_mem"]:
            del fields["mem_gib"]
    return fields


def resolve(
    given: Mapping[str, str],
    *,
    project_dir: Path,
    environ: Mapping[str, str],
    run_suffix: str | None = None,
    site: Site = NO_SITE,
    paths_elsewhere: bool = False,
) -> JobSpec:
    """The complete request: what was given, then `.env` and the YAML file, then the site's defaults, then ours.

    Reads the model's shape and the lengths measured in its data, and nothing else.

    Relative paths are relative to `project_dir`, where the job runs. The run's id is RUN if given, else the
    name and `run_suffix`, else the name and a hash of the rest: the same request gives the same id.
    `paths_elsewhere`: the job sees other folders than this machine, so MODEL may be one that is not here.

    Raises:
        ConfigError: a value that is not allowed, a model whose shape cannot be found.
    """
    elsewhere = given_elsewhere(given, project_dir, environ)
    below = {name: text for name, text in elsewhere.texts.items() if name not in given}
    with _naming({**dict.fromkeys(site.texts, site.source), **elsewhere.sources}, given):
        asked, taken = _with_site(parse_given({**below, **given}), site)
        if "GPU_TYPE" in given and "GPUS" not in asked and asked.get("DEVICE") == "cpu":
            raise ConfigError(f"GPU_TYPE={given['GPU_TYPE']}: DEVICE=cpu uses no GPU: leave one of them out")
        spec = _complete(
            asked, taken, elsewhere.fields, project_dir=project_dir, environ=environ, run_suffix=run_suffix, site=site,
            paths_elsewhere=paths_elsewhere,
        )  # fmt: skip
        check_request(spec)
    return spec


@contextlib.contextmanager
def _naming(sources: Mapping[str, str], given: Mapping[str, str]) -> Iterator[None]:
    """Errors that begin with a variable which nobody typed say where its value comes from."""
    try:
        yield
    except ConfigError as error:
        name = str(error).replace("=", " ").replace(":", " ").split()[0]
        if name not in sources or name in given:
            raise
        raise ConfigError(f"{error} ({name} is from {sources[name]})") from error


def _complete(
    asked: dict[str, object],
    taken: list[str],
    more: Mapping[str, Any],
    *,
    project_dir: Path,
    environ: Mapping[str, str],
    run_suffix: str | None,
    site: Site,
    paths_elsewhere: bool,
) -> JobSpec:
    """The request of the values `asked`, `taken` of them from the site, with `more` fields."""
    from trainer.architecture.shapes import resolve_shape

    fields: dict[str, Any] = {**more, **job_fields(asked)}
    for key in ("model", "data", "output", "image", "config_file"):
        if key in fields:
            fields[key] = values.expand_home(str(fields[key]), environ)
    root = str(project_dir)
    if not root.isprintable() or "%" in root or "\\" in root:
        raise ConfigError(f"the checkout lies in {shown(root)}, which Slurm cannot log to: move it")

    gpus = int(str(fields.setdefault("gpus", 0 if fields.get("device") == "cpu" else 1)))
    fields.setdefault("cpus", 4 * max(1, gpus))
    fields.setdefault("mem_gib", max(32, 16 * gpus))
    fields["vram_gib"], fields["vram_source"] = vram(fields, site)
    if taken or site.gpu_gib:
        fields["site"] = f"{site.source}{': ' if taken else ''}{', '.join(taken)}"
    model = str(fields.setdefault("model", DEFAULT_MODEL))
    fields.setdefault("data", DEFAULT_DATA)
    fields.setdefault("output", DEFAULT_OUTPUT)
    name = str(fields.setdefault("name", values.slug(model.rstrip("/").rsplit("/", 1)[-1], 40)))
    run_id = str(fields.pop("run_id", f"{name}-{run_suffix}" if run_suffix else ""))

    fields.update(_measured(fields, project_dir, learn=fields.pop("learn", "all")))
    local = project_dir / model
    fields["model_is_folder"] = local.is_dir()
    job = {**read_env_file(project_dir / ".env"), **dict(fields.get("environment", ()))}
    place = str(local) if fields["model_is_folder"] else model
    shape = resolve_shape(place, job=job, elsewhere=paths_elsewhere)
    spec = JobSpec(shape=shape, project_dir=root, run_id=run_id, **fields)
    spec = _with_batch(spec, project_dir)
    return spec if run_id else replace(spec, run_id=f"{name}-{_digest(spec)}")


def help_text(usage: str) -> str:
    """The table of variables in both spellings."""
    rows = [f"  {v.flag:<18} {v.name:<16} {v.help}" for v in VARIABLES]
    return "\n".join([usage, "", "  flag               with make        what it is (default)", *rows, ""])


def _with_site(asked: dict[str, object], site: Site) -> tuple[dict[str, object], list[str]]:
    """(values by variable name, names of those that the site decided). ENVIRONMENT is merged."""
    try:
        defaults = parse_given(site.texts)
    except ConfigError as error:
        raise ConfigError(f"{site.source}: {error}") from error
    taken = [name for name in defaults if name not in asked or name == "ENVIRONMENT"]
    merged = {**defaults, **asked}
    if "ENVIRONMENT" in defaults and "ENVIRONMENT" in asked:
        pairs = {**dict(defaults["ENVIRONMENT"]), **dict(asked["ENVIRONMENT"])}  # type: ignore[call-overload]
        merged["ENVIRONMENT"] = tuple(sorted(pairs.items()))
    return merged, taken


def _measured(fields: Mapping[str, object], project_dir: Path, *, learn: str) -> dict[str, object]:
    """What `validate data` measured, where it did: memory is planned for the longest record, not for MAX_LENGTH."""
    from trainer.data.lengths import read_lengths

    found = read_lengths(str(project_dir / str(fields["data"])), str(fields["model"]), project_dir, learn=learn)
    if found is None:
        return {}
    asked = int(str(fields.get("max_length", JobSpec.__dataclass_fields__["max_length"].default)))
    longest = -(-found.tokens["p100"] // PAD_TO) * PAD_TO
    length = min(asked, longest)
    return {
        "max_length": length,
        "length_source": "measured" if longest <= asked else "MAX_LENGTH",
        "supervised_tokens": min(found.supervised["p100"], length),
        "images_per_sample": max(1, found.pictures),
    }


def _with_batch(spec: JobSpec, project_dir: Path) -> JobSpec:
    """With what `find-batch-size` measured for this very request, if it did."""
    from planner.fitting import read_batch

    found = read_batch(spec, str(project_dir / spec.data))
    if found is None:
        return spec
    peak = round(found.peak_bytes / GIB, 2)
    return replace(
        spec, measured_with=str(found.request["config"]), measured_batch=found.micro_batch_size, measured_peak_gib=peak
    )


def _digest(spec: JobSpec) -> str:
    text = json.dumps(asdict(spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
