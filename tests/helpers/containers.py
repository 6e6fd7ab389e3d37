"""Stand-ins for apptainer and for an srun with pyxis, which cannot be had here: neither pulls nor unpacks an image.

    python containers.py apptainer exec ...      python containers.py srun ...

They take the flags that the real ones take, in the same spelling, and refuse all others; what they were given is
written down; then the command runs under a root of its own, with the mounts that were asked for and no others, and
the environment by the real one's rules. The image's content is a folder beside the image file, `toy.sqsh.d`, or the
image itself where it is an unpacked one.
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS = 0x20000
# What any image would bring of its own, taken from this machine.
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys")


def fail(text: str) -> None:
    sys.exit(f"stand-in: {text}")


def enter(image: str, mounts: list[list[str]], cwd: str, environ: dict[str, str], argv: list[str]) -> None:
    """Become `argv` inside: mounts are (source, target, mode)."""
    root = content(image)
    if not Path(image).exists() or not Path(root).is_dir():
        fail(f"no image {image}")
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        fail("unshare")
    mount("--make-rprivate", "/")
    mount("--rbind", root, root)
    system = [path for path in (*SYSTEM, sys.base_prefix, sys.prefix) if Path(path).exists()]
    for source, target, mode in [*([path, path, "ro"] for path in system), *mounts]:
        inside = Path(root + target)
        if not Path(source).exists():
            fail(f"mount source {source} does not exist")
        if Path(source).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        elif not inside.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        mount("--rbind", source, str(inside))
        if mode == "ro" and source not in system:
            mount("-o", "remount,bind,ro", str(inside))
    os.chroot(root)
    os.chdir(cwd)
    os.execvpe(argv[0], argv, environ)


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"mount {words}: {done.stderr}")


def content(image: str) -> str:
    """The folder with what is in the image: beside a file, and an unpacked image itself."""
    return image if Path(image).is_dir() else image + ".d"


def image_environment(image: str) -> dict[str, str]:
    return json.loads(Path(content(image), "environment.json").read_text())


def write_down(image: str, words: list[str]) -> None:
    rank = os.environ.get("SLURM_PROCID", "srun")
    Path(f"{image}.{rank}.json").write_text(json.dumps(words))


def apptainer(words: list[str]) -> None:
    given, mounts, cwd = list(words), [], "/"
    if words.pop(0) != "exec":
        fail("only exec")
    flags = []
    while words[0].startswith("-"):
        flag = words.pop(0)
        if flag == "--mount":
            fields = dict(field.partition("=")[::2] for field in next(csv.reader([words.pop(0)], strict=True)))
            if set(fields) - {"ro"} != {"type", "source", "destination"} or fields["type"] != "bind":
                fail(f"--mount {fields}")
            mounts.append([fields["source"], fields["destination"], "ro" if "ro" in fields else "rw"])
        elif flag == "--pwd":
            cwd = words.pop(0)
        elif flag == "--no-mount":
            flags.append(f"{flag} {words.pop(0)}")
        elif flag in ("--cleanenv", "--no-eval", "--no-home", "--nv"):
            flags.append(flag)
        else:
            fail(f"unknown {flag}")
    # Else there would be more to emulate: a home, the working directory, /tmp, values run by a shell.
    if set(flags) - {"--nv"} != {"--cleanenv", "--no-eval", "--no-home", "--no-mount cwd,tmp"}:
        fail(f"flags {flags}")
    image = words.pop(0)
    write_down(image, given)
    handed = {
        name.removeprefix("APPTAINERENV_"): value
        for name, value in os.environ.items()
        if name.startswith("APPTAINERENV_")
    }
    environ = {**image_environment(image), **handed, "HOME": "/root", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    enter(image, mounts, cwd, environ, words)


PYXIS = ("image", "mounts", "workdir", "env")


def srun(words: list[str]) -> None:
    """Take what pyxis adds out of srun's options, and let the real srun start a task that goes inside."""
    first, _, others = os.environ["PATH"].partition(":")
    real = shutil.which("srun", path=others)
    if real is None or not Path(first, "srun").exists():
        fail("takes its place at the beginning of PATH")
    if words == ["--help"]:
        print("      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH")
        return
    kept, asked, switches = [], {}, set()
    while words[0].startswith("-"):
        flag, equals, value = words.pop(0).partition("=")
        if flag in ("--no-container-mount-home", "--no-container-entrypoint") and not equals:
            switches.add(flag)
        elif flag.startswith("--container-"):
            asked[flag.removeprefix("--container-")] = value
        else:
            kept.append(flag + equals + value)
    if sorted(asked) != sorted(PYXIS) or len(switches) != 2:
        fail(f"options {asked} {switches}")
    write_down(asked["image"], [f"--container-{name}={asked[name]}" for name in PYXIS])
    os.execv(real, [real, *kept, sys.executable, __file__, "pyxis", json.dumps(asked), *words])


def pyxis(words: list[str]) -> None:
    asked = json.loads(words.pop(0))
    mounts = []
    for entry in asked["mounts"].split(","):
        source, target, *mode = entry.split(":")
        if not source.startswith("/") or not target.startswith("/") or " " in entry:
            fail(f"mount {entry}")
        mounts.append([source, target, *(mode or ["rw"])])
    of_image = image_environment(asked["image"])
    # The image's own win, but for those that are named.
    named = {name: os.environ[name] for name in asked["env"].split(",") if name in os.environ}
    enter(asked["image"], mounts, asked["workdir"], {**os.environ, **of_image, **named}, words)


if __name__ == "__main__":
    {"apptainer": apptainer, "srun": srun, "pyxis": pyxis}[sys.argv[1]](sys.argv[2:])
