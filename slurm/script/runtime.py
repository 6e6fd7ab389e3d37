"""The runtime of a task: the checkout's environment, or the image of launcher/image.py under apptainer or pyxis.

launcher/mounts.py says what a container sees. What a task needs of the environment is handed in by name, since
apptainer keeps out everything else and pyxis lets the image's own values win.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher import image
from launcher.mounts import Mount, cache_folder, check_mounts, env_file, hub_home, mounts, placed
from planner.job import JobSpec
from planner.plan import Plan
from planner.values import on_disk
from trainer.outcome import BAD_CONFIG, ConfigError

# Set in the batch shell for every task.
OURS = (
    *("MASTER_ADDR", "MASTER_PORT", "PYTHONUNBUFFERED"),
    *("TRAINYARD_DEADLINE", "TRAINYARD_STATUS_FILE", "TRAINYARD_STOP_LEAD_S"),
)
# apptainer is given a variable by a prefix to its name. In the task, where Slurm's differ from node to node.
HAND_IN = (
    'for name in "${!SLURM@}" CUDA_VISIBLE_DEVICES ${0//,/ }; do '
    '[ -z "${!name+x}" ] || export "APPTAINERENV_$name=${!name}"; done; exec "$@"'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrapping:
    """The parts that a runtime adds to the script, as quoted shell text."""

    setup: tuple[str, ...] = ()
    """Lines of the batch shell, in the checkout."""
    status_file: str = "$status_file"
    """The file for the exit code, as the tasks see it."""
    before_srun: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()
    """Options of srun."""
    task: tuple[str, ...]
    """Lines of the command that becomes the supervisor and takes the planned command as its arguments."""


def wrapping(plans: Sequence[Plan]) -> Wrapping:
    """The runtime's parts for a job, or for the similar members of an array. Raises ConfigError as check_runtime."""
    for plan in plans:
        check_runtime(plan.spec)
    # The node's TMPDIR is mounted where the image's own says.
    names = sorted({*OURS, *(name for plan in plans for name, _ in plan.env)} - {"TMPDIR"})
    places = {mount.target: mount for plan in plans for mount in mounts(plan.spec)}
    way = {"none": _none, "apptainer": _apptainer, "pyxis": _pyxis}[plans[0].spec.slurm.runtime]
    return way(plans[0].spec, names, [places[target] for target in sorted(places)])


def check_runtime(spec: JobSpec, typed: Iterable[str] = ()) -> None:
    """Raises ConfigError when the runtime and the image do not go together; `typed` are names of typed variables. An
    image in the site file is ignored without a runtime; a typed image without a runtime is refused."""
    runtime, image = spec.slurm.runtime, spec.container.image
    if runtime == "none":
        if odd := [
            name for name, said in (("IMAGE", image), ("BINDS", spec.container.binds)) if said and name in typed
        ]:
            raise ConfigError(
                f"{odd[0]}= without a container: add RUNTIME=apptainer or RUNTIME=pyxis, whichever the cluster has"
            )
        return
    takes = f"a registry's name:tag{', the folder of an unpacked image' * (runtime == 'apptainer')}"
    takes += f" or a {FILES[runtime]} file"
    if image is None:
        raise ConfigError(f"needs IMAGE=, {takes}", name="RUNTIME", given=runtime)
    if runtime == "apptainer" and not on_disk(image) and Path(spec.project_dir, image).is_dir():
        raise ConfigError(f"a folder {image} is here", name="IMAGE", given=image, advice=f"write IMAGE=./{image}")
    if on_disk(image) and not image.endswith(FILES[runtime]) and not is_unpacked(spec):
        raise ConfigError(f"{runtime} takes {takes}", name="IMAGE", given=image)
    check_mounts(spec)
    for mount in mounts(spec):
        odd = [path for path in (mount.source, mount.target) if not re.fullmatch(r"[\w./@%+=~-]+", path)]
        if odd and runtime == "pyxis":
            raise ConfigError(f"{odd[0]}: pyxis mounts paths of letters, digits and ._/@%+=~- only: use another folder")


# The kind of image file by the runtime that takes it.
FILES = {"apptainer": ".sif", "pyxis": ".sqsh"}


def image_file(spec: JobSpec) -> Path | None:
    """The path of a container's image on disk; None without a container, or for an image in a registry."""
    image = spec.container.image
    if spec.slurm.runtime == "none" or image is None or not on_disk(image):
        return None
    return Path(spec.project_dir, image)


def is_unpacked(spec: JobSpec) -> bool:
    """Whether the image is a folder, from which apptainer runs directly, so that no process must keep it mounted."""
    image = spec.container.image or ""
    return spec.slurm.runtime == "apptainer" and on_disk(image) and not image.endswith((".sif", ".sqsh"))


def _supervise(python: str) -> str:
    return shlex.join([python, *image.SUPERVISE[1:]])


