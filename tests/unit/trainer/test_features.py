"""A picture goes through the frozen tower once, and nothing else changes: real towers of three families."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training import run_forked, train_forked
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trainer.config import TrainConfig
from trainer.data.examples import Encoder
from trainer.data.records import Dataset, load_dataset
from trainer.model import base as models
from trainer.model import feature_store, features
from trainer.model.feature_store import FeatureStore
from trainer.model.features import WHOLE, FeatureCache, fingerprint, keep_features, store_folder
from trainer.model.tower import load_tower, made_by, tower_weights
from trainer.model.traits import picture_features
from trainer.training import ready

FAMILIES = ("tiny_model", "tiny_qwen", "tiny_idefics")


def loaded(model: Path, run_dir: Path, **values: Any) -> tuple[Any, TrainConfig]:
    """(base model, configuration) of a run in `run_dir`."""
    values = {"feature_store": str(run_dir / "kept"), **values}
    config = TrainConfig(model=str(model), data="-", output_dir=str(run_dir), run_id="-", quantization="none", **values)
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    return models.load_base(config, anatomy, dtype=torch.float32, device_map=None), config


def batch_of(model: Path, walks: Path, *indices: int) -> dict[str, torch.Tensor]:
    encoder = Encoder(models.load_processor(str(model)), load_dataset(str(walks)).train)
    return encoder.collate([{"index": index} for index in indices])


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "kept").glob("*/??/*.safetensors"))


def full_disk(*_: Any, **__: Any) -> None:
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
    first = keep_features(base, config)
    assert isinstance(first, FeatureCache)
    base.train()
    for batch, says, (a, b) in zip(pairs, expected, ((0, 1), (1, 2)), strict=True):
        assert torch.equal(picture_features(base, batch), torch.cat((alone[a], alone[b])))
        first.settle()
        torch.testing.assert_close(seen(base, batch), says, rtol=1e-4, atol=1e-4)
    assert first.take_computed() == 3
    first.close()
    assert len(entries(tmp_path)) == 3

    again, _ = loaded(model, tmp_path)
    second = keep_features(again, config)
    assert isinstance(second, FeatureCache)
    again.train()
    for batch, (a, b) in zip(pairs, ((0, 1), (1, 2)), strict=True):
        assert torch.equal(picture_features(again, batch), torch.cat((alone[a], alone[b])))
    assert second.take_computed() == 0


def test_the_store_is_the_named_folder_or_one_that_all_runs_share() -> None:
    config = TrainConfig(model="m", data="d", output_dir="runs/one", run_id="one")
    assert store_folder(config) == Path("runs/.cache/features") == store_folder(replace(config, output_dir="runs/two"))
    assert store_folder(replace(config, feature_store="/shared/kept")) == Path("/shared/kept")


@pytest.mark.parametrize("fault", ["no room", "the folder is gone", "the disk is full"])
def test_what_cannot_be_kept_is_computed(
    tiny_model: Path, walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    base, config = loaded(tiny_model, tmp_path)
    batch = batch_of(tiny_model, walks, 0)
    expected = picture_features(base, batch)
    cache = keep_features(base, config)
    assert isinstance(cache, FeatureCache)
    base.train()
    if fault == "no room":
        monkeypatch.setattr(cache.store, "_most_bytes", 0)
    if fault == "the folder is gone":
        shutil.rmtree(tmp_path / "kept")
    if fault == "the disk is full":
        monkeypatch.setattr(feature_store, "save_file", full_disk)
    for _ in range(2):
        assert torch.equal(picture_features(base, batch), expected)
        cache.settle()
    cache.close()
    assert cache.take_computed() == (1 if fault == "the folder is gone" else 2)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-4],
    "a bit is another": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "a header without an end": lambda content: b"\xff" * 8 + content[8:],
    "empty": lambda content: b"",
    "a pickle": lambda content: pickle.dumps({"features": torch.zeros(1)}),
}


@pytest.mark.parametrize("fault", [*DAMAGE, "another picture's", "a link", "a pipe", "without a sum", "of others"])
def test_an_entry_that_is_not_what_was_written_is_computed_again(tmp_path: Path, fault: str) -> None:
    store = FeatureStore(tmp_path / "kept", "0" * 40, most_bytes=1 << 20)
    kept = {WHOLE: torch.arange(6.0).view(2, 3)}
    assert store.write(ONE, kept) and store.write(TWO, {WHOLE: torch.zeros(2, 3)})
    path = store.path(ONE)
    if fault in DAMAGE:
        path.write_bytes(DAMAGE[fault](path.read_bytes()))
    if fault == "another picture's":
        shutil.copy(store.path(TWO), path)
    if fault in ("a link", "a pipe"):
        path.unlink()
        path.symlink_to(store.path(TWO)) if fault == "a link" else os.mkfifo(path)
    if fault in ("without a sum", "of others"):
        save_file(kept, path, metadata={"sum": "0" * 32} if fault == "of others" else None)
    assert store.read(ONE) is None and store.damaged == 1 and not os.path.lexists(path)
    assert store.missing([ONE, TWO]) == [ONE]
    assert store.write(ONE, kept)
    found = store.read(ONE)
    assert found is not None and torch.equal(found[WHOLE], kept[WHOLE])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE])
def test_an_entry_that_cannot_be_read_now_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    store = FeatureStore(tmp_path / "kept", "0" * 40, most_bytes=1 << 20)
    assert store.write(ONE, KIB)
    monkeypatch.setattr(feature_store, "safe_open", fails)
    assert store.read(ONE) is None and store.damaged == 0
    monkeypatch.undo()
    assert store.read(ONE) is not None


ONE, TWO, THREE, FOUR = (digit * 40 for digit in "1234")
KIB = {WHOLE: torch.zeros(256)}


def last_used(store: FeatureStore, picture: str, hours_ago: float) -> None:
    then = time.time() - 3600 * hours_ago
    os.utime(store.path(picture), (then, then))


def test_nobody_can_guess_the_name_under_which_an_entry_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(feature_store, "save_file", lambda _, part, **__: names.append(part.name) or part.touch())
    for _ in range(2):
        assert FeatureStore(tmp_path, "0" * 40, most_bytes=1 << 20).write("a" * 40, {"features": torch.ones(1)})
    assert len({*names}) == 2 and all(re.fullmatch(r"\.a{40}\.[0-9a-f]{16}", name) for name in names)


def test_what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    def store(maker: str) -> FeatureStore:
        return FeatureStore(tmp_path / "kept", maker * 40, most_bytes=4500)

    earlier = store("a")  # another model's: they share the room
    for hours, picture in ((9, ONE), (8, TWO), (7, THREE)):
        assert earlier.write(picture, KIB)
        last_used(earlier, picture, hours)
    assert store("a").read(ONE) is not None  # it is used now
    assert store("b").write(FOUR, KIB) and store("b").missing([FOUR]) == []
    assert earlier.missing([ONE, TWO, THREE]) == [TWO]
    last_used(earlier, THREE, 0)
    full = store("b")
    assert not full.write(TWO, KIB)  # all were used within the hour
    last_used(earlier, ONE, 2), last_used(earlier, THREE, 2)
    reader = store("a")
    reader.read(ONE), reader.read(THREE)
    last_used(earlier, ONE, 2), last_used(earlier, THREE, 2)
    assert not reader.write(TWO, KIB)  # its own: a set larger than the room would go round
    assert store("b").write(TWO, KIB)


def test_a_full_disk_takes_half_of_the_store_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path / "kept", "a" * 40, most_bytes=1 << 20)
    for picture in (ONE, TWO, THREE):
        store.write(picture, KIB)
    monkeypatch.setattr(feature_store, "save_file", full_disk)
    assert not store.write(FOUR, KIB)
    assert len(store.missing([ONE, TWO, THREE])) == 2
    assert [path for path in store.folder.iterdir() if path.is_file()] == []


def test_a_store_that_is_another_users_is_read_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_yours(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    store = FeatureStore(tmp_path / "kept", "a" * 40, most_bytes=1 << 20)
    store.write(ONE, KIB), store.write(TWO, KIB)
    monkeypatch.setattr(feature_store, "save_file", not_yours)
    assert not store.write(THREE, KIB) and store.missing([ONE, TWO]) == []
    monkeypatch.undo()
    assert not store.write(THREE, KIB) and store.read(ONE) is not None  # it is not tried again for every picture


def write_and_say(folder: str, numbers: range) -> None:
    store = FeatureStore(Path(folder), "a" * 40, most_bytes=1 << 24)
    for number in numbers:
        store.write(f"{number:040x}", {WHOLE: torch.full((300,), float(number))})


def killed_while_writing(folder: str) -> None:
    def killed(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half of an ent")
        os.kill(os.getpid(), signal.SIGKILL)

    feature_store.save_file = killed  # type: ignore[assignment]
    write_and_say(folder, range(1))


def test_the_model_without_its_tower_is_gone_before_the_whole_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(torch.nn.Module):
        def get_image_features(self, pixel_values: torch.Tensor) -> None: ...

        def forward(self, **_: Any) -> None:
            raise TypeError("it asks the tower itself")

        base_model = property(lambda self: self)
        device = torch.device("cpu")

    loaded: list[weakref.ref[Any]] = []

    def load_here(*_: Any) -> tuple[Any, None]:
        if loaded:
            assert loaded[0]() is None
            raise InterruptedError("the second")
        base = Loaded()
        loaded.append(weakref.ref(base))
        return base, None

    monkeypatch.setattr(models, "load_here", load_here)
    monkeypatch.setattr(ready, "Encoder", lambda *_: SimpleNamespace(records=[], collate=lambda _: {}))
    monkeypatch.setattr(ready.ahead, "batch_on", lambda *_: ({}, None, None))
    found = ready.ahead.Ahead(store=None, parts=(), load=bool)  # type: ignore[arg-type]
    config, said = TrainConfig(model="m", data="d", output_dir="o", run_id="o"), list[str]()
    with pytest.raises(InterruptedError, match="the second"):
        ready.make_ready(config, Dataset(train=(), eval=(), split=""), None, None, said.append, pictures_ahead=found)
    assert said == [
        "the image tower is loaded: the model needs it for more than features (TypeError: it asks the tower itself)"
    ]


class Tower(torch.nn.Module):
    """Makes a picture's features of its first number."""

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=pixel_values[:, :1])  # type: ignore[arg-type]


