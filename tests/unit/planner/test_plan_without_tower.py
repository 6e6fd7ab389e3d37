"""The plan leaves the image tower out where the features of all pictures are in the store, and the job is told so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from specs import GEMMA_4B, make_spec

from planner.choose import choose
from planner.job import JobSpec
from planner.memory.estimate import estimate
from planner.plan import Estimate
from planner.request.resolve import resolve
from trainer import __version__
from trainer.data.filled import Filled, entry_path, read_keys, write_filled
from trainer.data.lengths import data_digest

KEYS = [f"{number:040x}" for number in range(5)]
GIVEN = {"DATA": "d.jsonl", "VRAM": "24", "GPUS": "1"}


def filled_for(project: Path, *, store: str = "runs/.cache/features", precision: str = "bfloat16") -> Filled:
    """A store that is complete for d.jsonl and Gemma 3 4B."""
    (project / "d.jsonl").write_text('{"image": "a.png", "question": "?", "output": "a"}\n')
    (project / "a.png").write_bytes(b"picture")
    filled = Filled(
        model=GEMMA_4B, data_sha256=data_digest(str(project / "d.jsonl")), processor_sha256=None,
        trainyard=__version__, precision=precision, made_by="a" * 40, parts=("model.vision_tower",), entries=5,
        size_bytes=9, sample=tuple(KEYS), picture_bytes={str(project / "a.png"): 7},
    )  # fmt: skip
    for key in KEYS:
        path = entry_path(project / store, "a" * 40, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_filled(project / store, filled, KEYS)
    return filled


def asked(project: Path, **given: str) -> JobSpec:
    return resolve({**GIVEN, **given}, project_dir=project, environ={})


def predicted(spec: JobSpec, config: str = "single_gpu") -> Estimate:
    return estimate(
        spec, config=config, checkpointing=False, offload=False, optimizer="adamw", micro_batch_size=1
    )  # fmt: skip


def test_a_complete_store_leaves_the_tower_out_of_every_peak_and_tells_the_job(tmp_path: Path) -> None:
    filled_for(tmp_path)
    spec = asked(tmp_path)
    assert spec.records.features_ahead is True
    plan = choose(spec)
    assert plan.launch.settings["features_ahead"] == "true"
    assert "The features of all pictures are kept: the image tower never reaches the GPU." in plan.notes
    assert "A run that has to load the image tower after all says why, and needs 0.81 GiB more." in plan.notes
    assert predicted(spec.but(images_per_sample=0)) == predicted(spec.but(images_per_sample=0, features_ahead=None))
    lean, whole = predicted(spec), predicted(spec.but(features_ahead=None))
    tower = (416_866_032 + 2_950_272) * 2
    assert dict(lean.items)["image tower"] == dict(lean.items)["image tower forward"] == 0
    assert dict(lean.evaluation)["image tower"] == 0
    for peak in ("step_bytes", "load_peak_bytes", "evaluation_bytes"):
        assert getattr(whole, peak) - getattr(lean, peak) >= tower
    assert predicted(spec, "deepspeed_zero3") == predicted(spec.but(features_ahead=None), "deepspeed_zero3")
    assert "features_ahead" not in choose(make_spec()).launch.settings


@pytest.mark.parametrize("why", ["an entry is gone", "other records", "another picture", "the CPU", "adapters", "none"])
def test_a_store_that_does_not_hold_all_of_it_changes_no_plan(tmp_path: Path, why: str) -> None:
    filled_for(tmp_path)
    given = {}
    if why == "an entry is gone":
        entry_path(tmp_path / "runs/.cache/features", "a" * 40, KEYS[3]).unlink()
    if why == "other records":
        (tmp_path / "d.jsonl").write_text('{"image": "a.png", "question": "!", "output": "a"}\n')
    if why == "another picture":
        (tmp_path / "a.png").write_bytes(b"another picture")
    if why == "the CPU":
        given = {"DEVICE": "cpu", "GPUS": "", "VRAM": ""}
    if why == "adapters":
        given = {"VISION": "lora"}
    if why == "none":
        (tmp_path / "c.yaml").write_text("feature_cache_gib: 0\n")
        given = {"CONFIG_FILE": "c.yaml"}
    merged = {name: text for name, text in {**GIVEN, **given}.items() if text}
    assert resolve(merged, project_dir=tmp_path, environ={}).records.features_ahead is None


def test_the_store_is_found_where_the_settings_say_and_asked_for_without_one(tmp_path: Path) -> None:
    filled_for(tmp_path, store="elsewhere")
    assert asked(tmp_path).records.features_ahead is None
    (tmp_path / "c.yaml").write_text("feature_store: elsewhere\n")
    assert asked(tmp_path, CONFIG_FILE="c.yaml").records.features_ahead is True
    (tmp_path / "c.yaml").write_text("features_ahead: true\n")  # the job makes them before it loads the model
    assert asked(tmp_path, CONFIG_FILE="c.yaml").records.features_ahead is True
    (tmp_path / "c.yaml").write_text("features_ahead: true\ntext_only: true\n")  # without pictures it makes none
    assert asked(tmp_path, CONFIG_FILE="c.yaml").records.features_ahead is None


def test_a_list_of_entries_that_is_not_what_was_written_is_none(tmp_path: Path) -> None:
    filled = filled_for(tmp_path)
    store = tmp_path / "runs/.cache/features"
    assert read_keys(store, filled) == KEYS
    assert read_keys(store, replace(filled, entries=4)) is None
    (path,) = (store / "sets").glob("*.keys")
    path.write_text("../../etc/passwd\n" * 5)
    assert read_keys(store, filled) is None
