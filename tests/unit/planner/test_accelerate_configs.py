"""The five YAML files, put to accelerate's own parser and checks."""

from __future__ import annotations

import os
from typing import Any

import pytest
import yaml
from paths import ROOT
from specs import make_spec

from planner.choose import CONFIGS, choose
from trainer.node.one_process import alone

FOLDER = ROOT / "accelerate_configs"
REQUESTS: dict[str, dict[str, Any]] = {
    "single_gpu": {},
    "single_gpu_low_mem": {},
    "multi_gpu": {"gpus": 2, "nodes": 2},
    "deepspeed_zero3": {"gpus": 2, "nodes": 2},
    "cpu_mps": {"gpus": 0, "device": "cpu"},
}
EXPECTED = {  # distributed type, precision, processes, on CPU
    "single_gpu": ("NO", "bf16", 1, False),
    "single_gpu_low_mem": ("NO", "bf16", 1, False),
    "multi_gpu": ("MULTI_GPU", "bf16", 2, False),
    "deepspeed_zero3": ("DEEPSPEED", "bf16", 2, False),
    "cpu_mps": ("NO", "no", 1, False),
}


def test_there_is_a_file_for_each_config_and_no_other() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(CONFIGS)


def test_low_mem_is_single_gpu_to_accelerate() -> None:
    one, low = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("single_gpu", "single_gpu_low_mem"))
    assert one == low


@pytest.fixture
def launch_arguments(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """What `accelerate launch` makes of a plan's command, after reading the YAML and checking both."""
    pytest.importorskip("accelerate")
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.chdir(FOLDER.parent)

    def parse(name: str, **request: Any) -> Any:
        plan = choose(make_spec(accelerate_config=name, **{**REQUESTS[name], **request}))
        for variable, value in plan.env:
            monkeypatch.setenv(variable, value)
        args = launch_command_parser().parse_args(list(plan.launch.words()[2:]))
        args, defaults, _ = _validate_launch_command(args)
        assert caplog.text == ""  # no "values were not passed and had defaults used instead"
        return plan, args, defaults

    return parse


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_accepts_each_file_and_reads_what_the_plan_says(name: str, launch_arguments: Any) -> None:
    plan, args, defaults = launch_arguments(name)
    found = (defaults.distributed_type.value, defaults.mixed_precision, defaults.num_processes, defaults.use_cpu)
    assert found == EXPECTED[name]
    assert args.mixed_precision == EXPECTED[name][1]
    assert (args.num_processes, args.num_machines) == (plan.num_processes, plan.spec.resources.nodes)
    assert (args.multi_gpu, args.use_deepspeed) == (name == "multi_gpu", name == "deepspeed_zero3")
    assert (args.module, args.training_script, args.training_script_args[:1]) == (True, "trainer.train", ["--model"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single_gpu", "single_gpu_low_mem", "cpu_mps"])
def test_a_single_process_is_started_as_accelerate_would_start_it(name: str, launch_arguments: Any) -> None:
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    plan, args, _ = launch_arguments(name)
    command, environment = prepare_simple_launcher_cmd_env(args)
    found = alone(plan.launch, os.environ)
    assert found is not None
    assert (found[0], {**os.environ, **found[1]}) == (command, environment)


@pytest.mark.slow
def test_zero3_is_stage_3_without_hostfile_pdsh_or_zero_init(launch_arguments: Any) -> None:
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    _, args, _ = launch_arguments("deepspeed_zero3", nodes=1)
    args.main_process_port, args.deepspeed_fields_from_accelerate_config = 0, ""
    command, env = prepare_deepspeed_cmd_env(args)
    assert command is None  # torchrun, not the deepspeed program
    settings = {key: value for key, value in env.items() if key.startswith("ACCELERATE_DEEPSPEED_")}
    assert settings == {
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false",
    }
    assert (args.deepspeed_multinode_launcher, args.deepspeed_hostfile) == ("standard", None)


@pytest.mark.slow
def test_offload_on_the_command_line_wins_over_the_file(launch_arguments: Any) -> None:
    plan, args, defaults = launch_arguments(
        "deepspeed_zero3", model="google/gemma-3-12b-it", gpus=2, nodes=1, vram_gib=10.5
    )
    assert plan.chosen.offload
    assert defaults.deepspeed_config["offload_optimizer_device"] == "none"
    assert args.offload_optimizer_device == "cpu"


@pytest.mark.slow
def test_one_process_without_gpu_is_told_so_whatever_the_environment_says(launch_arguments: Any) -> None:
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    for name, request in (("cpu_mps", {}), ("single_gpu", {"device": "cpu"})):
        _, args, _ = launch_arguments(name, **request)
        _, env = prepare_simple_launcher_cmd_env(args)
        assert (env["ACCELERATE_USE_CPU"], env["OMP_NUM_THREADS"]) == ("True", "4")


@pytest.mark.slow
def test_several_processes_on_pretend_gpus_stay_several(launch_arguments: Any) -> None:
    """`--cpu` would silently start one process; the environment says CPU instead."""
    from accelerate.utils.launch import prepare_multi_gpu_env

    _, args, _ = launch_arguments("multi_gpu", nodes=1, device="cpu")
    args.main_process_port = 0
    env = prepare_multi_gpu_env(args)
    assert (args.cpu, args.multi_gpu, args.nproc_per_node) == (False, True, "2")
    assert (env["ACCELERATE_USE_CPU"], env["OMP_NUM_THREADS"]) == ("true", "2")