def test_a_tower_that_is_faster_than_the_disk_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MOST_WAITING", 2)
    store = FeatureStore(tmp_path, "a" * 40, most_bytes=1 << 20)
    cache, waiting = FeatureCache(Tower().get_image_features, store, say=bool), list[int]()

    def slow(picture: str, tensors: Any) -> bool:
        time.sleep(0.004)
        waiting.append(cache.computed - len(waiting))
        return True

    monkeypatch.setattr(store, "write", slow)
    for number in range(8):
        cache(pixel_values=torch.full((1, 4), float(number)))
    cache.close()
    assert len(waiting) == 8 and max(waiting) <= 3


def test_a_run_without_a_tower_keeps_all_its_entries_in_use_though_it_reads_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(**more: Any) -> FeatureCache:
        store = FeatureStore(tmp_path / "kept", "a" * 40, most_bytes=1 << 20)
        return FeatureCache(Tower().get_image_features, store, say=bool, **more)

    def old(cache: FeatureCache) -> list[bool]:
        cache.settle()
        return [time.time() - path.stat().st_mtime > 3600 for path in map(cache.store.path, names)]

    first, pictures = cached(), torch.rand(2, 4)
    first(pixel_values=pictures)
    names = first.take_seen()
    assert old(first) == [False, False]
    run = cached(load=bool)
    for look in (0, 1, 2):
        last_used(run.store, names[0], 2), last_used(run.store, names[1], 2)
        if not look:
            run.store.hold(names)
            assert old(run) == [False, False]
            continue
        monkeypatch.setattr(features.time, "monotonic", lambda now=look * 3600: now)
        run(pixel_values=pictures[:1])
        assert old(run) == [False, False]
    last_used(run.store, names[1], 2)
    run(pixel_values=pictures[:1])  # at once: a set may be large
    assert old(run) == [False, True]


