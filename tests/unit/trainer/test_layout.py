"""A checkpoint is compared by every setting, but for those which say that it continues across a change of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from off_default import off_default

from trainer.config import SETTINGS, TrainConfig
from trainer.flags import options
from trainer.node.ranks import Ranks
from trainer.outcome import ConfigError
from trainer.training.checkpoint import MANIFEST, CheckpointStore
from trainer.training.layout import defaults, layout_of

CONFIG = TrainConfig(model="o/base", data="data", output_dir="runs/x", run_id="x")
RECORDS = {"data": "0123456789abcdef", "records": 7}
# What stands for these three in the comparison.
AS = {
    "model": "model base, not other",
    "data": "data 0123456789ab, not fedcba987654",
    "world_size": "processes 1, not 2",
}


def store(folder: Path, config: TrainConfig, *, model: str = "o/base", **records: Any) -> CheckpointStore:
    layout = layout_of(config, model=model, **{**RECORDS, **records})
    return CheckpointStore(folder, Ranks(1), layout=layout, unsaid=defaults(), keep=1, say=print)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    first = store(tmp_path / "checkpoints", CONFIG)
    first.take_over()
    first.save(4, lambda folder: None)
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_is_refused_unless_it_says_that_a_checkpoint_continues(saved: Path, name: str) -> None:
    changed = replace(CONFIG, **{name: off_default(name)})
    given = {"model": {"model": "o/other"}, "data": {"data": "fedcba9876543210"}}.get(name, {})
    again = store(saved, changed, **given)
    if SETTINGS[name].continues:
        assert again.take_over() == 4
        return
    with pytest.raises(ConfigError) as refused:
        again.take_over()
    said = AS.get(name, f"{name} {getattr(CONFIG, name)}, not {getattr(changed, name)}")
    assert f"was saved with {said}: its losses cannot be continued" in str(refused.value)


def test_a_mirror_of_the_base_continues_and_other_records_do_not(saved: Path) -> None:
    assert store(saved, CONFIG, model="mirror/base").take_over() == 4
    with pytest.raises(ConfigError, match="training records 7, not 8"):
        store(saved, CONFIG, records=8).take_over()


def test_a_checkpoint_from_before_a_setting_was_made_with_its_default(saved: Path) -> None:
    manifest = saved / "step-000004" / MANIFEST
    record = json.loads(manifest.read_text())
    del record["layout"]["max_grad_norm"]
    manifest.write_text(json.dumps(record))
    assert store(saved, CONFIG).take_over() == 4
    with pytest.raises(ConfigError, match=r"max_grad_norm 1\.0, not 0\.5"):
        store(saved, replace(CONFIG, max_grad_norm=0.5)).take_over()


def test_a_checkpoint_from_before_lengths_were_grouped_goes_on_without(saved: Path) -> None:
    manifest = saved / "step-000004" / MANIFEST
    record = json.loads(manifest.read_text())
    del record["layout"]["group_lengths"]
    manifest.write_text(json.dumps(record))
    assert store(saved, replace(CONFIG, group_lengths=False)).take_over() == 4
    with pytest.raises(ConfigError, match="group_lengths False, not True"):
        store(saved, CONFIG).take_over()


@pytest.mark.parametrize("name", ["device", "init_adapter"])
def test_a_setting_that_was_once_free_is_compared_only_where_a_checkpoint_names_it(saved: Path, name: str) -> None:
    other = replace(CONFIG, **{name: off_default(name)})
    with pytest.raises(ConfigError, match=f"{name} {getattr(CONFIG, name)}, not {getattr(other, name)}"):
        store(saved, other).take_over()
    manifest = saved / "step-000004" / MANIFEST
    record = json.loads(manifest.read_text())
    del record["layout"][name]
    manifest.write_text(json.dumps(record))
    assert store(saved, other).take_over() == 4


def test_a_setting_that_says_nothing_is_compared() -> None:
    assert "text_only" in layout_of(CONFIG, model="o/base", data="d", records=1)  # it carries no mark at all
    assert not options(TrainConfig)["text_only"].marks
