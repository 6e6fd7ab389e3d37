"""Features that the tower alone has made ahead: the run has no tower, and learns the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training import train_forked

from trainer.config import TrainConfig
from trainer.data.examples import Encoder
from trainer.data.filled import any_filled, is_there, read_filled, read_keys
from trainer.data.lengths import data_digest
from trainer.data.records import Dataset, dataset_of
from trainer.data.turns import Picture, Record, Turn
from trainer.model import ahead, filling
from trainer.model.base import add_lora, find_anatomy, load_base, load_here, load_model_config, load_processor
from trainer.model.behaviour import picture_counts, token_losses
from trainer.model.features import FeatureCache, keep_features
from trainer.node.ranks import Ranks
from trainer.node.stop import Stop, stopped
from trainer.outcome import ConfigError, RecordError
from trainer.tools.features import main as make_features

OF_MACHINE = ("runtime", "per_second", "_gib", "_flos")
pytestmark = pytest.mark.slow
FAMILIES = ("tiny_model", "tiny_qwen", "tiny_idefics")
CPU = torch.device("cpu")


def config_of(model: Path, walks: Path, folder: Path, **values: Any) -> TrainConfig:
    return TrainConfig(
        model=str(model), data=str(walks), output_dir=str(folder / "runs" / "x"), run_id="x", quantization="none",
        device="cpu", lora_dropout=0.0, **values,
    )  # fmt: skip


def few(config: TrainConfig, count: int = 6) -> Dataset:
    found = dataset_of(config)
    return replace(found, train=found.train[:count], eval=found.eval[:2])


def find(config: TrainConfig, dataset: Dataset, say: Callable[[str], object] = bool) -> ahead.Ahead | None:
    processor = load_processor(config.model)
    stop = Stop(Ranks(1), Path(config.output_dir))
    return ahead.find_ahead(config, dataset, processor, device=CPU, stop=stop, share=slice(None), say=say)


def losses_with(config: TrainConfig, batch: dict[str, Any], found: ahead.Ahead | None) -> tuple[Any, torch.Tensor]:
    """(the adapted model, with the tower or without, and the losses of `batch`)."""
    torch.manual_seed(0)
    anatomy = find_anatomy(load_model_config(config.model))
    left_off = found.parts if found else ()
    base = load_base(config, anatomy, dtype=torch.float32, device_map={"": "cpu"}, left_off=left_off)
    if found:
        assert isinstance(ahead.put_in(base, found, batch, bool), FeatureCache)
    return base, token_losses(add_lora(base, config, anatomy), batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_its_tower_has_the_losses_of_the_whole_model_to_the_last_bit(
    request: pytest.FixtureRequest, walks: Path, tmp_path: Path, family: str
) -> None:
    config = config_of(request.getfixturevalue(family), walks, tmp_path, features_ahead=True)
    dataset, said = few(config), []
    found = find(config, dataset, said.append)
    assert found is not None and said[0].startswith("features of 8 pictures are made ahead")
    batch = Encoder(load_processor(config.model), dataset.train).collate([{"index": 1}])
    base, losses = losses_with(config, batch, found)
    whole, expected = losses_with(config, batch, None)
    assert torch.equal(losses, expected)
    gone = {name for name, _ in whole.named_parameters()} - {name for name, _ in base.named_parameters()}
    assert gone and {".".join(name.split(".")[:2]) for name in gone} == set(found.parts)
    assert type(base) is type(whole)

    said.clear()
    again = find(replace(config, features_ahead=False), dataset, said.append)  # whoever comes later need not ask
    assert again is not None and len(said) == 1 and again.parts == found.parts
    assert picture_counts(SimpleNamespace(get_base_model=lambda: base, training=False, **NOTHING), batch, losses)


NOTHING: dict[str, Any] = {"train": bool, "zero_grad": lambda **_: None}


def test_a_picture_that_is_gone_in_the_end_brings_the_tower_back(tiny_model: Path, walks: Path, tmp_path: Path) -> None:
    config = config_of(tiny_model, walks, tmp_path, features_ahead=True)
    dataset = few(config)
    found = find(config, dataset)
    assert found is not None
    batch = Encoder(load_processor(config.model), dataset.train).collate([{"index": 0}])
    base = losses_with(config, batch, found)[0]
    cache, said = base.model.get_image_features, []
    cache._say = said.append
    for path in found.store.folder.glob("*/*"):
        path.write_bytes(b"damaged")
    expected = losses_with(config, batch, None)[1]
    anatomy = find_anatomy(load_model_config(config.model))
    torch.manual_seed(0)
    assert cache.without_tower
    assert torch.equal(token_losses(add_lora(base, config, anatomy), batch), expected)
    assert said == ["the features of a picture are not in the store: the image tower is loaded after all"]
    assert not cache.without_tower and not any("vision_tower" in name for name, _ in base.named_parameters())


def test_what_a_run_finds_missing_it_makes_and_what_it_may_not_use_it_says(
    tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_model, walks, tmp_path)
    dataset, said = few(config), []
    assert find(config, dataset, said.append) is None and said == []
    asked = replace(config, features_ahead=True)
    first = find(asked, dataset)
    assert first is not None
    next(first.store.folder.glob("*/*")).unlink()
    assert find(config, dataset, said.append) is not None
    assert said[0].startswith("features of 1 pictures are made ahead")
    reasons = {
        "adapters in the tower change them": {"vision": "lora"}, "feature_cache_gib is 0": {"feature_cache_gib": 0},
    }  # fmt: skip
    for why, values in reasons.items():
        said.clear()
        assert find(replace(config, **values), dataset, said.append) is None
        assert said == [f"the image tower is loaded, though features were made ahead: {why}"]


def test_pictures_that_an_earlier_answer_sees_are_a_set_of_their_own() -> None:
    def asked(name: str) -> Turn:
        return Turn(role="user", parts=(Picture(paths=(f"w/{name}.png",)), "now?"))

    said = Turn(role="assistant", parts=("up",), learned=True)
    record = Record(turns=(asked("a"), said, asked("b")), answer="down", session="s")
    again = Record(turns=(asked("a"),), answer="left", session="t")
    found = filling.with_pictures(Dataset(train=(record,), eval=(again,), split=""))
    assert [one.images for one in found] == [(Path("w/a.png"),), (Path("w/a.png"), Path("w/b.png"))]
    assert [one.answer for one in found] == ["up", "down"]


def test_a_picture_that_could_not_be_read_when_the_store_was_filled_is_made_before_the_model_is_loaded(
    tiny_model: Path, walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_model, walks, tmp_path)
    dataset, processor, said = few(config, 2), load_processor(str(tiny_model)), list[str]()
    encode, (first, *others) = filling.encode_learned, filling.with_pictures(dataset)

    def at_times(processor: Any, record: Record) -> dict[str, torch.Tensor]:
        if record.images == first.images:
            raise RecordError("the disk is away")
        return encode(processor, record)

    monkeypatch.setattr(filling, "encode_learned", at_times)
    done = filling.fill(config, [first, *others], processor, total=9, device=CPU, say=bool, drawn=False)
    assert list(done.unreadable.values()) == ["the disk is away"]
    filling.record_filled(config, dataset, done)
    assert find(config, replace(dataset, train=(), eval=tuple(others)), said.append) and len(said) == 1
    assert find(config, dataset, said.append) is None and said[-1] == "the image tower is loaded: the disk is away"
    with pytest.raises(ConfigError, match="no record can be read: the disk is away"):
        filling.fill(config, [first], processor, total=1, device=CPU, say=bool, drawn=False)
    monkeypatch.undo()
    said.clear()
    assert find(config, dataset, said.append) and said[0].startswith("features of 1 pictures are made ahead")
    said.clear()
    assert find(config, dataset, said.append) and len(said) == 1


def test_a_run_that_is_to_stop_leaves_the_making_of_features_and_is_not_counted_as_idle(
    tiny_model: Path, walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_model, walks, tmp_path, features_ahead=True)
    Path(config.output_dir).mkdir(parents=True)
    dataset, processor = few(config, 20), load_processor(str(tiny_model))
    monkeypatch.setenv("TRAINYARD_ATTEMPT_DIR", str(tmp_path))
    stop, encode, made = Stop(Ranks(1), Path(config.output_dir)), filling.encode_learned, list[Record]()

    def until_told(processor: Any, record: Record) -> dict[str, torch.Tensor]:
        made.append(record)
        (tmp_path / "stop").touch()
        return encode(processor, record)

    monkeypatch.setattr(filling, "encode_learned", until_told)
    said = list[str]()
    found = ahead.find_ahead(config, dataset, processor, device=CPU, stop=stop, share=slice(None), say=said.append)
    assert found is None and len(said) == 1 and len(made) == ahead.BETWEEN_STOPS < len(filling.with_pictures(dataset))
    assert stop.agreed and stop.moved_on
    for _ in range(4):
        assert stopped(stop.run_dir, None, moved_on=True)[0] == 75
    assert [stopped(stop.run_dir, None)[0] for _ in range(3)] == [75, 75, 1]


def test_every_process_takes_part_in_every_round_whatever_its_share(tmp_path: Path) -> None:
    asked: list[int] = []
    for share in (20, 19, 0):
        stop = Stop(Ranks(1), tmp_path)
        asked.append(0)
        stop.wanted = lambda: asked.append(asked.pop() + 1)  # type: ignore[assignment,func-returns-value]
        records = [Record(turns=(), answer=str(i), session="s") for i in range(share)]
        assert list(ahead._until_stopped(records, 20, stop)) == records
    assert asked == [3, 3, 3]


def test_parts_that_are_none_of_the_tower_are_refused(tiny_model: Path, walks: Path, tmp_path: Path) -> None:
    state = SimpleNamespace(distributed_type="NO", device=CPU, local_process_index=0)
    for part in ("model.language_model", "model.language_model.layers.0", "nothing"):
        with pytest.raises(ConfigError, match="has no part"):
            load_here(config_of(tiny_model, walks, tmp_path), state, [part])


def test_a_sweep_of_four_members_computes_each_picture_once(tiny_model: Path, walks: Path, tmp_path: Path) -> None:
    dataset = few(config_of(tiny_model, walks, tmp_path))
    encoder = Encoder(load_processor(str(tiny_model)), dataset.train)
    computed = []
    for member in range(4):
        config = replace(config_of(tiny_model, walks, tmp_path), output_dir=str(tmp_path / "runs" / f"s-{member}"))
        anatomy = find_anatomy(load_model_config(config.model))
        base = load_base(config, anatomy, dtype=torch.float32, device_map={"": "cpu"})
        cache = keep_features(base, config)
        assert isinstance(cache, FeatureCache)
        for index in torch.randperm(6, generator=torch.Generator().manual_seed(member)).tolist() * 2:
            models_seen = {k: v for k, v in encoder.collate([{"index": index}]).items() if k == "pixel_values"}
            base.model.get_image_features(**models_seen)
            cache.settle()
        cache.close()
        computed.append(cache.computed)
    assert computed == [6, 0, 0, 0]


def test_features_makes_all_and_is_resumed_and_tells_the_plan(
    tiny_model: Path, walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    argv = ["--model", str(tiny_model), "--data", str(walks), "--device", "cpu"]
    store = Path("runs/.cache/features")
    assert not any_filled(store)
    assert make_features([*argv, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    pictures = len(filling.with_pictures(dataset_of(config_of(tiny_model, walks, tmp_path))))
    assert told["pictures"] == told["computed"] == pictures and told["left_out"] == 0
    filled = read_filled(store, data_digest(str(walks)), str(tiny_model), "float32")
    assert filled is not None and filled.entries == pictures and is_there(store, filled) and any_filled(store)
    assert len(read_keys(store, filled) or ()) == pictures
    assert filled.parts == ("model.vision_tower", "model.multi_modal_projector")
    one, two = [path for path in store.glob("*/*/*.safetensors")][:2]
    one.unlink(), two.write_bytes(two.read_bytes()[:-1])
    assert make_features([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 2
    assert read_filled(store, data_digest(str(walks)), str(tiny_model), "bfloat16") is None


def test_a_run_without_a_tower_ends_like_one_that_looks_at_every_picture(
    tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    told = []
    for values in ({"feature_cache_gib": 0}, {"features_ahead": True}):
        folder = tmp_path / str(len(told))
        ended = train_forked(
            folder, model=tiny_model, data=walks, micro_batch_size=1, max_steps=4, eval_steps=2, score_samples=4,
            eval_samples=4, **values,
        )  # fmt: skip
        assert ended.codes == (0,), ended.output
        history = json.loads((folder / "run" / "metrics.json").read_text())["history"]
        told.append(
            [
                {k: v for k, v in e.items() if not k.endswith(("runtime", "per_second", "_gib", "_flos"))}
                for e in history
            ]
        )
    assert told[0] == told[1]
    assert f"  {'a picture goes through the tower':<38} never: its features are kept\n" in ended.output
    assert "loaded after all" not in ended.output