@pytest.mark.slow
def test_two_processes_write_and_read_at_once_and_a_killed_one_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    ended = run_forked(tmp_path / "one", killed_while_writing, str(folder))
    assert ended.codes == (-signal.SIGKILL,)
    (half,) = [path for path in (folder / ("a" * 40)).iterdir() if path.is_file()]
    last = time.time() - 7200
    os.utime(half, (last, last))
    ended = run_forked(tmp_path / "two", write_and_say, str(folder), range(100), world_size=2)
    assert ended.codes == (0, 0), ended.output
    assert not half.exists()
    store = FeatureStore(folder, "a" * 40, most_bytes=1 << 24)
    for number in range(100):
        found = store.read(f"{number:040x}")
        assert found is not None and found[WHOLE].eq(number).all()
    assert store.damaged == 0


def test_it_is_left_alone_where_features_change_or_are_not_all(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more_than_features(pixel_values: torch.Tensor) -> tuple | BaseModelOutputWithPooling | dict: ...

    for values, why in (
        ({"vision": "lora"}, "adapters in the tower change them"), ({"feature_cache_gib": 0}, "feature_cache_gib is 0"),
    ):  # fmt: skip
        base, config = loaded(tiny_model, tmp_path, **values)
        assert keep_features(base, config) == why
    base, config = loaded(tiny_model, tmp_path)
    base.config.vision_config.attention_dropout = 0.1
    assert keep_features(base, config) == "attention_dropout of the tower is 0.1"
    base.config.vision_config.attention_dropout = 0.0
    projector = base.model.multi_modal_projector
    projector.drop = torch.nn.Dropout(0.1)
    assert keep_features(base, config) == "dropout in model.multi_modal_projector.drop"
    del projector.drop
    projector.idle = torch.nn.Dropout(0.0)
    with monkeypatch.context() as patched:
        patched.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        assert keep_features(base, config) == "ZeRO-3 shards the tower"
    base.model.get_image_features = more_than_features
    assert keep_features(base, config) == "the family's tower gives more than features"
    assert not (tmp_path / "kept").exists()
    del base.model.get_image_features
    assert keep_features(base, config) is base.model.get_image_features


@pytest.mark.slow
def test_another_weight_configuration_or_precision_has_other_entries_and_another_folder_not(
    tiny_model: Path, tmp_path: Path
) -> None:
    def maker(model: Path, precision: torch.dtype = torch.float32) -> str:
        tower = load_tower(str(model), dtype=precision, device="cpu")
        return made_by(str(model), tower_weights(tower), precision=precision)

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    whole, _ = loaded(tiny_model, tmp_path)
    own = made_by(str(tiny_model), tower_weights(whole), precision=torch.float32)
    assert own == maker(tiny_model) == maker(copy)
    found = {own, maker(copy, torch.bfloat16)}
    for name in ("vision_tower", "multi_modal_projector"):
        file = copy / "model.safetensors"
        weights = load_file(file)
        changed = next(weight for key, weight in weights.items() if name in key)
        changed.view(-1)[-1] += 1
        save_file(weights, file, metadata={"format": "pt"})
        found.add(maker(copy))
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["layer_norm_eps"] = 0.1
    (copy / "config.json").write_text(json.dumps(config))
    found.add(maker(copy))
    assert len(found) == 5


@pytest.mark.slow
def test_another_processor_has_other_entries(tiny_model: Path, walks: Path, tmp_path: Path) -> None:
    base, config = loaded(tiny_model, tmp_path)
    cache = keep_features(base, config)
    assert isinstance(cache, FeatureCache)
    picture_features(base, batch_of(tiny_model, walks, 0))
    (one,) = cache.take_seen()
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (file,) = [path for path in other.glob("*processor_config.json") if "image_mean" in path.read_text()]
    written = json.loads(file.read_text())
    written.get("image_processor", written)["image_mean"] = [0.4, 0.5, 0.5]
    file.write_text(json.dumps(written))
    picture_features(base, batch_of(other, walks, 0))
    assert one not in cache.take_seen()


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
        said = "once" if gib else "every time: feature_cache_gib is 0"
        assert f"  {'a picture goes through the tower':<38} {said}\n" in ended.output
        history = json.loads((folder / "run" / "metrics.json").read_text())["history"]
        told.append(
            [{k: v for k, v in e.items() if not k.endswith(("runtime", "per_second", "_gib"))} for e in history]
        )
        assert (folder / ".cache" / "features").exists() == bool(gib)
    assert len(told[0]) > 30 // 10 and told[0] == told[1]
