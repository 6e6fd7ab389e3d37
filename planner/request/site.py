"""A site file: values that a cluster's admin or first user writes once, so that nobody types them again.

Every key is a variable of the request in small letters, and its text passes that variable's own check: the file only
changes defaults, and typed values override it. One more key, `gpu_types`, has the memory of the cluster's GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.request.asked import Request
from planner.request.secret import refuse_secret, refuse_secrets
from planner.request.variables import parse_given
from planner.values import GPU_GIB, NO_BF16, gib
from trainer.config import Device
from trainer.files import regular
from trainer.outcome import ConfigError, Problems, unknown
from trainer.text import known_are, shown

GPU_TYPES = "gpu_types"
ASSUMED_VRAM_GIB = 24.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Defaults of one cluster; empty without a file."""

    source: str = ""
    """The name of the file for a person."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Text by variable name."""
    gpu_gib: Mapping[str, float] = field(default_factory=dict)
    """GiB of one GPU by the type's name on this cluster."""
    device: Device = "cuda"
    """The device of a request that names neither DEVICE nor any variable of GPUs."""
    gpus: int = 1
    """GPUs a node for a request on GPUs that gives no number."""
    apple: bool = False
    """Whether DEVICE=mps is possible."""
    nested: Mapping[str, object] = field(default_factory=dict)
    """The keys that are no variables, as YAML without types; the scheduler checks them."""


def read_site(path: Path, *, source: str, keys: Sequence[str], user: str, nested: Sequence[str] = ()) -> Site:
    """The site file at `path`, which may hold `keys`, gpu_types and `nested`. Messages call it `source`. `{user}` in
    a value becomes `user`, since one file serves many: /scratch/{user}/hf.

    Raises:
        ConfigError: with all mistakes: it cannot be read, is no YAML mapping, or holds keys or values not allowed.
    """
    from trainer.yaml_file import Malformed, read_yaml  # imported late: without a site file nothing reads YAML

    try:
        regular(path)
    except FileNotFoundError:
        raise ConfigError(
            "No such file or directory",
            name="SITE",
            given=source,
            advice="make site drafts one, SITE=none does without",
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", name="SITE", given=source) from None
    known = (*keys, GPU_TYPES, *nested)

    problems = Problems()

    def check_key(key: str) -> None:
        with problems.kept():
            refuse_secret(source, key)
            if key not in known:
                raise unknown(key, known)

    content: Mapping[str, Any] = {}
    takes = f"lines of `key: value`, keys are {', '.join(known)}"
    try:
        content = read_yaml(path, source, takes=takes, check_key=check_key)
    except Malformed as error:
        problems.append(error.but(source=""))
        content = error.content
    gpu_gib: dict[str, float] = {}
    texts: dict[str, str] = {}
    for key, value in content.items():
        with problems.kept(name=key):
            if key == GPU_TYPES or key in nested:  # the other keys are variables, whose parsers refuse secrets
                refuse_secrets(key, value)
            if key == GPU_TYPES:
                gpu_gib = _gpu_types(value)
            elif key in keys and value not in ({}, []):
                texts[key.upper()] = text = _text(key, value, user)
                parse_given({key.upper(): text})
    problems.refuse(source=source)
    apart = {key: content[key] for key in nested if key in content}
    return Site(source=source, texts=texts, gpu_gib=gpu_gib, nested=apart)


def spelled_as(asked: Request, site: Site) -> str | None:
    """The requested GPU_TYPE, in the site's spelling if the site knows it."""
    sizes, kind = site.gpu_gib, asked.gpu_type
    alike = [name for name in sizes if kind and name.lower() == kind.lower()]
    if not alike or kind in sizes:
        return kind
    if len({sizes[name] for name in alike}) > 1:
        raise ConfigError(
            f"{site.source} has {' and '.join(alike)}", name="GPU_TYPE", given=kind, advice="write one of them"
        )
    return alike[-1]


def vram(asked: Request, kind: str | None, site: Site) -> tuple[float, str]:
    """(GiB of a GPU of that `kind`, the source of that number)."""
    sizes = site.gpu_gib
    spelled = {name.lower(): name for name in sizes}
    if asked.vram is not None:
        return asked.vram, "given"
    if not kind:
        # Any of the site's GPUs may be assigned: a plan for the smallest runs on all.
        least = min(sizes, key=lambda name: (sizes[name], name), default=None)
        if least is None:
            return ASSUMED_VRAM_GIB, "assumed"
        return sizes[least], f"{least} of {site.source}{', the smallest there' if len(sizes) > 1 else ''}"
    if kind in sizes:
        return sizes[kind], f"GPU_TYPE={kind} of {site.source}"
    known = (*sizes, *(name for name in GPU_GIB if name not in spelled))
    if kind.lower() not in GPU_GIB:
        raise ConfigError(f"not known{known_are(kind, known)}; for others add VRAM=<GiB>", name="GPU_TYPE", given=kind)
    return GPU_GIB[kind.lower()], f"GPU_TYPE={kind}"


def _gpu_types(content: object) -> dict[str, float]:
    if not isinstance(content, dict):
        raise ConfigError("gpu_types takes lines of `name: GiB of one GPU`")
    sizes: dict[str, float] = {}
    problems: list[ConfigError] = []
    for name, size in content.items():
        try:
            sizes[name] = _gpu_gib(name, size)
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError.of(problems)
    return sizes


def _gpu_gib(name: object, size: object) -> float:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ConfigError(f"gpu_types: {shown(str(name))} takes letters, digits and ._-")
    if name.lower() in NO_BF16:
        raise ConfigError(f"gpu_types: {name} has no bfloat16, which training needs: remove it")
    return gib(f"gpu_types: {name}", str(size))


def _text(key: str, value: object, user: str) -> str:
    """A value as `user` would type it: a,b for a list, A=1,B=2 for a mapping."""
    parts: list[str] = []
    if isinstance(value, str):
        parts = [value]
    elif isinstance(value, list):
        if any(isinstance(part, str) and part.lower() == "none" for part in value):
            raise ConfigError(f"{key}: the list holds none, which stands alone: {key}: none takes a value back")
        parts = [part for part in value if isinstance(part, str)]
    elif isinstance(value, dict):
        parts = [f"{name}={part}" for name, part in value.items() if isinstance(part, str)]
    if not parts or (not isinstance(value, str) and len(parts) != len(value)):  # type: ignore[arg-type]
        raise ConfigError(f"{key}: takes one value, or a list or mapping of values")
    if isinstance(value, dict) and any(re.search(r",[A-Za-z_][A-Za-z0-9_]*=", part) for part in parts):
        raise ConfigError(f"{key}: a value holds `,name=`, which reads as the next: reword it")
    if not isinstance(value, str) and any(not part or part.endswith("=") for part in parts):
        raise ConfigError(f"{key}: holds an empty value: remove it")
    if isinstance(value, list) and key == "environment":
        for number, part in enumerate(parts, start=1):
            if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", part):
                # The text is not repeated: it may be a token.
                raise ConfigError(f"{key}: item {number} begins with no NAME=: each takes NAME=value")
            if re.search(r",[A-Za-z_][A-Za-z0-9_]*=", part):
                raise ConfigError(f"{key}: item {number} holds `,name=`, which reads as the next: reword it")
    if not parts[0]:
        raise ConfigError(f"{key} is empty: give a value, or remove the line")
    text = ",".join(parts)
    if "{user}" in text and not user:
        raise ConfigError(f"{key} holds {{user}}, and USER is no name: set it")
    return text.replace("{user}", user)
