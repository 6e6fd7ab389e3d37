"""Makes a JobSpec of the command line, then of `.env` and the YAML file, then of the site's defaults."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from planner import values
from planner.choose import contradictions
from planner.job import JobSpec
from planner.request.asked import Request
from planner.request.file_settings import FileSettings, read_settings_files
from planner.request.site import Site, spelled_as, vram
from planner.request.variables import BY_NAME, DEFAULT_DATA, DEFAULT_MODEL, DEFAULT_OUTPUT, job_fields, parse_given
from trainer.config import LORA_PRESETS, TrainConfig
from trainer.env_file import read_env_file
from trainer.files import CACHE_NAME, once
from trainer.flags import options
from trainer.outcome import ConfigError, Problems
from trainer.text import GIB, shown

NO_SITE = Site()
PAD_TO = 8  # the collator pads batches to a multiple of this


def resolve(
    given: Mapping[str, str],
    *,
    project_dir: Path,
    environ: Mapping[str, str],
    run_suffix: str | None = None,
    site: Site = NO_SITE,
    paths_elsewhere: bool = False,
) -> JobSpec:
    """The complete request: the given values, then `.env` and the YAML file, then the site's defaults, then
    Trainyard's. Reads, besides those files, only the model's shape and the measured lengths of its data.

    Relative paths are relative to `project_dir`, where the job runs. The run's id is RUN if given, else the name and
    `run_suffix`, else the name and a hash of the rest: the same request gives the same id. `paths_elsewhere`: the job
    sees other folders than this machine, so the folder MODEL may be missing on it.

    Raises:
        ConfigError: a value that is not allowed, a model whose shape cannot be found.
    """
    problems = Problems()
    in_files = FileSettings(texts={}, sources={}, fields={})
    with problems.kept():
        in_files = read_settings_files(given, project_dir, environ)
    # A typed rank brings its own alpha, whatever alpha a file has for another rank.
    typed = {*given, *(("LORA_ALPHA",) if "LORA" in given else ())}
    below = {name: text for name, text in in_files.texts.items() if name not in typed}
    sources = {**dict.fromkeys(site.texts, site.source), **in_files.sources}
    texts = {**below, **given}
    for name, text in texts.items():
        with problems.kept(), _naming(sources, given):
            parse_given({name: text})
    defaults = Request()
    try:
        defaults = parse_given({name: text for name, text in site.texts.items() if name in BY_NAME})
    except ConfigError as error:
        problems.append(error.but(source=site.source))
    problems.refuse()
    asked, taken = _with_site(parse_given(texts), defaults)
    with _naming(sources, given):
        if "GPU_TYPE" in given and asked.gpus is None and asked.device == "cpu":
            raise ConfigError(
                "DEVICE=cpu uses no GPU", name="GPU_TYPE", given=given["GPU_TYPE"], advice="leave one of them out"
            )
        spec = _complete(
            asked, taken, in_files.fields, project_dir=project_dir, environ=environ, run_suffix=run_suffix, site=site,
            paths_elsewhere=paths_elsewhere, naming=partial(_naming, sources, given),
        )  # fmt: skip
    for contradiction in contradictions(spec):
        with problems.kept(), _naming(sources, given):
            raise contradiction
    problems.refuse()
    return spec


@contextlib.contextmanager
def _naming(sources: Mapping[str, str], given: Mapping[str, str]) -> Iterator[None]:
    """Errors about a variable that nobody typed name the source of its value."""
    try:
        yield
    except ConfigError as error:
        if error.source or error.name not in sources or error.name in given:
            raise
        raise error.but(origin=sources[error.name]) from error


def _complete(
    asked: Request,
    taken: list[str],
    more: Mapping[str, Any],
    *,
    project_dir: Path,
    environ: Mapping[str, str],
    run_suffix: str | None,
    site: Site,
    paths_elsewhere: bool,
    naming: Callable[[], AbstractContextManager[None]],
) -> JobSpec:
    """The JobSpec of the request `asked`, with `more` fields; `taken` are the names of values from the site. Errors
    within `naming` say where their values come from."""
    from trainer.architecture.shapes import resolve_shape

    fields: dict[str, Any] = {**more, **job_fields(asked)}
    for key in ("model", "data", "output", "image", "config_file"):
        if key in fields:
            fields[key] = values.expand_home(str(fields[key]), environ, name=key.upper())
    root = str(project_dir)
    if not root.isprintable() or "%" in root or "\\" in root:
        raise ConfigError(f"the checkout lies in {shown(root)}, which Slurm cannot log to: move it")

    of_gpus = (asked.gpus, asked.vram, asked.gpu_type)
    device = fields["device"] = asked.device or (site.device if of_gpus == (None, None, None) else "cuda")
    gpus = fields["gpus"] = (site.gpus if device == "cuda" else 0) if asked.gpus is None else asked.gpus
    if device == "mps":
        fields.setdefault("quantization", "none")
        if not site.apple:
            problem, advice = "that is Apple's GPU", "only make run on a Mac takes it"
            raise ConfigError(problem, name="DEVICE", given="mps", advice=advice)
    fields.setdefault("lora_alpha", 2 * (asked.lora or LORA_PRESETS["medium"]))
    fields.setdefault("cpus", 4 * max(1, gpus))
    fields.setdefault("mem_gib", max(32, 16 * gpus))
    problems = Problems()
    with problems.kept(), naming():
        fields["gpu_type"] = kind = spelled_as(asked, site)
        fields["vram_gib"], fields["vram_source"] = vram(asked, kind, site)
    if taken or site.gpu_gib:
        fields["site"] = f"{site.source}{': ' if taken else ''}{', '.join(taken)}"
    model: str = fields.setdefault("model", DEFAULT_MODEL)
    fields.setdefault("data", DEFAULT_DATA)
    fields.setdefault("output", DEFAULT_OUTPUT)
    name: str = fields.setdefault("name", values.slug(model.rstrip("/").rsplit("/", 1)[-1], 40))
    run_id: str = fields.pop("run_id", f"{name}-{run_suffix}" if run_suffix else "")

    most: int = asked.max_length or options(TrainConfig)["max_length"].default
    learn, store, cache_gib, text_only = (fields.pop(name, default) for name, default in (
        ("learn", "all"), ("feature_store", f"{fields['output']}/{CACHE_NAME}/features"), ("feature_cache_gib", None),
        ("text_only", False),
    ))  # fmt: skip
    fields |= _measured(fields["data"], model, project_dir, most=most, learn=learn)
    kept = cache_gib != 0 and fields.get("vision") != "lora"
    if kept and _filled(project_dir / store, fields["data"], model, project_dir, device=device):
        fields["features_ahead"] = True
    elif not kept or text_only:
        fields.pop("features_ahead", None)
    local = project_dir / model
    fields["model_is_folder"] = local.is_dir()
    job = {**read_env_file(project_dir / ".env"), **dict(fields.get("environment", ()))}
    place = str(local) if fields["model_is_folder"] else model
    with problems.kept(), naming():
        shape = resolve_shape(place, job=job, elsewhere=paths_elsewhere)
    problems.refuse()
    spec = JobSpec.of(shape=shape, project_dir=root, run_id=run_id, **fields)
    spec = _with_batch(spec, project_dir)
    return spec if run_id else spec.but(run_id=f"{name}-{_digest(spec)}")


def _with_site(asked: Request, defaults: Request) -> tuple[Request, list[str]]:
    """(the request with the site's `defaults` below it, names of the values that the site decided). ENVIRONMENT is
    merged."""
    own = set(asked.values) - {"ENVIRONMENT"}
    taken = [name for name in BY_NAME if name in defaults.values and name not in own]
    both = {**defaults.values, **asked.values}
    if pairs := {**dict(defaults.environment or ()), **dict(asked.environment or ())}:
        both["ENVIRONMENT"] = tuple(sorted(pairs.items()))
    return Request(values=both), taken


def _measured(data: str, model: str, project_dir: Path, *, most: int, learn: str) -> dict[str, Any]:
    """The lengths that `validate data` measured, if it was run: memory is then planned for the longest record instead
    of MAX_LENGTH, which allows `most` tokens."""
    from trainer.data.lengths import read_lengths
    from trainer.data.sources import from_folder

    found = read_lengths(from_folder(project_dir, data), model, project_dir, learn=learn)
    if found is None:
        return {}
    longest = -(-found.tokens["p100"] // PAD_TO) * PAD_TO
    length = min(most, longest)
    return {
        "max_length": length,
        "length_source": "measured" if longest <= most else "MAX_LENGTH",
        "supervised_tokens": min(found.supervised["p100"], length),
        "images_per_sample": max(1, found.pictures),
    }


def _filled(store: Path, data: str, model: str, project_dir: Path, *, device: str) -> bool:
    """Whether `python -m trainer features` has filled the store for this data and model."""
    if not os.path.isdir(store):
        return False  # as before the first run, and for data without pictures
    from trainer.data.filled import any_filled, is_there, precision_of, read_filled
    from trainer.data.lengths import data_digest
    from trainer.data.sources import from_folder

    if not any_filled(store):
        return False
    try:
        digest = once(data_digest, from_folder(project_dir, data))
    except (ConfigError, OSError):
        return False  # whoever reads the data says what is wrong with it
    found = read_filled(store, digest, model, precision_of(device), project_dir)
    return found is not None and is_there(store, found)


def _with_batch(spec: JobSpec, project_dir: Path) -> JobSpec:
    """`spec` with the result of `find-batch-size` for exactly this request, if there is one."""
    from planner.fitting import read_batch
    from trainer.data.sources import from_folder

    found = read_batch(spec, from_folder(project_dir, spec.data))
    if found is None:
        return spec
    peak = round(found.peak_bytes / GIB, 2)
    return spec.but(
        measured_with=str(found.request["config"]), measured_batch=found.micro_batch_size, measured_peak_gib=peak
    )


def _digest(spec: JobSpec) -> str:
    text = json.dumps(spec.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
