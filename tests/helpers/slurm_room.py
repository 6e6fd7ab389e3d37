"""A Slurm of another version than this machine's: its programs and daemons run in a Debian of their own.

    with Room.entered("trixie", folder) as room, room.cluster(folder / "slurm") as cluster: cluster.run("sinfo")

The system (slurm_roots.py) is the root of a mount namespace that one process holds. It sees this machine's processes,
devices, network, temporary files and checkout, by the same paths. pivot_root, not chroot: in a chroot nobody may make a
user namespace, and an ordinary user's apptainer needs one.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import slurm_roots
from cluster import SLURM_CONF, Cluster
from paths import ROOT

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SLURM = (
    *("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct"),
    *("sacctmgr", "slurmdbd"),
)
AS_USER = (
    *("setpriv", f"--reuid={slurm_roots.USER_ID}", f"--regid={slurm_roots.USER_ID}", "--clear-groups"),
    # What is submitted is root's: read it all the same.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "env", f"HOME=/home/{slurm_roots.USER}"),
)
ENTER = """\
set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
for folder in /proc /dev /sys "$@"; do
  mkdir -p "$root$folder"
  mount --rbind "$folder" "$root$folder"
done
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/old"
cd "$root"
pivot_root . run/old
umount --lazy /run/old
# Everybody's, as where ordinary users have containers.
mknod --mode=0666 /run/fuse c 10 229
if [ -e /dev/fuse ]; then mount --bind /run/fuse /dev/fuse; fi
echo inside
exec sleep infinity
"""
# What Slurm after 22.05 no longer knows, or no longer needs.
UNKNOWN = re.compile(r"^(SwitchType|JobComp\w+|JobAcctGatherType|AccountingStorageType)=.*\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Room:
    """A Debian that is entered."""

    suite: str
    programs: Path
    """A folder of programs of this machine, each of which runs the one of its name in there."""
    pid: int

    @classmethod
    @contextlib.contextmanager
    def entered(cls, suite: str, folder: Path) -> Iterator[Room]:
        words = [str(slurm_roots.root(suite)), *dict.fromkeys([tempfile.gettempdir(), str(ROOT)])]
        environ = {**os.environ, "PATH": f"{os.environ['PATH']}:{PATH}"}
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", *words],
            env=environ, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert holder.stdout and holder.stdout.readline() == "inside\n", f"{suite} could not be entered"
            programs = folder / "programs"
            programs.mkdir(parents=True)
            room = cls(suite=suite, programs=programs, pid=holder.pid)
            # slurmd is started by unshare, which must then be the one in there.
            for name in (*SLURM, "unshare"):
                room.program(name)
            yield room
        finally:
            holder.kill()
            holder.wait()

    def program(self, name: str, *, user: bool = False) -> Path:
        """A program of this machine's that runs the one of that name in there, as root or as the ordinary user."""
        enter = f'nsenter --mount --target {self.pid} --wdns="$PWD"'
        path = self.programs / name
        path.write_text(f'#!/bin/sh\nPATH={PATH} exec {enter} {" ".join(AS_USER * user)} {name} "$@"\n')
        path.chmod(0o755)
        return path

    def run(self, *words: str, user: bool = False) -> subprocess.CompletedProcess[str]:
        """stdout and stderr together, of a program in there."""
        enter = ["nsenter", "--mount", "--target", str(self.pid), "--wdns=/", *AS_USER * user, *words]
        environ = {"PATH": f"{PATH}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            enter, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @contextlib.contextmanager
    def cluster(
        self,
        folder: Path,
        *,
        tracking: str = "linuxproc",
        more: str = "",
        before: Callable[[Cluster], None] | None = None,
    ) -> Iterator[Cluster]:
        """The cluster of cluster.py on this Slurm; `more` are lines of slurm.conf."""
        conf = UNKNOWN.sub("", SLURM_CONF).replace("proctrack/linuxproc", f"proctrack/{tracking}")
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n" if tracking == "cgroup" else "")
        with Cluster.started(folder, conf + more, self.programs, before) as running:
            yield running


def require(suite: str) -> None:
    """Skips the test where that Debian is not there, or fails it where CI=true."""
    if reason := slurm_roots.missing(suite):
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, but {reason}", pytrace=False)
        pytest.skip(reason)
