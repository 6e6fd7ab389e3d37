"""A picture goes through the frozen tower once, and nothing else changes: real towers of three families."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training import train_forked
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trainer.config import TrainConfig
from trainer.data.examples import Encoder
from trainer.data.records import load_dataset
from trainer.model import base as models
from trainer.model import features
from trainer.model.features import FeatureCache, fingerprint, keep_features
from trainer.model.traits import picture_features

FAMILIES = ("tiny_model", "tiny_qwen", "tiny_idefics")


def loaded(model: Path, run_dir: Path, **values: Any) -> tuple[Any, TrainConfig]:
    """(base model, configuration) of a run in `run_dir`."""
    config = TrainConfig(model=str(model), data="-", output_dir=str(run_dir), run_id="-", quantization="none", **values)
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    return models.load_base(config, anatomy, dtype=torch.float32, device_map=None), config


def batch_of(model: Path, walks: Path, *indices: int) -> dict[str, torch.Tensor]:
    encoder = Encoder(models.load_processor(str(model)), load_dataset(str(walks)).train)
    return encoder.collate([{"index": index} for index in indices])


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def seen(base: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The decoder's last states; also through the answers' own way, where the features are asked for beforehand."""
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith(("loss", "labels"))}
    with torch.no_grad():
        states = base.base_model(**inputs).last_hidden_state
        written = base.generate(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    return torch.cat((states[:, -1].flatten(), written.sequences[:, -1].float()))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_features_are_those_of_the_tower_also_in_another_batch_and_another_attempt(
    request: pytest.FixtureRequest, walks: Path, tmp_path: Path, family: str
) -> None:
    model = request.getfixturevalue(family)
    base, config = loaded(model, tmp_path)
    pairs = [batch_of(model, walks, 0, 1), batch_of(model, walks, 1, 2)]
    alone = [picture_features(base, batch_of(model, walks, index)) for index in (0, 1, 2)]
    expected = [seen(base, batch) for batch in pairs]
    first = keep_features(base, config, 1)
    assert isinstance(first, FeatureCache)
    base.train()
    for batch, says, (a, b) in zip(pairs, expected, ((0, 1), (1, 2)), strict=True):
        assert torch.equal(picture_features(base, batch), torch.cat((alone[a], alone[b])))
        first._writer.submit(int).result()  # behind what is being written
        torch.testing.assert_close(seen(base, batch), says, rtol=1e-4, atol=1e-4)
    assert first.take_computed() == 3
    first.close()
    assert len(list((tmp_path / "features").iterdir())) == 3

    again, _ = loaded(model, tmp_path)
    second = keep_features(again, config, 1)
    assert second is not None
    again.train()
    for batch, (a, b) in zip(pairs, ((0, 1), (1, 2)), strict=True):
        assert torch.equal(picture_features(again, batch), torch.cat((alone[a], alone[b])))
    assert second.take_computed() == 0


@pytest.mark.parametrize("fault", ["a file is cut off", "the folder is gone", "no room", "the disk is full"])
def test_what_cannot_be_kept_is_computed(
    tiny_model: Path, walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    base, config = loaded(tiny_model, tmp_path)
    batch = batch_of(tiny_model, walks, 0)
    expected = picture_features(base, batch)
    cache = keep_features(base, config, 1)
    assert cache is not None
    base.train()
    if fault == "no room":
        cache._room_bytes = 0
    if fault == "the folder is gone":
        (tmp_path / "features").rmdir()
    if fault == "the disk is full":  # what is there makes room
        (tmp_path / "features" / "earlier").touch()
        monkeypatch.setattr(features, "save_file", full_disk)
    assert torch.equal(picture_features(base, batch), expected)
    cache.close()
    monkeypatch.undo()
    kept = list(tmp_path.glob("features/*"))
    assert len(kept) == (fault == "a file is cut off")
    for path in kept:
        path.write_bytes(path.read_bytes()[:-4])
    assert cache.take_computed() == 1
    cache = keep_features(loaded(tiny_model, tmp_path)[0], config, 1)
    assert cache is not None
    assert torch.equal(cache(batch["pixel_values"]).pooler_output, expected)


def test_pictures_that_are_trained_on_once_are_not_kept_and_those_of_evaluations_are(
    tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    base, config = loaded(tiny_model, tmp_path, max_steps=10, gradient_accumulation_steps=2)
    cache = keep_features(base, config, 20)
    assert cache is not None
    picture_features(base.train(), batch_of(tiny_model, walks, 0))
    picture_features(base.eval(), batch_of(tiny_model, walks, 1, 2))
    cache.close()
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_it_is_left_alone_where_features_change_or_are_not_all(tiny_model: Path, tmp_path: Path) -> None:
    def more_than_features(pixel_values: torch.Tensor) -> tuple | BaseModelOutputWithPooling | dict: ...

    for values in ({"vision": "lora"}, {"feature_cache_gib": 0}):
        base, config = loaded(tiny_model, tmp_path, **values)
        assert keep_features(base, config, 1) is None
    base, config = loaded(tiny_model, tmp_path)
    base.config.vision_config.attention_dropout = 0.1
    assert keep_features(base, config, 1) is None
    base.config.vision_config.attention_dropout = 0.0
    next(base.parameters()).ds_numel = 8
    assert keep_features(base, config, 1) is None
    del next(base.parameters()).ds_numel
    base.model.get_image_features = more_than_features
    assert keep_features(base, config, 1) is None and not (tmp_path / "features").exists()
    del base.model.get_image_features
    assert keep_features(base, config, 1) is base.model.get_image_features


def test_pictures_that_differ_in_one_number_or_in_order_have_other_fingerprints() -> None:
    picture = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    found = {tuple(fingerprint(picture).tolist())}
    for place in range(0, picture.numel(), 997):
        other = picture.clone()
        other.view(-1)[place] = torch.nextafter(other.view(-1)[place], torch.tensor(2.0))
        found.add(tuple(fingerprint(other).tolist()))
    found.add(tuple(fingerprint(picture.flip(-1)).tolist()))
    found.add(tuple(fingerprint(picture.bfloat16()).tolist()))
    assert len(found) == 1 + len(range(0, picture.numel(), 997)) + 2
    assert torch.equal(fingerprint(picture), fingerprint(picture.clone()))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_ends_the_same_to_the_last_bit_with_and_without_it(
    tiny_model: Path, walks: Path, tmp_path: Path, world_size: int
) -> None:
    """30 steps of 2 records, several epochs; one picture a forward pass, so that no batch is there to differ."""
    told = []
    for gib in (0, 16):
        folder = tmp_path / str(gib)
        ended = train_forked(
            folder, model=tiny_model, data=walks, world_size=world_size, feature_cache_gib=gib, micro_batch_size=1,
            gradient_accumulation_steps=2 // world_size, max_steps=30, eval_steps=10,
        )  # fmt: skip
        assert set(ended.codes) == {0}, ended.output
        assert f"  {'a picture goes through the tower':<38} {'once' if gib else 'every time'}\n" in ended.output
        history = json.loads((folder / "run" / "metrics.json").read_text())["history"]
        told.append(
            [{k: v for k, v in e.items() if not k.endswith(("runtime", "per_second", "_gib"))} for e in history]
        )
        assert not (folder / "run" / "features").exists()
    assert len(told[0]) > 30 // 10 and told[0] == told[1]
