"""Jobs in containers: what is refused, what is mounted, and real jobs through stand-ins for apptainer and pyxis."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from job import Job, read
from paths import TESTS
from plans import ENV, make_plan
from programs import make_program, slurm
from toy_project import make_toy_project, read_losses, toy_argv, toy_losses

from launcher import image
from launcher.mounts import Mount, mounts
from planner.job import JobSpec
from slurm import submit as submitting
from slurm.render import render, run_dir
from slurm.script.runtime import check_runtime, wrapping
from trainer.outcome import ConfigError

REFERENCE = "registry.example.org/team/trainyard:0.1.0"


def spec(**request: Any) -> JobSpec:
    return make_plan(**{"runtime": "apptainer", "image": REFERENCE, **request}).spec


def test_relative_paths_are_of_the_checkout_and_absolute_ones_the_same_on_both_sides() -> None:
    asked = spec(
        data="sets/one.jsonl", model="/models/gemma", model_is_folder=True, output="../runs", config_file="c.yaml",
        environment=(("HF_HOME", "/big/hf"),), binds=("/x", "/y:/data:ro", "/z:ro"),
    )  # fmt: skip
    assert mounts(asked) == (
        Mount(source="/big/hf", target="/big/hf"),
        Mount(source="/home/ada/runs/.cache", target="/cache"),
        Mount(source="/y", target="/data", read_only=True),
        Mount(source="/models/gemma", target="/models/gemma", read_only=True),
        Mount(source="/home/ada/runs", target="/runs"),
        Mount(source="/home/ada/trainyard/c.yaml", target="/workspace/c.yaml", read_only=True),
        Mount(source="/home/ada/trainyard/sets", target="/workspace/sets", read_only=True),
        Mount(source="/x", target="/x"),
        Mount(source="/z", target="/z", read_only=True),
    )


def test_the_members_of_an_array_see_what_each_of_them_needs() -> None:
    plans = [
        make_plan(runtime="apptainer", image="a.sif", data=data, env=env)
        for data, env in (("/one", (("A", "1"),)), ("/two", (("B", "2"),)))
    ]
    wrapped = wrapping(plans)
    assert [line for line in wrapped.setup if re.search(r"source=/(one|two),", line)] == [
        "  --mount 'type=bind,source=/one,destination=/one,ro'",
        "  --mount 'type=bind,source=/two,destination=/two,ro'",
    ]
    assert " A,B,MASTER_ADDR," in wrapped.task[0]


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_the_folder_of_tmpdir_is_mounted_and_its_name_stays_outside(runtime: str) -> None:
    plan = make_plan(runtime=runtime, image=REFERENCE, env=(("NCCL_DEBUG", "INFO"), ("TMPDIR", "/big/tmp")))
    script = render(plan)
    assert "export TMPDIR=/big/tmp\n" in script and "${TMPDIR:-/tmp}" in script
    wrapped = wrapping([plan])
    assert not [text for text in (*wrapped.task, *wrapped.srun) if "TMPDIR" in text]


def test_what_is_typed_wins_over_our_own_mounts() -> None:
    by_target = {mount.target: mount for mount in mounts(spec(binds=("/fast:/cache",)))}
    assert by_target["/cache"].source == "/fast"
    assert not {m.target: m for m in mounts(spec(data="runs"))}["/workspace/runs"].read_only


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            {"image": None},
            "RUNTIME=apptainer: needs IMAGE=, a registry's name:tag, the folder of an unpacked image or a",
        ),
        ({"image": "/unpacked", "runtime": "pyxis"}, "IMAGE=/unpacked: pyxis takes a registry's name:tag or a .sqsh f"),
        ({"image": "x.sqsh"}, "IMAGE=x.sqsh: apptainer takes a registry's name:tag, the folder of"),
        ({"image": "x.sif", "runtime": "pyxis"}, "IMAGE=x.sif: pyxis takes a registry's name:tag or a .sqsh file"),
        ({"data": "records.jsonl"}, "/home/ada/trainyard would be mounted on /workspace and hide /workspace/acc"),
        ({"output": "/"}, "/ would be mounted on / and hide /opt/trainyard/bin/python"),
        ({"binds": ("/usr",)}, "/usr would be mounted on /usr and hide /usr/bin/env"),
        ({"data": "/a b", "runtime": "pyxis"}, "/a b: pyxis mounts paths of letters, digits and "),
        ({"data": "/a:b", "runtime": "pyxis"}, "/a:b: pyxis mounts"),
        ({"output": "/a,b", "runtime": "pyxis"}, "/a,b: pyxis mounts"),
        ({"data": "/$(x)", "runtime": "pyxis"}, "/$(x): pyxis mounts"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused_in_one_line(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        render(make_plan(**{"runtime": "apptainer", "image": REFERENCE, **request_}))


def test_a_folder_that_is_named_like_an_image_is_written_with_a_dot(tmp_path: Path) -> None:
    (tmp_path / "sb").mkdir()
    asked = {"runtime": "apptainer", "image": "sb", "project_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"^IMAGE=sb: a folder sb is here: write IMAGE=\./sb$"):
        render(make_plan(**asked))
    assert str(tmp_path / "sb") in render(make_plan(**{**asked, "image": "./sb"}))
    assert "docker://other" in render(make_plan(**{**asked, "image": "other"}))


def test_an_image_in_the_site_file_waits_for_a_runtime_and_a_typed_one_wants_it() -> None:
    plain = spec().but(runtime="none")
    check_runtime(plain)
    with pytest.raises(ConfigError, match=r"^IMAGE= without a container: add RUNTIME=apptainer or RUNTIME=pyxis"):
        check_runtime(plain, typed={"IMAGE": REFERENCE, "GPUS": "1"})
    check_runtime(plain.but(image=None), typed={"IMAGE": "none", "BINDS": "none"})
    done = slurm("plan", "--image", REFERENCE)
    assert (done.returncode, done.stdout) == (78, "")


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("ubuntu:22.04", "ubuntu:22.04"),
        ("team/trainyard", "team/trainyard"),
        ("localhost/a:1", "localhost#a:1"),
        ("nvcr.io:5000/team/a@sha256:" + "0" * 64, "nvcr.io:5000#team/a@sha256:" + "0" * 64),
        ("images/mine.sqsh", "/home/ada/trainyard/images/mine.sqsh"),
    ],
)
def test_pyxis_is_given_images_in_enroots_spelling(given: str, spelled: str) -> None:
    text = render(make_plan(runtime="pyxis", image=given))
    assert re.search(r"--container-image=([^ ']*)", text)[1] == spelled  # type: ignore[index]


@pytest.mark.slow
def test_submit_needs_the_image_and_no_environment(checkout: Path, tmp_path: Path) -> None:
    (checkout / "sets").mkdir()
    (checkout / "sets" / "a.png").touch()
    record = '{"image": "a.png", "context": "", "question": "q", "output": "a"}\n'
    (checkout / "sets" / "a.jsonl").write_text(record * 2)
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    make_program(path, "sbatch", "echo 7")
    make_program(path, "sinfo", "exit 1")
    argv = ("--data=sets/a.jsonl", "--runtime=apptainer", "--image=a.sif", "--run=r")
    done = slurm("submit", *argv, cwd=checkout, PATH=path)
    said = f"trainyard: IMAGE=a.sif: {checkout / 'a.sif'} is not there: the nodes could not run it\n"
    assert (done.returncode, done.stdout, done.stderr) == (78, "", said)
    (checkout / "a.sif").touch()
    for file, text, said in (
        (".env", "HF_HOME=/big/hf\n", ".env says HF_HOME=/big/hf, which a container would not see: say ENVIRONMENT="),
        (".env", "IMAGE_ROOT=/pictures\n", "image_root=/pictures: would not be seen in the container: add BINDS=/pict"),
        (".env", f"CONFIG_FILE={checkout}/a.yaml\n", f"image_root=pics: would not be seen in the container: add BINDS="
         f"{checkout}/pics:/workspace/pics"),
    ):  # fmt: skip
        (checkout / "a.yaml").write_text("image_root: pics\n")
        (checkout / file).write_text(text)
        done = slurm("submit", *argv, cwd=checkout, PATH=path)
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.startswith(f"trainyard: {said}"), done.stderr
    (checkout / ".env").unlink()
    done = slurm("submit", *argv, cwd=checkout, PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout / "runs" / "r" / "job.sbatch").is_file() and not (checkout / ".venv" / "cuda").exists()


@pytest.mark.parametrize(
    ("tracking", "image_", "code"),
    [
        ("proctrack/linuxproc", "a.sif", 78),
        ("proctrack/linuxproc", REFERENCE, 78),  # apptainer makes a .sif of it
        ("proctrack/linuxproc", "./unpacked", 0),
        ("proctrack/pgid", "a.sif", 0),
        ("proctrack/cgroup", "a.sif", 0),
        ("", "a.sif", 0),  # Slurm does not say
    ],
)
def test_an_image_that_the_stop_signal_would_take_away_is_refused_before_anything_is_made(
    tracking: str, image_: str, code: int, checkout: Path, tmp_path: Path
) -> None:
    """Seen with apptainer 1.4.5 without setuid: under linuxproc squashfuse_ll gets USR1 too, and the image is gone."""
    (checkout / "sets").mkdir()
    (checkout / "sets" / "a.jsonl").write_text(
        '{"image": "a.png", "context": "", "question": "q", "output": "a"}\n' * 2
    )
    (checkout / "sets" / "a.png").touch()
    (checkout / "a.sif").touch()
    (checkout / "unpacked").mkdir()
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for name, answer in (("sbatch", "echo 7"), ("sinfo", "exit 1")):
        make_program(path, name, answer)
    make_program(path, "scontrol", f"echo 'ProctrackType           = {tracking}'" if tracking else "exit 1")
    argv = ("--data=sets/a.jsonl", "--runtime=apptainer", f"--image={image_}")
    done = slurm("submit", *argv, cwd=checkout, PATH=path)
    assert (done.returncode, "job id  7 (" in done.stdout) == (code, not code)
    assert f"(ProctrackType={tracking}) sends the signal to stop to the process that holds" in done.stderr or not code


# What an image could bring that must not win, and what it brings of its own.
BAKED = {**image.ENVIRONMENT, "OMP_NUM_THREADS": "99", "OF_THE_IMAGE": "1"}


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Job, Path]]:
    """A job of the toy in the image; its checkout has no environment and no trainer that could be used instead."""
    tools, stand_in = tmp_path / "tools", TESTS / "helpers" / "containers.py"
    tools.mkdir()

    def rendered(batch: Any) -> str:
        return render(batch.plans[0]).replace(
            "set -eu\n", f"set -eu\nPATH={tools}:$PATH\nexport HF_TOKEN=of-the-shell\n"
        )

    monkeypatch.setattr(submitting, "render_batch", rendered)

    def run(runtime: str, folder: str, **request: Any) -> tuple[Job, Path]:
        name = "apptainer" if runtime == "apptainer" else "srun"
        make_program(str(tools), name, f"exec '{sys.executable}' '{stand_in}' {name} \"$@\"")
        project = tmp_path / folder
        (project / "sets").mkdir(parents=True)
        (project / "sets" / "one.jsonl").touch()
        # Unpacked, as this cluster needs it: its proctrack/linuxproc signals whoever holds an image mounted.
        file = tmp_path / ("unpacked" if runtime == "apptainer" else "toy.sqsh")
        content = file if runtime == "apptainer" else Path(f"{file}.d")
        content.mkdir()
        file.touch()
        toy = make_toy_project(tmp_path / "toy")
        for name in ("trainer", "accelerate"):
            shutil.copytree(toy / name, content / image.WORK_DIR[1:] / name)
        (content / "environment.json").write_text(json.dumps(BAKED))
        python = Path(f"{content}{image.PYTHON}")
        python.parent.mkdir(parents=True)
        shutil.copy(toy / ".venv" / "cpu" / "bin" / "python", python)
        values: dict[str, Any] = {
            "project_dir": str(project), "device": "cpu", "data": "sets/one.jsonl", "name": "toy", "run_id": "toy-1",
            "gpus": 1, "cpus": 2, "mem_gib": 1, "runtime": runtime, "image": str(file), **request,
        }  # fmt: skip
        nodes = values.get("nodes", 1)
        argv = toy_argv("runs/toy-1", processes=nodes, nodes=nodes, step_s=0.1)
        (project / ".env").write_text("HF_TOKEN=canary\n")
        return Job(cluster, make_plan(argv=argv, env=(*ENV, ("TEXT", "two 'words', $(x)")), **values)), file

    return run


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("runtime", "folder", "nodes"),
    [("apptainer", 'it\'s "a", toy: 1', 1), ("apptainer", "toy", 2), ("pyxis", "toy", 1)],
)
def test_a_real_job_stops_and_goes_on_inside(
    runtime: str, folder: str, nodes: int, cluster: Cluster, start: Callable[..., tuple[Job, Path]]
) -> None:
    binds = ("/usr/share:/shared:ro",)
    job, file = start(runtime, folder, nodes=nodes, binds=binds)
    job.until("step 7\n")
    rank = Path("/proc", re.findall(r"attempt of (\d+)", job.log)[0])
    environ = dict(pair.split("=", 1) for pair in read(rank / "environ").split("\0") if "=" in pair)
    seen = {name: environ.get(name) for name in ("HOME", "OMP_NUM_THREADS", "TEXT", "TMPDIR", "OF_THE_IMAGE")}
    assert seen == {
        "HOME": "/cache/home", "OMP_NUM_THREADS": "4", "TEXT": "two 'words', $(x)", "TMPDIR": "/tmp",
        "OF_THE_IMAGE": "1",
    }  # fmt: skip
    if runtime == "apptainer":  # pyxis hands in the whole environment of the task
        assert environ["HF_TOKEN"] == "canary"
        assert not {"USER", "LOGNAME", "SHELL", "LANG"} & set(environ)
    inside = rank / "root"
    assert (rank / "cwd").samefile(inside / "workspace")
    assert sorted(path.name for path in (inside / "workspace").iterdir()) == [
        ".env", "accelerate", "runs", "sets", "trainer",
    ]  # fmt: skip
    assert (inside / "shared").is_dir()
    cluster.run("scancel", "--signal=USR1", job.id)
    job.until_requeued()
    ended = job.run_on()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert job.steps == list(range(1, 101))
    assert read_losses(job.run_dir) == toy_losses()
    given = [json.loads(read(path)) for path in file.parent.glob(f"{file.name}.*.json")]
    assert len(given) == nodes and "canary" not in str(given)
    assert Path(run_dir(spec(project_dir=str(job.run_dir.parents[1]), run_id="toy-1"))) == job.run_dir


@pytest.mark.cluster
def test_without_apptainer_on_the_node_the_job_ends_as_a_wrong_configuration(cluster: Cluster, tmp_path: Path) -> None:
    request = {"project_dir": str(tmp_path), "data": "sets", "gpus": 0, "device": "cpu", "mem_gib": 1, "cpus": 1}
    for runtime, said in (("apptainer", "apptainer is not on PATH"), ("pyxis", "srun knows no containers")):
        job = Job(cluster, make_plan(runtime=runtime, image=REFERENCE, run_id=runtime, **request))
        ended = job.run_on()
        assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "78:0")
        assert said in job.log
