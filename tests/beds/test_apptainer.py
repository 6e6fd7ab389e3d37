"""Jobs in a real Apptainer without setuid, as an ordinary user, on the newest Slurm that Debian has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from job import Job
from paths import ROOT
from plans import ENV, make_plan
from sif import make_rootfs
from slurm_room import Room, require
from slurm_roots import USER_ID
from toy_project import read_losses, toy_argv, toy_losses

from slurm.cluster.fit import refuse_lost_image
from trainer.outcome import ConfigError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """One that an ordinary user sees into, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def room(open_folder: Path) -> Iterator[Room]:
    require("sid")
    with Room.entered("sid", open_folder / "room") as entered:
        yield entered


@pytest.fixture(scope="module")
def images(room: Room, open_folder: Path) -> dict[str, Path]:
    """The same image as a file and unpacked."""
    folder = open_folder / "image"
    folder.mkdir()
    rootfs, sif = make_rootfs(room, folder), folder / "toy.sif"
    os.chown(folder, USER_ID, USER_ID)
    quick = "--mksquashfs-args=-noI -noD -noF -noX"  # packed, not compressed
    built = room.run("apptainer", "build", quick, str(sif), str(rootfs), user=True)
    assert built.returncode == 0, built.stdout
    return {"sif": sif, "unpacked": rootfs}


@pytest.fixture(scope="module", params=["linuxproc", "pgid", "cgroup"])
def newest(request: pytest.FixtureRequest, room: Room, open_folder: Path) -> Iterator[Cluster]:
    """A cluster whose sbatch is the ordinary user's."""
    if request.param == "cgroup" and not Path("/sys/fs/cgroup/freezer").is_dir():
        reason = "this machine has no cgroups of the first version"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    room.program("sbatch", user=True)
    with room.cluster(open_folder / request.param, tracking=request.param) as running:
        yield running


@pytest.fixture
def run(newest: Cluster, open_folder: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    project = Path(tempfile.mkdtemp(prefix="project-", dir=open_folder))
    before = os.umask(0)  # what is written here the job's user goes on with
    project.chmod(0o777)
    (project / "sets").mkdir()
    (project / "sets" / "one.jsonl").touch()

    def start(image: Path) -> Job:
        plan = make_plan(
            argv=toy_argv("runs/toy-1", step_s=0.1), env=ENV, project_dir=str(project), device="cpu",
            data="sets/one.jsonl", name="toy", run_id="toy-1", gpus=1, cpus=2, mem_gib=1, runtime="apptainer",
            image=str(image),
        )  # fmt: skip
        return Job(newest, plan)

    yield start
    os.umask(before)
    shutil.rmtree(project, ignore_errors=True)


@pytest.mark.parametrize("kind", ["sif", "unpacked"])
def test_a_job_is_told_to_stop_and_goes_on_or_is_refused(
    kind: str, newest: Cluster, images: dict[str, Path], run: Any
) -> None:
    """squashfuse_ll holds a .sif mounted: under linuxproc it gets the job's signals too, and the image is gone."""
    spec = make_plan(device="cpu", runtime="apptainer", image=str(images[kind])).spec
    if kind == "sif" and "linuxproc" in newest.conf:
        with pytest.raises(ConfigError, match=r"ProctrackType=proctrack/linuxproc.*apptainer build --sandbox FOLDER"):
            refuse_lost_image(spec, newest.environ)
        return
    refuse_lost_image(spec, newest.environ)
    if kind == "unpacked" and "linuxproc" not in newest.conf:
        return  # no helper holds a folder, whatever is tracked
    job = run(images[kind])
    job.until("step 7\n")
    assert job.state["UserId"] == f"ada({USER_ID})"
    newest.run("scancel", "--signal=USR1", job.id)
    job.until_requeued()
    ended = job.run_on()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1"), job.log
    assert job.steps == list(range(1, 101))
    assert read_losses(job.run_dir) == toy_losses()


# In the place of buildah: what it would build for an hour is the small image's files; all else is buildah's own.
BUILDAH = """\
#!/bin/sh
set -eu
own() {{ command {buildah} --storage-driver vfs --root {folder}/storage --runroot {folder}/run "$@"; }}
if [ "$1" != build ]; then own "$@"; exit; fi
while [ "$1" != --tag ]; do shift; done
container=$(own from scratch)
own copy --quiet "$container" {rootfs} / >&2
own commit --quiet "$container" "$2" >&2
"""


@pytest.mark.skipif(not shutil.which("buildah") and os.environ.get("CI") != "true", reason="no buildah")
def test_make_sif_packs_what_buildah_pushes(room: Room, images: dict[str, Path], open_folder: Path) -> None:
    """docker/sif.sh, buildah's push and the ordinary user's apptainer are real."""
    folder = open_folder / "packing"
    for name in ("docker", "trainer"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    programs = folder / "programs"
    programs.mkdir()
    said = BUILDAH.format(buildah=shutil.which("buildah"), folder=folder, rootfs=images["unpacked"])
    (programs / "buildah").write_text(said)
    (programs / "buildah").chmod(0o755)
    shutil.copy2(room.program("apptainer", user=True), programs)
    folder.chmod(0o777)
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(folder), "TRAINYARD_DOCKER": "buildah",
        "TRAINYARD_TORCH": "cpu",
    }  # fmt: skip
    done = subprocess.run(["sh", "docker/sif.sh"], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sif = folder / done.stdout.strip()
    assert sif.stat().st_uid == USER_ID
    inside = room.run("apptainer", "exec", str(sif), "cat", "/workspace/accelerate/commands/launch.py", user=True)
    assert (images["unpacked"] / "workspace/accelerate/commands/launch.py").read_text() in inside.stdout
