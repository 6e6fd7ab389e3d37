"""Small Debian systems with Slurms that Debian 12 does not have, kept in a cache folder.

    python3 tests/helpers/slurm_roots.py          # builds those that are missing: root, a mirror of Debian, minutes

Each is a folder made by debootstrap. Nothing of it is pinned, since a mirror keeps only its newest: the tests ask the
Slurm inside for its version. The standard library alone: .ci/run calls this before there is an environment.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainyard-test-roots"
BUILD = "python3 tests/helpers/slurm_roots.py"
PROGRAMS = ("debootstrap", "unshare", "nsenter", "pivot_root")
USER, USER_ID = "ada", 1000  # an ordinary one
MIRROR = "http://deb.debian.org/debian"

SLURM = ("slurmctld", "slurmd", "slurmdbd", "slurm-client", "slurm-wlm-basic-plugins", "slurm-wlm-mysql-plugin")
PACKAGES = (*SLURM, "munge", "mariadb-server", "python3", "python3-psutil", "python3-yaml", "make", "git")
APPTAINER = ("apptainer", "squashfs-tools", "squashfuse", "fuse-overlayfs", "uidmap", "fakeroot")
# By Debian's name, what stands in it: Slurm 24.11 in trixie, what is newest in sid.
SUITES = {"trixie": PACKAGES, "sid": (*PACKAGES, *APPTAINER)}

# No daemon of a package's is started, no page of a manual is kept, and nothing waits for the disk.
POLICY = "#!/bin/sh\nexit 101\n"
DPKG = "force-unsafe-io\n" + "".join(f"path-exclude=/usr/share/{name}/*\n" for name in ("doc", "man", "locale", "info"))
# A mirror of sid that is some weeks old is as good; apt would not take it.
APT = 'Acquire::Check-Valid-Until "false";\n'
INSTALL = """\
mount -t proc proc {folder}/proc
exec chroot {folder} sh -ec '
apt-get update -qq
apt-get install -y -qq --no-install-recommends {packages}
apt-get clean
useradd --create-home --uid {user_id} {user}
'
"""


def root(suite: str) -> Path:
    return CACHE / suite


def missing(suite: str) -> str:
    """Why that system cannot be entered, or nothing."""
    if os.geteuid() != 0:
        return "a system of its own takes root"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if absent := [name for name in PROGRAMS[1:] if not shutil.which(name, path=path)]:
        return f"not installed: {', '.join(absent)}"
    return "" if _complete(suite) else f"no Debian {suite} in {CACHE}: {BUILD}"


def build(suite: str) -> None:
    """Raises CalledProcessError, with what the program said in the log beside the folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _complete(suite):
            return
        folder = CACHE / f"{suite}.new"
        shutil.rmtree(folder, ignore_errors=True)
        with (CACHE / f"{suite}.log").open("w") as log:
            _run(log, "debootstrap", "--variant=minbase", suite, str(folder), MIRROR)
            (folder / "usr" / "sbin" / "policy-rc.d").write_text(POLICY)
            (folder / "usr" / "sbin" / "policy-rc.d").chmod(0o755)
            (folder / "etc" / "dpkg" / "dpkg.cfg.d" / "quick").write_text(DPKG)
            (folder / "etc" / "apt" / "apt.conf.d" / "old").write_text(APT)
            names = {"packages": " ".join(SUITES[suite]), "user": USER, "user_id": USER_ID}
            install = INSTALL.format(folder=shlex.quote(str(folder)), **names)
            _run(log, "unshare", "--mount", "sh", "-ec", install)
        (folder / ".packages").write_text(" ".join(SUITES[suite]))
        shutil.rmtree(root(suite), ignore_errors=True)
        folder.rename(root(suite))


def _complete(suite: str) -> bool:
    """Made to the end, with the packages that are asked for today."""
    try:
        return (root(suite) / ".packages").read_text() == " ".join(SUITES[suite])
    except OSError:
        return False


def _run(log: object, *words: str) -> None:
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    subprocess.run(words, env={**os.environ, **environ}, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)  # type: ignore[call-overload]


def main(suites: list[str]) -> int:
    for suite in suites or list(SUITES):
        began = time.monotonic()
        try:
            build(suite)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{suite}: {error}; see {CACHE / suite}.log", file=sys.stderr)
            return 1
        print(f"{root(suite)} ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
