"""The site file on Slurm: `slurm/site.yaml`, or the one that SITE names; SITE=none for none."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from accelerate_configs.request.site import Site, read_site
from accelerate_configs.request.values import expand_home
from accelerate_configs.request.variables import parse_given

DEFAULT_SITE = "slurm/site.yaml"
# Not vram: what a GPU holds depends on its type, and gpu_types says it.
SITE_KEYS = (
    *("partition", "account", "qos", "time", "gpu_type", "gpu_flag", "cpus", "mem", "output", "runtime", "image"),
    *(
        "constraint",
        "exclude",
        "reservation",
        "mail_user",
        "mail_type",
        "modules",
        "environment",
        "binds",
        "extra_flags",
    ),
)


def find_site(given: Mapping[str, str], project_dir: Path, environ: Mapping[str, str]) -> Site:
    """The site's defaults, nothing where there is no file.

    Raises:
        ConfigError: SITE names a file that is not there, or the file is wrong.
    """
    asked = str(parse_given({"SITE": given["SITE"]})["SITE"]) if "SITE" in given else ""
    if asked == "none":
        return Site()
    source = asked or DEFAULT_SITE
    path = project_dir / expand_home(source, environ)
    if not asked and not path.exists():
        return Site()
    return read_site(path, source=source, keys=SITE_KEYS, user=_user(environ))


def _user(environ: Mapping[str, str]) -> str:
    """Who submits; empty when that cannot be told or is no name for a folder. cron and containers set no USER."""
    name = environ.get("USER") or environ.get("LOGNAME")
    if not name:
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(os.getuid()).pw_name
    return name if name and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) else ""
