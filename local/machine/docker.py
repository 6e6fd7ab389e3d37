"""`make docker-run`: does what `make run` does, in the image, by docker or podman (DOCKER=podman). The container sees
only the mounts of mounts.py and the planned GPUs of this machine; otherwise it runs as on a cluster: no capabilities,
a read-only root, the caller's user. Secrets go in as `.env`, a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher import image, starting
from launcher.mounts import Mount, cache_folder, check_mounts, env_file, mounts
from launcher.scheduler import Batch, Words
from local.render import environment
from planner.plan import Plan
from planner.values import on_disk
from trainer.architecture.hub import hub_cache
from trainer.env_file import read_env_file
from trainer.node.processes import stop_signals_kept
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, RUN_AGAIN, ConfigError

PROGRAM_ENV = "TRAINYARD_DOCKER"
HUB_DIR = f"{image.ENVIRONMENT['HF_HOME']}/hub"
STOP_TIMEOUT_S = 120  # for `docker stop`: a step, a save, and the tracker's end


def run(scheduler: Any, given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `docker-run`: plan for this machine and train on it in a container; returns the supervisor's exit
    code."""
    program = _program(environ)
    if not shutil.which(program):
        raise ConfigError(f"no {program} on PATH: install it, say DOCKER=podman, or make run, which needs neither")
    return starting.submit(replace(scheduler, in_image=True), given, environ, project_dir)


def attempts(batch: Batch, environ: Words, project_dir: Path) -> Callable[[Plan], int]:
    """A function that makes an attempt at a run of the batch in a container. Raises ConfigError when there is no
    image, or a container could not see what it needs."""
    program = _program(environ)
    environ = {**read_env_file(project_dir / ".env"), **environ}
    commands = {plan.spec.run_id: docker_command(plan, program=program, environ=environ) for plan in batch.plans}
    _check_image(batch.plans[0], program)
    # Docker would make missing folders, as root.
    for folder in (Path(cache_folder(batch.spec), "huggingface", "hub"), hub_cache(environ)):
        folder.mkdir(parents=True, exist_ok=True)
    return lambda plan: _attempt(commands[plan.spec.run_id])


def _program(environ: Words) -> str:
    return environ.get(PROGRAM_ENV) or "docker"


def docker_command(plan: Plan, *, program: str, environ: Mapping[str, str]) -> list[str]:
    """The `docker run` of the planned command. `environ`: the caller's and that of `.env`, for GPUs and the hub's
    cache.

    Raises:
        ConfigError: a path cannot be mounted, or CUDA_VISIBLE_DEVICES leaves fewer GPUs than planned.
    """
    spec = plan.spec
    check_mounts(spec)
    podman = "podman" in Path(program).name
    seen = [*mounts(spec), Mount(source=str(hub_cache(environ)), target=HUB_DIR)]
    if Path(env_file(spec).source).is_file():
        seen.append(env_file(spec))
    devices, inside = _gpus(spec.resources.gpus, environ.get("CUDA_VISIBLE_DEVICES"), podman=podman)
    return [
        *(program, "run", "--rm", "--name", f"trainyard-{spec.run_id}"),
        *("--user", f"{os.getuid()}:{os.getgid()}"),
        # In rootless podman the caller would be root; this option keeps the user numbers, and so the files' owner.
        *(("--userns", "keep-id") if podman and os.getuid() else ()),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--security-opt", "label=disable"),  # SELinux would deny the container the user's folders
        *("--tmpfs", image.TMP_DIR, "--shm-size", f"{max(1, spec.resources.mem_gib // 2)}g"),
        *("--stop-timeout", str(STOP_TIMEOUT_S)),
        *devices,
        *(word for mount in seen for word in ("--mount", _mount(mount))),
        *(word for name, value in (*environment(plan).items(), *inside) for word in ("--env", f"{name}={value}")),
        spec.container.image or image.local_name(spec.resources.device),
        *plan.launch.words(),
    ]


def _gpus(count: int, visible: str | None, *, podman: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """(options for `count` GPUs, the variable that replaces a CUDA_VISIBLE_DEVICES with the host's numbers)."""
    if not count:
        return [], []
    chosen = [word.strip() for word in (visible or "").split(",") if word.strip()][:count]
    if visible is not None and len(chosen) < count:
        raise ConfigError(
            f"{count} GPUs are asked for, CUDA_VISIBLE_DEVICES={visible} leaves {len(chosen)}: "
            f"GPUS={max(1, len(chosen))}"
        )
    if podman:
        names = chosen or [str(index) for index in range(count)]
        options = [word for name in names for word in ("--device", f"nvidia.com/gpu={name}")]
    elif chosen:
        # Docker reads this option as CSV.
        options = ["--gpus", f'"device={",".join(chosen)}"' if count > 1 else f"device={chosen[0]}"]
    else:
        options = ["--gpus", str(count)]
    renumbered = ",".join(str(index) for index in range(count))
    return options, [("CUDA_VISIBLE_DEVICES", renumbered)] if chosen else []


def _mount(mount: Mount) -> str:
    if odd := [path for path in (mount.source, mount.target) if "," in path or '"' in path]:
        raise ConfigError(f"{odd[0]}: no container can see a path with a comma or a quote: rename it")
    return f"type=bind,source={mount.source},target={mount.target}{',readonly' if mount.read_only else ''}"


def _check_image(plan: Plan, program: str) -> None:
    """Raises ConfigError for a missing image that only `make image` builds, and for a file that is no container
    image."""
    asked, device = plan.spec.container.image, plan.spec.resources.device
    if asked and on_disk(asked):
        raise ConfigError(
            f"{Path(program).name} takes registry/name:tag, or leave IMAGE out", name="IMAGE", given=asked
        )
    name = image.local_name(device)
    if asked:
        return
    found = subprocess.run([program, "image", "inspect", name], capture_output=True, text=True)
    if found.returncode:
        says = (found.stderr.strip().splitlines() or ["nothing"])[-1]
        build = f"make image{' TORCH=cpu' if device == 'cpu' else ''}"
        raise ConfigError(f"no image {name} ({Path(program).name} says: {says}): {build}, or IMAGE=registry/name:tag")


def _attempt(command: Sequence[str]) -> int:
    """Run the container to its end. Each stop signal is passed on once, and docker sends it to the supervisor."""
    process: subprocess.Popen[bytes] | None = None

    def pass_on(came: list[int]) -> None:
        if process is not None:
            process.send_signal(came[-1])

    with stop_signals_kept(pass_on):
        # In a session of its own: the terminal's Ctrl-C would reach it twice, and the second one kills.
        process = subprocess.Popen(command, start_new_session=True)
        code = process.wait()
    return code if code in (FINISHED, RUN_AGAIN, BAD_CONFIG) else FAILED
