"""The site file on Slurm: `slurm/site.yaml`, or the file that SITE names; SITE=none for none."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from planner.job import JobSpec
from planner.request.site import Site, read_site
from planner.request.variables import parse_given, site_keys
from planner.values import expand_home
from trainer.outcome import ConfigError
from trainer.text import known_are

DEFAULT_SITE = "slurm/site.yaml"
# Without vram: the memory of a GPU depends on its type, and gpu_types has it.
SITE_KEYS = site_keys("slurm")


def find_site(given: Mapping[str, str], project_dir: Path, environ: Mapping[str, str]) -> Site:
    """The site's defaults; an empty Site when there is no file.

    Raises:
        ConfigError: SITE names a file that does not exist, or the file has a mistake.
    """
    asked = parse_given({name: text for name, text in given.items() if name == "SITE"}).site
    if asked == "none":
        return Site()
    source = asked or DEFAULT_SITE
    path = project_dir / expand_home(source, environ, name="SITE")
    if not asked and not path.exists():
        return Site()
    return read_site(path, source=source, keys=SITE_KEYS, user=user_name(environ))


def with_gpu_type(spec: JobSpec, site: Site) -> JobSpec:
    """`spec`, checked against the site's gpu_types. If Slurm could assign a type with too little memory, VRAM without
    GPU_TYPE becomes the smallest type that has enough.

    Raises:
        ConfigError: the site has no such type, or none with enough memory.
    """
    resources = spec.resources
    sizes, kind, needed = site.gpu_gib, resources.gpu_type, resources.vram_gib
    if not sizes or not resources.gpus or resources.device != "cuda":
        return spec
    if kind and kind not in sizes:
        known = known_are(kind, tuple(sizes))
        raise ConfigError(
            f"not in gpu_types of {site.source}{known}; add it there if it is new", name="GPU_TYPE", given=kind
        )
    fitting = [name for size, name in sorted((size, name) for name, size in sizes.items()) if size >= needed]
    if not fitting or (kind and kind not in fitting):
        which = kind or max(sizes, key=lambda name: sizes[name])
        instead = f"GPU_TYPE={fitting[0]}" if fitting else f"VRAM={max(sizes.values()):g}, or more of them with GPUS="
        said = which if kind else f"the largest GPU, {which},"
        raise ConfigError(
            f"{said} has {sizes[which]:g} GiB in {site.source}",
            name="VRAM",
            given=f"{needed:g}",
            advice=f"try {instead}",
        )
    if kind or len(fitting) == len(sizes):
        return spec
    return spec.but(gpu_type=fitting[0], vram_source=f"given: {fitting[0]} of {site.source} has it")


def user_name(environ: Mapping[str, str]) -> str:
    """The submitting user; empty when it is unknown or no name for a folder. cron and containers set no USER."""
    name = environ.get("USER") or environ.get("LOGNAME")
    if not name:
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(os.getuid()).pw_name
    return name if name and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) else ""
