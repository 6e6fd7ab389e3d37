"""One JobSpec, three launchers: the Slurm script, the manifest and the docker command start the same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import manifests
import pytest
from manifests import IMAGE
from pods import expanded
from specs import make_spec
from stubbed import run_with_stubs

from k8s import render
from k8s.manifest.site import Cluster
from local.machine.docker import docker_command
from planner.choose import choose
from planner.plan import Plan

SPECS: dict[str, dict[str, Any]] = {
    "one_gpu": {"gpus": 1},
    "four_gpus": {"gpus": 4, "vram_gib": 80.0, "learning_rate": 1e-5, "time_limit_min": 90},
    "no_gpu": {"gpus": 0, "device": "cpu", "mem_gib": 64, "environment": (("NCCL_DEBUG", "$(HOME) it's"),)},
}
# What one launcher sets for its own sake: where the nodes meet, when the time is up, how output is written.
OWN = ("PYTHONUNBUFFERED", "TRAINYARD_STOP_LEAD_S", "TRAINYARD_TIME_LIMIT_S", "TRAINYARD_RUN_RECORD")


def in_slurm(plan: Plan, folder: Path) -> tuple[list[str], dict[str, str]]:
    """(arguments, environment) of the supervisor when bash runs the script."""
    argv, environment = run_with_stubs(plan, folder)
    return argv[argv.index("--") + 1 :], environment


def in_pod(plan: Plan) -> tuple[list[str], dict[str, str]]:
    here = Path("/nowhere")
    decided = render.plan(render.complete(plan.spec, Cluster(), here, hashed=False), Cluster(), here)
    (container,) = manifests.pod_of(manifests.load(render.render(decided, Cluster(), here)))["containers"]
    values = {v["name"]: expanded(v["value"], {"HOME": "ran"}) for v in container["env"] if "value" in v}
    assert decided.to_dict() | {"spec": None} == plan.to_dict() | {"spec": None}
    return [expanded(word, values) for word in container["args"]], values


def in_docker(plan: Plan) -> tuple[list[str], dict[str, str]]:
    words = docker_command(plan, program="docker", environ={"HOME": "/home/ada"})
    pairs = [words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--env"]
    return words[words.index(IMAGE) + 1 :], {name: value for name, value in pairs}


@pytest.mark.parametrize("name", SPECS)
def test_three_launchers_start_the_same_training(name: str, tmp_path: Path) -> None:
    plan = choose(make_spec(image=IMAGE, run_id="mine", project_dir=str(tmp_path / "project"), **SPECS[name]))
    slurm, pod, docker = in_slurm(plan, tmp_path), in_pod(plan), in_docker(plan)
    assert slurm[0] == pod[0] == docker[0] == list(plan.launch.words())
    assert pod[0][pod[0].index("--run_id") + 1] == "mine"
    assert {key: slurm[1][key] for key, _ in plan.env} == dict(plan.env)
    assert {key: value for key, value in docker[1].items() if key not in OWN} == dict(plan.env)
    assert {key: value for key, value in pod[1].items() if key not in OWN} == dict(plan.env)
