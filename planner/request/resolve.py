"""From what a person typed to a JobSpec: the command line, then `.env` and the YAML file, then the site's defaults."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from planner import values
from planner.choose import contradictions
from planner.job import JobSpec
from planner.request.elsewhere import Elsewhere, given_elsewhere
from planner.request.site import Site, vram
from planner.request.variables import BY_NAME, DEFAULT_DATA, DEFAULT_MODEL, DEFAULT_OUTPUT, job_fields, parse_given
from trainer.config import LORA_PRESETS
from trainer.env_file import read_env_file
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
    """The complete request: what was given, then `.env` and the YAML file, then the site's defaults, then ours.

    Reads the model's shape and the lengths measured in its data, and nothing else.

    Relative paths are relative to `project_dir`, where the job runs. The run's id is RUN if given, else the
    name and `run_suffix`, else the name and a hash of the rest: the same request gives the same id.
    `paths_elsewhere`: the job sees other folders than this machine, so MODEL may be one that is not here.

    Raises:
        ConfigError: a value that is not allowed, a model whose shape cannot be found.
    """
    problems = Problems()
    elsewhere = Elsewhere(texts={}, sources={}, fields={})
    with problems.kept():
        elsewhere = given_elsewhere(given, project_dir, environ)
    # A rank that is typed brings its own alpha, whatever alpha another rank had in a file.
    typed = {*given, *(("LORA_ALPHA",) if "LORA" in given else ())}
    below = {name: text for name, text in elsewhere.texts.items() if name not in typed}
    sources = {**dict.fromkeys(site.texts, site.source), **elsewhere.sources}
    found: dict[str, object] = {}
    for name, text in {**below, **given}.items():
        with problems.kept(), _naming(sources, given):
            found |= parse_given({name: text})
    with problems.kept():
        asked, taken = _with_site({name: found[name] for name in BY_NAME if name in found}, site)
    problems.refuse()
    with _naming(sources, given):
        if "GPU_TYPE" in given and "GPUS" not in asked and asked.get("DEVICE") == "cpu":
            raise ConfigError(
                f"GPU_TYPE={given['GPU_TYPE']}: DEVICE=cpu uses no GPU: leave one of them out", name="GPU_TYPE"
            )
        spec = _complete(
            asked, taken, elsewhere.fields, project_dir=project_dir, environ=environ, run_suffix=run_suffix, site=site,
            paths_elsewhere=paths_elsewhere,
        )  # fmt: skip
    for error in contradictions(spec):
        with problems.kept(), _naming(sources, given):
            raise error
    problems.refuse()
    return spec


@contextlib.contextmanager
def _naming(sources: Mapping[str, str], given: Mapping[str, str]) -> Iterator[None]:
    """Errors about a variable that nobody typed say where its value comes from."""
    try:
        yield
    except ConfigError as error:
        if error.source or error.name not in sources or error.name in given:
            raise
        raise ConfigError(f"{error} ({error.name} is from {sources[error.name]})", name=error.name) from error


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
    fields.setdefault("lora_alpha", 2 * int(fields.setdefault("lora_r", LORA_PRESETS["medium"])))
    fields.setdefault("cpus", 4 * max(1, gpus))
    fields.setdefault("mem_gib", max(32, 16 * gpus))
    problems = Problems()
    with problems.kept():
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
    with problems.kept():
        shape = resolve_shape(place, job=job, elsewhere=paths_elsewhere)
    problems.refuse()
    spec = JobSpec(shape=shape, project_dir=root, run_id=run_id, **fields)
    spec = _with_batch(spec, project_dir)
    return spec if run_id else replace(spec, run_id=f"{name}-{_digest(spec)}")


def _with_site(asked: dict[str, object], site: Site) -> tuple[dict[str, object], list[str]]:
    """(values by variable name, names of those that the site decided). ENVIRONMENT is merged."""
    try:
        defaults = parse_given({name: text for name, text in site.texts.items() if name in BY_NAME})
    except ConfigError as error:
        raise error.but(source=site.source) from None
    taken = [name for name in defaults if name not in asked or name == "ENVIRONMENT"]
    merged = {**defaults, **asked}
    if "ENVIRONMENT" in defaults and "ENVIRONMENT" in asked:
        pairs = {**dict(defaults["ENVIRONMENT"]), **dict(asked["ENVIRONMENT"])}  # type: ignore[call-overload]
        merged["ENVIRONMENT"] = tuple(sorted(pairs.items()))
    return merged, taken


def _measured(fields: Mapping[str, object], project_dir: Path, *, learn: str) -> dict[str, object]:
    """What `validate data` measured, where it did: memory is planned for the longest record, not for MAX_LENGTH."""
    from trainer.data.lengths import read_lengths
    from trainer.data.sources import from_folder

    found = read_lengths(from_folder(project_dir, str(fields["data"])), str(fields["model"]), project_dir, learn=learn)
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
    from trainer.data.sources import from_folder

    found = read_batch(spec, from_folder(project_dir, spec.data))
    if found is None:
        return spec
    peak = round(found.peak_bytes / GIB, 2)
    return replace(
        spec, measured_with=str(found.request["config"]), measured_batch=found.micro_batch_size, measured_peak_gib=peak
    )


def _digest(spec: JobSpec) -> str:
    text = json.dumps(asdict(spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
