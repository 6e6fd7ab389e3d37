"""What the Trainer is told at its steps, and what a checkpoint leaves that could not be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
from transformers import TrainerControl, TrainerState, TrainingArguments

from trainer.node.ranks import Ranks
from trainer.node.stop import FLAG, Stop
from trainer.outcome import ATTEMPT_DIR_ENV
from trainer.training.callbacks import Steps
from trainer.training.checkpoint import CheckpointError, CheckpointStore


@pytest.mark.parametrize(
    ("step", "told", "wanted"),
    [
        (3, False, {}),
        (4, False, {"should_log": True}),
        (5, False, {"should_log": True}),
        (3, True, {"should_save": True, "should_training_stop": True}),
        (4, True, {"should_log": True, "should_save": True, "should_training_stop": True}),
    ],
)
def test_the_last_step_is_logged_and_one_at_which_the_run_is_to_stop_is_saved(
    step: int, told: bool, wanted: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTEMPT_DIR_ENV, str(tmp_path))
    if told:
        (tmp_path / FLAG).touch()
    began: list[str] = []
    stop = Stop(Ranks(1), tmp_path)
    steps, args, control = Steps(stop, lambda: began.append("once")), TrainingArguments(str(tmp_path)), TrainerControl()
    state = TrainerState(global_step=step, max_steps=4)
    steps.on_train_begin(args, state, control)
    steps.on_step_begin(args, state, control)
    steps.on_step_end(args, state, control)
    assert {name: value for name, value in vars(control).items() if value} == wanted
    assert (began, stop.step) == (["once"], step)


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, Ranks(1), layout={"processes": 1}, keep=2, say=print)


def fill(folder: Path) -> None:
    (folder / "state.json").write_text("{}")


def full(folder: Path) -> None:
    fill(folder)
    raise OSError(28, "No space left on device")


def refusal(saving: CheckpointStore, step: int, fill: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        saving.save(step, fill)
    return str(caught.value)


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before_and_nothing_half_done(tmp_path: Path) -> None:
    saving = store(tmp_path / "checkpoints")
    assert saving.take_over() == 0
    why = f"could not be written to {tmp_path}/checkpoints ([Errno 28] No space left on device): "
    assert refusal(saving, 1, full) == f"the checkpoint of step 1 {why}there is none yet"
    saving.save(2, fill)
    assert refusal(saving, 3, full) == f"the checkpoint of step 3 {why}step 2 is the newest there is"
    assert sorted(path.name for path in saving.folder.iterdir()) == ["owner", "step-000002"]
    assert json.loads((saving.path(2) / "manifest.json").read_text())["layout"] == {"processes": 1}


def test_a_checkpoint_whose_folder_is_gone_is_named_like_any_that_could_not_be_written(tmp_path: Path) -> None:
    saving = store(tmp_path / "checkpoints")
    said = refusal(saving, 1, fill)  # nobody has made the folder
    assert said.startswith(
        f"the checkpoint of step 1 could not be written to {tmp_path}/checkpoints ([Errno 2] No such"
    )
    assert said.endswith("): there is none yet")
