"""The notices about names of other trainers, from every verb that plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import k8s.scheduler
import local.scheduler
import slurm.scheduler
from launcher import command

SCHEDULERS = {module.SCHEDULER.name: module.SCHEDULER for module in (k8s.scheduler, local.scheduler, slurm.scheduler)}
TINY = ("--model", "HuggingFaceTB/SmolVLM-256M-Instruct", "--device", "cpu", "--config-file", "train.yaml")


@pytest.mark.parametrize("grid", [(), ("--grid", "SEED=1,2,3")], ids=["run", "sweep"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_plan_says_once_what_became_of_other_trainers_names(
    scheduler: str, grid: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("use_peft: true\nwarmup_ratio: 0.1\n")
    target: Any = SCHEDULERS[scheduler]
    assert command.main(target, ["plan", *TINY, *grid], {}, tmp_path) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"trainyard: {file}: warmup_ratio=0.1 is warmup_fraction=0.1 here",
        f"trainyard: {file}: use_peft is not needed: runs train LoRA adapters",
    ]
    assert "use_peft" not in said.out
