"""The folders of a node that a container sees, the same under docker, podman, apptainer and pyxis.

A relative path lies in the checkout outside and in the image's WORK_DIR inside; an absolute path is the same on both
sides, so a plan's command is the same too. No home is mounted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher import image
from planner.job import JobSpec
from trainer.data.sources import record_folders
from trainer.files import CACHE_NAME
from trainer.outcome import ConfigError

# Places of the image; a mount above one of these would hide it.
PLACES = (image.PYTHON, f"{image.WORK_DIR}/accelerate_configs", "/usr/bin/env", "/etc/passwd", "/proc/self")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A file or folder of the node that is visible inside."""

    source: str
    target: str
    read_only: bool = False


def mounts(spec: JobSpec) -> tuple[Mount, ...]:
    """The folders visible inside besides .env and TMPDIR; parents before their children."""
    # Pictures lie beside a file of records.
    to_read = [
        *record_folders(spec.data),
        *([spec.model] if spec.model_is_folder else []),
        *filter(None, [spec.training.config_file]),
    ]
    found = [placed(spec, path, read_only=True) for path in to_read]
    found += [placed(spec, path) for path in (spec.output, *hub_home(spec))]
    found.append(Mount(source=cache_folder(spec), target=image.CACHE_DIR))
    for bind in spec.container.binds:
        source, target, mode = (*bind.split(":"), "", "")[:3]
        if target in ("ro", "rw"):
            target, mode = "", target
        found.append(Mount(source=source, target=target or source, read_only=mode == "ro"))
    by_target = {mount.target: mount for mount in found}  # the last one wins
    return tuple(by_target[target] for target in sorted(by_target))


def check_mounts(spec: JobSpec) -> None:
    """Raises ConfigError when a mount would hide files that the image needs."""
    for mount in mounts(spec):
        if hidden := [place for place in PLACES if PurePosixPath(place).is_relative_to(mount.target)]:
            raise ConfigError(
                f"{mount.source} would be mounted on {mount.target} and hide {hidden[0]} of the image: "
                "use a folder further down, or copy it to one"
            )


def placed(spec: JobSpec, path: str, *, read_only: bool = False) -> Mount:
    source, target = (os.path.normpath(os.path.join(root, path)) for root in (spec.project_dir, image.WORK_DIR))
    return Mount(source=source, target=target, read_only=read_only)


def env_file(spec: JobSpec) -> Mount:
    """The mount of .env: secrets go in as a file, read by the supervisor; the file may be missing."""
    return placed(spec, ".env", read_only=True)


def cache_folder(spec: JobSpec) -> str:
    """The cache folder beside the runs, shared by all of them."""
    return os.path.normpath(os.path.join(spec.project_dir, spec.output, CACHE_NAME))


def hub_home(spec: JobSpec) -> list[str]:
    home = dict(spec.environment).get("HF_HOME")
    return [home] if home else []