def job_python(spec: JobSpec) -> str:
    """The absolute path of the Python in the checkout's environment for the job's device, since the site decides
    PATH."""
    return os.path.join(spec.project_dir, ".venv", spec.resources.device, "bin", "python")


def _none(spec: JobSpec, names: list[str], places: list[Mount]) -> Wrapping:
    return Wrapping(task=(_supervise(job_python(spec)),))


def _apptainer(spec: JobSpec, names: list[str], places: list[Mount]) -> Wrapping:
    """The parts for apptainer. --contain and --pid are left out on purpose: a minimal /dev would lack InfiniBand, and
    the supervisor itself ends all processes."""
    reference = str(image_file(spec) or f"docker://{spec.container.image}")
    options = [
        *("--cleanenv", "--no-eval", "--no-home", "--no-mount", "cwd,tmp"),
        *(["--nv"] if spec.resources.device == "cuda" else []),
    ]
    return Wrapping(
        setup=(
            *_made(spec),
            *_needed("command -v apptainer", "apptainer is not on PATH: say MODULES=apptainer, or what it is called"),
            "mounts=(",
            *(f"  --mount {_csv(mount)}" for mount in places),
            f'  --mount "type=bind,source=${{TMPDIR:-/tmp}},destination={image.TMP_DIR}"',
            ")",
            f"if [ -f .env ]; then mounts+=(--mount {_csv(env_file(spec))}); fi",
        ),
        status_file=_status_inside(),
        before_srun=("# shellcheck disable=SC2016  # it is for the tasks' shells",),
        task=(
            shlex.join(["bash", "-c", HAND_IN, ",".join(names)]),
            f'{shlex.join(["apptainer", "exec", *options])} "${{mounts[@]}}"',
            shlex.join(["--pwd", image.WORK_DIR, reference]),
            # apptainer sets HOME itself, to one that is not there.
            f"{shlex.join(['env', 'HOME=' + image.ENVIRONMENT['HOME']])} {_supervise(image.PYTHON)}",
        ),
    )  # fmt: skip


def _pyxis(spec: JobSpec, names: list[str], places: list[Mount]) -> Wrapping:
    *always, secrets = (
        f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}" for mount in (*places, env_file(spec))
    )
    gpus = (
        "# enroot gives GPUs to a container only where these are set.",
        'export NVIDIA_VISIBLE_DEVICES="${NVIDIA_VISIBLE_DEVICES:-all}"',
        'export NVIDIA_DRIVER_CAPABILITIES="${NVIDIA_DRIVER_CAPABILITIES:-compute,utility}"',
    )
    return Wrapping(
        setup=(
            *_made(spec),
            *_needed(
                "srun --help | grep -e --container-image",
                "this cluster's srun knows no containers (pyxis): say RUNTIME=apptainer or RUNTIME=none",
            ),
            *(gpus if spec.resources.device == "cuda" else ()),
            f'mounts={shlex.quote(",".join(always))}",${{TMPDIR:-/tmp}}:{image.TMP_DIR}"',
            f"if [ -f .env ]; then mounts+={shlex.quote(',' + secrets)}; fi",
        ),
        status_file=_status_inside(),
        srun=(
            shlex.quote(f"--container-image={image_file(spec) or _enroot(str(spec.container.image))}"),
            '--container-mounts="$mounts"',
            f"--container-workdir={image.WORK_DIR}",
            "--no-container-mount-home",
            "--no-container-entrypoint",
            f"--container-env={','.join(names)}",
        ),
        task=(_supervise(image.PYTHON),),
    )  # fmt: skip


def _made(spec: JobSpec) -> tuple[str, ...]:
    folders = [os.path.join(cache_folder(spec), "home"), *(placed(spec, home).source for home in hub_home(spec))]
    return (
        f"# Inside, {image.WORK_DIR} is the checkout, for relative paths. What is mounted must be there.",
        f"mkdir -p {shlex.join(folders)}",
    )


def _needed(question: str, otherwise: str) -> tuple[str, ...]:
    complaint = shlex.quote(f"trainyard: {otherwise}")
    return (f"{question} >/dev/null 2>&1 || {{ echo {complaint} >&2; exit {BAD_CONFIG}; }}",)


def _status_inside() -> str:
    """The path of mktemp's file inside the container, where TMPDIR is mounted."""
    return image.TMP_DIR + "/${status_file##*/}"


def _csv(mount: Mount) -> str:
    """A mount for apptainer's --mount, which reads a line of CSV, so that any path can be written. Always quoted."""
    import csv

    line = io.StringIO()
    flag = ["ro"] if mount.read_only else []
    fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}", *flag]
    csv.writer(line, lineterminator="").writerow(fields)
    return "'" + line.getvalue().replace("'", "'\\''") + "'"


def _enroot(reference: str) -> str:
    """registry/name:tag in enroot's form, registry#name:tag."""
    host, slash, rest = reference.partition("/")
    is_host = slash and ("." in host or ":" in host or host == "localhost")
    return f"{host}#{rest}" if is_host else reference
