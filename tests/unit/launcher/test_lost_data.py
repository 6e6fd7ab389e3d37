"""DATA that is not there is named before a refusal that another card or another number would cure."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from launcher.starting import plan, planned
from slurm.scheduler import SCHEDULER
from trainer.outcome import ConfigError


def refusal(folder: Path, *, run_suffix: str | None = None, **given: str) -> str:
    with pytest.raises(ConfigError) as caught:
        planned(SCHEDULER, {"SITE": "none", **given}, {}, folder, run_suffix=run_suffix)
    return str(caught.value)


def test_lost_data_comes_before_memory_and_before_contradictions(tmp_path: Path) -> None:
    lost = f"DATA={tmp_path}/nowhere: does not exist: "
    said = refusal(tmp_path, DATA="nowhere", VRAM="2")
    assert said.startswith(lost) and "; google/gemma-3-4b-it needs " in said
    said = refusal(tmp_path, DATA="nowhere", GPUS="3", EFFECTIVE_BATCH="8")
    assert said.startswith(lost) and "; EFFECTIVE_BATCH=8: cannot be shared evenly by 3 GPUs: try 6 or 9" in said


def test_who_begins_a_run_is_told_of_the_default_folder_too_and_who_plans_is_not(tmp_path: Path) -> None:
    assert refusal(tmp_path, VRAM="2").startswith("google/gemma-3-4b-it needs ")
    lost = f"DATA is left out, and {tmp_path}/data does not exist: for example DATA=records.jsonl"
    assert refusal(tmp_path, run_suffix="x") == lost
    (tmp_path / "data").mkdir()
    assert refusal(tmp_path, run_suffix="x", VRAM="2").startswith(f"DATA={tmp_path}/data")
    (tmp_path / "data").rmdir()
    assert refusal(tmp_path, run_suffix="x", DATA="data", VRAM="2").startswith(f"DATA={tmp_path}/data: does not exist")
    assert refusal(tmp_path, run_suffix="x", VRAM="2").startswith(f"{lost}; google/gemma-3-4b-it needs ")


def test_a_plan_that_fits_needs_no_data_and_data_that_is_there_is_not_named(tmp_path: Path) -> None:
    planned(SCHEDULER, {"SITE": "none", "DATA": "nowhere", "VRAM": "24"}, {}, tmp_path)
    (tmp_path / "some.jsonl").write_text("{}\n")
    assert refusal(tmp_path, DATA="some.jsonl", VRAM="2").startswith("google/gemma-3-4b-it needs ")


@pytest.mark.parametrize("name", ["slurm", "k8s"])
def test_a_plan_says_that_data_is_not_there_where_paths_are_of_this_machine(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = import_module(f"{name}.scheduler").SCHEDULER
    given = {"SITE": "none", "DATA": "data/gone.jsonl", "VRAM": "24"}
    plan(scheduler, given, {}, tmp_path)
    shown = capsys.readouterr()
    assert "chosen single_gpu" in shown.out
    missing = (
        f"DATA={tmp_path}/data/gone.jsonl: does not exist: give a file of JSON records, or a folder with train.jsonl"
    )
    on_slurm = f"trainyard: {missing} (the plan does without records, a run does not)\n"
    assert shown.err == {"slurm": on_slurm, "k8s": ""}[name]  # a pod's path is in the claim
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gone.jsonl").write_text("{}\n")
    plan(scheduler, given, {}, tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", ["~nosuchuser/x", "-x", " x", "a\nb", "n" * 256])
def test_a_name_that_is_refused_is_refused_once(data: str, tmp_path: Path) -> None:
    for more in ({}, {"GPUS": "0"}):
        said = refusal(tmp_path, run_suffix="x", DATA=data, **more)
        assert said.count("DATA=") == 1 and "GPUS=0" in f"{said}{'' if more else 'GPUS=0'}"
