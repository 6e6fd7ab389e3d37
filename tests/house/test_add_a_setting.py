"""docs/add-a-setting.md, counted: a setting costs three files, one with a make variable five. The third and the fifth
are the setting's own test; the others are edited here in a copy of the checkout, and all the rest follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

FIELD = '''\
    label_smoothing: Annotated[float, Range(0, 0.5), Setting(swept=True, env="SMOOTHING", also="smoothing")] = 0.0
    """Share of each target that is spread over all other tokens; 0: none."""
'''
USE = """\
def smoothing(config: TrainConfig) -> float:
    return config.label_smoothing


"""
# File -> pairs of (the line before which it is put, what is put).
Edits = dict[str, tuple[tuple[str, str], ...]]
SETTING: Edits = {
    "trainer/config.py": (("    logging_steps: ", FIELD),),
    "trainer/training/layout.py": (("def defaults(", USE),),
}
VARIABLE: Edits = {
    **SETTING,
    "planner/job.py": (("    seed: int =", "    label_smoothing: float = 0.0\n"),),
    "planner/request/variables.py": (
        (
            '    Variable("SEED",',
            '    Variable("LABEL_SMOOTHING", "label_smoothing", values.setting("label_smoothing"), "smoothing (0)",\n'
            "             grid=True),\n",
        ),
    ),
}
# What a run, a sweep and a person learn of the setting; prints JSON.
ASK = """
import json
from launcher.trials import check_config
from trainer.config import TrainConfig
from trainer.settings import resolve_settings
from trainer.sweep.trial import PARAMETERS
from trainer.training.layout import COMPARED, smoothing
needed = ["--model", "m", "--data", "d", "--output_dir", "o", "--run_id", "r"]
said = resolve_settings([*needed, "--config", "train.yaml"], {})
listed = {"label_smoothing": {"values": [0.1]}}
swept = check_config({"method": "grid", "metric": {"name": "loss"}, "parameters": listed}, "s.yaml") == listed
print(json.dumps({
    "used": smoothing(said.config()), "from": said.sources["label_smoothing"], "notices": said.notices,
    "environment": resolve_settings(needed, {"SMOOTHING": "0.2"}).values["label_smoothing"],
    "compared": "label_smoothing" in COMPARED, "swept": swept and "label_smoothing" in PARAMETERS,
}))
"""


def edit(checkout: Path, edits: Edits) -> None:
    for name, pairs in edits.items():
        for place, more in pairs:
            text = (checkout / name).read_text()
            assert text.count(place) == 1, f"{name} no longer has {place!r}"
            (checkout / name).write_text(text.replace(place, more + place))


def ran(checkout: Path, *command: str, **environ: str) -> str:
    done = subprocess.run(
        command, cwd=checkout, env={"PATH": os.environ["PATH"], "HOME": str(checkout), **environ}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_setting_costs_two_files_and_its_test(checkout: Path) -> None:
    assert len(SETTING) + len(["its test"]) <= 3
    edit(checkout, SETTING)
    (checkout / "train.yaml").write_text("smoothing: 0.1\n")
    assert json.loads(ran(checkout, sys.executable, "-c", ASK)) == {
        "used": 0.1, "from": "train.yaml", "environment": 0.2, "compared": True, "swept": True,
        "notices": ["train.yaml: smoothing=0.1 is label_smoothing=0.1 here"],
    }  # fmt: skip
    text = ran(checkout, sys.executable, "-m", "trainer", "config", "--help")
    assert "  --label_smoothing  a number from 0 to 0.5 (0.0)\n      Share of each target" in text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_one_with_a_make_variable_costs_four_files_and_its_test(checkout: Path) -> None:
    assert len(VARIABLE) + len(["its test"]) <= 5
    edit(checkout, VARIABLE)
    (checkout / "train.yaml").write_text("label_smoothing: 0.3\n")
    assert "LABEL_SMOOTHING" in ran(checkout, "make", "help")
    assert "--label_smoothing 0.2 " in ran(checkout, "make", "render", "LABEL_SMOOTHING=0.2").replace("\\\n", "")
    planned = json.loads(ran(checkout, "make", "plan", "CONFIG_FILE=train.yaml", "FORMAT=json"))
    assert planned["spec"]["label_smoothing"] == 0.3
    members = json.loads(ran(checkout, "make", "plan", "GRID=LABEL_SMOOTHING=0.1,0.2", "FORMAT=json"))
    assert [member["spec"]["label_smoothing"] for member in members] == [0.1, 0.2]


@pytest.mark.slow
def test_the_page_the_comparison_of_checkpoints_and_the_tests_have_it_too(checkout: Path) -> None:
    edit(checkout, VARIABLE)
    (checkout / "docs").mkdir()
    for name in (
        "golden/test_settings_page.py", "unit/trainer/test_layout.py", "unit/planner/test_request.py", "helpers",
    ):  # fmt: skip
        source, target = ROOT / "tests" / name, checkout / "tests" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    asked = ("-q", "--noconftest", "-k", "tables_say or label_smoothing or every_variable_reaches", "tests")
    assert "5 passed" in ran(checkout, sys.executable, "-m", "pytest", *asked, TRAINYARD_REWRITE_GOLDEN="1")
    page = (checkout / "docs" / "settings.md").read_text()
    assert (
        "| `label_smoothing` | Share of each target that is spread over all other tokens; 0: none. "
        "| a number from 0 to 0.5 | `0.0` | `LABEL_SMOOTHING=`, `SMOOTHING`, `smoothing` | sweep |"
    ) in page
