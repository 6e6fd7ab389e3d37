"""Training under ZeRO-3 without a GPU, in forked ranks: most of a cold launch is imports, and test_train.py has one."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from unittest import mock

from paths import ROOT, TESTS

CONFIG = ROOT / "accelerate_configs" / "deepspeed_zero3.yaml"


def main(argv: Sequence[str]) -> int:
    """`python -m trainer.train`, with the patches of tests/zero3_on_cpu and the environment of accelerate launch, in
    which this rank takes torchrun's place."""
    assert "deepspeed" not in sys.modules
    os.environ["DS_ACCELERATOR"] = "cpu"
    del os.environ["ACCELERATE_USE_CPU"]  # run_forked's, and to accelerate a reason to leave DeepSpeed out
    from accelerate import state
    from accelerate.commands.launch import launch_command, launch_command_parser

    from trainer.train import main

    spec = importlib.util.spec_from_file_location("zero3_on_cpu", TESTS / "zero3_on_cpu" / "sitecustomize.py")
    assert spec and spec.loader
    patches = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patches)
    patches.accelerate_state(state)
    words = ["--config_file", str(CONFIG), "--num_processes", os.environ["WORLD_SIZE"], "--num_machines", "1"]
    codes: list[int] = []
    with mock.patch("torch.distributed.run.run", lambda _: codes.append(main(argv))):
        launch_command(launch_command_parser().parse_args([*words, "-m", "trainer.train"]))
    return codes[0]
