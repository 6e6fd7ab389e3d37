"""A small image for a real Apptainer: a Python, and the toy trainer where the real image has its trainer."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from slurm_room import Room
from toy_project import make_toy_project

from launcher import image

# The installed packages that python3-psutil stands on, with all that is left of their files.
COPY = """
set -e
packages=$(apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \\
  --no-replaces --no-enhances python3-psutil bash coreutils | grep '^[a-z]' | grep -v '^\\(dpkg\\|perl\\|debconf\\)')
for name in bin sbin lib lib64; do ln -s "usr/$name" "$1/$name"; done
dpkg-query --listfiles $packages 2>/dev/null | sort -u | grep -v '^/\\(bin\\|sbin\\|lib\\|lib64\\|\\.\\)\\?$' |
  while read -r path; do if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\\n' "$path"; fi; done |
  tar --create --no-recursion --absolute-names --files-from=- | tar --extract --directory="$1" --absolute-names \\
  --transform='s,^/,./,'
"""


def make_rootfs(room: Room, folder: Path) -> Path:
    """The image's files, in a folder."""
    root = folder / "rootfs"
    for place in ("proc", "sys", "dev", "tmp", "etc", "root", "cache", image.WORK_DIR[1:], "workspace/runs"):
        (root / place).mkdir(parents=True, exist_ok=True)
    done = room.run("sh", "-c", COPY, "sh", str(root))
    assert done.returncode == 0, done.stdout
    toy = make_toy_project(folder / "toy")
    for name in ("trainer", "accelerate", "accelerate_configs"):
        shutil.copytree(toy / name, root / image.WORK_DIR[1:] / name)
    # What the supervisor reads accelerate's settings with; its part in C is for another Python.
    part_in_c = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(Path(yaml.__file__).parent, root / image.WORK_DIR[1:] / "yaml", ignore=part_in_c)
    python = Path(f"{root}{image.PYTHON}")
    python.parent.mkdir(parents=True)
    python.symlink_to("/usr/bin/python3")
    return root
