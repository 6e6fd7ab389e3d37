"""Features of pictures before a run: the tower alone fills the store, and the run then loads its model without the
tower."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import __version__
from trainer.config import TrainConfig
from trainer.data.examples import encode_learned
from trainer.data.filled import Filled, entry_path, read_filled, read_keys, sample_of, write_filled
from trainer.data.lengths import processor_digest, sample_pictures
from trainer.data.records import Dataset, each_answer
from trainer.data.tensors import pad_and_stack, tensor_layout
from trainer.data.turns import Record
from trainer.model.base import load_model_config
from trainer.model.behaviour import batch_on
from trainer.model.contract import under_deepspeed
from trainer.model.feature_store import FeatureStore
from trainer.model.features import FeatureCache, keep_features, open_store, store_folder
from trainer.model.refusal import UNFIT, first_words, is_of_machine, refusing
from trainer.model.tower import load_tower, made_by, precision_here, stands_alone, tower_weights
from trainer.model.traits import picture_features
from trainer.node.ranks import Ranks
from trainer.outcome import ConfigError, RecordError
from trainer.terminal import LAST_ROW

READERS = 4  # threads: preparing a picture takes longer than the tower does on a large GPU
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """A store that holds the features of every picture of a run."""

    store: FeatureStore
    parts: tuple[str, ...]
    """The modules that the run's model does not need."""
    load: Callable[[], Any]
    """Loads the tower alone, for a picture that is not there in the end."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What filling a store has done."""

    keys: list[str]
    """Names of the entries of all pictures."""
    computed: int
    unreadable: dict[str, str]
    """Why sets of pictures have no features, by the sets' names (`set_name`)."""
    lacking: int
    """Entries for which there was no room."""
    maker: str
    parts: tuple[str, ...]


def with_pictures(dataset: Dataset) -> list[Record]:
    """One record for each set of pictures that an answer sees. A conversation's earlier answers see its first pictures
    alone: a run asks for these answers when it scores, and learns them one by one where its chat template rewrites
    them. Some families make the features of all pictures of a record together."""
    found: dict[tuple[tuple[str, ...], ...], Record] = {}
    for record in each_answer((*dataset.train, *dataset.eval)):
        if record.pictures:
            found.setdefault(tuple(picture.paths for picture in record.pictures), record)
    return list(found.values())


def set_name(record: Record) -> str:
    """A name of the pictures that a record shows, the same wherever their folder lies."""
    ends = [path.parts[-2:] for path in record.images]
    return hashlib.sha256(repr(ends).encode()).hexdigest()[:40]


def fill(config: TrainConfig, records: Sequence[Record], processor: Any, *, device: Any, say: Say, drawn: bool) -> Done:
    """Let the tower alone compute what the store lacks of these records' pictures. What is there is read, and so
    checked.

    Raises ConfigError when this model's features cannot be kept.
    """
    tower = load_tower(config.model, dtype=precision_here(), device=device)
    parts: tuple[str, ...] = ()
    cache: FeatureCache | str = "no record has a picture"
    unreadable: dict[str, str] = {}
    keys: list[str] = []
    with (
        LAST_ROW.counting(len(records), "features of pictures", drawn=drawn) as count,
        refusing(config.model, "asked for the features of its pictures", UNFIT),
        torch.inference_mode(),
    ):
        for record, example in zip(records, encoded(processor, records), strict=True):
            count(1)
            if isinstance(example, RecordError):
                unreadable[set_name(record)] = example.words
                continue
            if not parts:
                parts = _parts_used(tower, example)
                cache = keep_features(tower, config, say)
            if isinstance(cache, FeatureCache):
                picture_features(tower, example)
                keys += cache.take_seen()
    if isinstance(cache, str) or cache.unlike:
        why = cache if isinstance(cache, str) else "they come in a form of the family's own"
        if len(unreadable) == len(records) > 0:
            why = f"no record can be read: {next(iter(unreadable.values()))}"
        raise ConfigError(
            f"the features of its pictures cannot be kept ({why}): leave them out", name="MODEL", given=config.model
        )
    cache.close()
    lacking = len(cache.store.missing(set(keys)))
    return Done(
        keys=keys, computed=cache.computed, unreadable=unreadable, lacking=lacking, maker=cache.store.folder.name,
        parts=parts,
    )  # fmt: skip


def encoded(processor: Any, records: Iterable[Record]) -> Iterator[dict[str, Tensor] | RecordError]:
    """The batch of each record alone, in order, prepared by threads a little ahead."""

    def prepare(record: Record) -> dict[str, Tensor] | RecordError:
        try:
            example = encode_learned(processor, record)
        except RecordError as error:
            return error
        pad_id = processor.tokenizer.pad_token_id
        return pad_and_stack([example], pad_id=pad_id, side="right", layout=tensor_layout(processor))

    waiting: list[Future[dict[str, Tensor] | RecordError]] = []
    with ThreadPoolExecutor(READERS) as threads:
        for record in records:
            waiting.append(threads.submit(prepare, record))
            if len(waiting) > 2 * READERS:
                yield waiting.pop(0).result()
        yield from (one.result() for one in waiting)


def _parts_used(tower: Any, batch: dict[str, Tensor]) -> tuple[str, ...]:
    """The outermost modules of a tower alone that have weights and that its features are made by."""
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in tower.named_modules()
    ]
    try:
        picture_features(tower, batch)
    finally:
        for hook in hooks:
            hook.remove()
    backbone = tower.base_model
    prefix = next(name for name, module in tower.named_modules() if module is backbone)
    paths = [f"{prefix}.{name}".lstrip(".") for name, _ in backbone.named_children()]
    used = {path for path in paths if any(f"{name}.".startswith(f"{path}.") for name in called)}
    return tuple(path for path in paths if path in used and any(True for _ in tower.get_submodule(path).parameters()))


def record_filled(config: TrainConfig, dataset: Dataset, done: Done) -> tuple[Path, Filled]:
    """Say in the store that it is complete for these records."""
    keys, store = sorted(set(done.keys)), store_folder(config)
    records = with_pictures(dataset)
    sizes = [entry_path(store, done.maker, key).stat().st_size for key in keys]
    filled = Filled(
        model=config.model, data_sha256=dataset.sha256, processor_sha256=processor_digest(Path(config.model)),
        trainyard=__version__, precision=str(precision_here()).removeprefix("torch."), made_by=done.maker,
        parts=done.parts, entries=len(keys), size_bytes=sum(sizes), sample=sample_of(keys),
        left_out=tuple(done.unreadable),
        picture_bytes=sample_pictures(Path(path) for record in records for path in record.images),
    )  # fmt: skip
    return write_filled(store, filled, keys), filled


def find_ahead(
    config: TrainConfig, dataset: Dataset, processor: Any, *, device: Any, ranks: Ranks, share: slice, say: Say
) -> Ahead | None:
    """The store, if it holds the features of every picture, or if they were asked for ahead: what it lacks is then
    computed now, by the tower alone, each process its `share`. None when the run needs the tower. Collective."""
    records = with_pictures(dataset)
    if not records:
        return None
    precision = str(precision_here()).removeprefix("torch.")
    filled = ranks.rank0_only(partial(read_filled, store_folder(config), dataset.sha256, config.model, precision))
    if filled is None and not config.features_ahead:
        return None
    if why := _impossible(config):
        say(f"the image tower is loaded, though features were made ahead: {why}")
        return None
    maker = ranks.rank0_only(partial(_maker, config.model))
    if filled and filled.made_by != maker:
        say("the image tower's weights are others than those that made the features ahead")
        filled = None
    try:
        store, why = open_store(config, maker), ""
    except OSError as error:
        why = f"{store_folder(config)} cannot be written: {error.strerror}"
    if ranks.any(bool(why)):
        say(f"the image tower is loaded, though features were made ahead: {why}")
        return None
    keys = ranks.rank0_only(partial(read_keys, store.root, filled)) if filled else None
    lacking = (
        len(records) if filled is None or keys is None else len(store.missing(keys)) + _read_since(filled, records)
    )
    if filled is None and not config.features_ahead:
        return None
    parts = filled.parts if filled else ()
    if ranks.any(lacking > 0):
        say(f"features of {lacking} pictures are made ahead, by the image tower alone ...")
        own = _from_elsewhere(records[share], config.run_id)
        done, why = None, ""
        try:
            done = fill(config, own, processor, device=device, say=say, drawn=ranks.first) if own else None
            if done and done.lacking:
                why = f"{store.root} has no room for the features of all pictures"
            if done and done.unreadable:
                why = next(iter(done.unreadable.values()))
        except ConfigError as error:
            why = str(error)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if ranks.any(bool(why)):
            say(f"the image tower is loaded: {why}")
            return None
        parts = ranks.rank0_only(lambda: done.parts if done else ())
        if done and len(own) == len(records):
            with suppress(OSError):  # the next start looks for all of them again
                record_filled(config, dataset, done)
    say(f"features: all pictures' are kept in {store.root}, and the image tower is left off")
    load = partial(load_tower, config.model, dtype=precision_here(), device=device)
    return Ahead(store=store, parts=parts, load=load)


def _read_since(filled: Filled, records: Sequence[Record]) -> int:
    """How many sets of pictures this run can read that could not be read when the store was filled."""
    unread = set(filled.left_out)
    return sum(set_name(record) in unread for record in records) if unread else 0


def _from_elsewhere(records: list[Record], run_id: str) -> list[Record]:
    """The same records, begun at a place that differs from run to run: members of a sweep that start at once then make
    the features of different pictures, and read what the others made."""
    place = int(hashlib.sha256(run_id.encode()).hexdigest(), 16) % max(1, len(records))
    return [*records[place:], *records[:place]]


def _impossible(config: TrainConfig) -> str:
    """Why a run with these settings needs the tower, in words; "" when it may do without."""
    if config.vision == "lora":
        return "adapters in the tower change them"
    if not config.feature_cache_gib:
        return "feature_cache_gib is 0"
    if under_deepspeed():
        return "ZeRO-3 keeps none"
    return "" if stands_alone(load_model_config(config.model)) else "the tower lies inside the language model"


def _maker(model: str) -> str:
    tower = load_tower(model, dtype=precision_here(), device="cpu")
    return made_by(model, tower_weights(tower), precision=precision_here())


def put_in(base: Any, ahead: Ahead, batch: dict[str, Tensor], say: Say) -> FeatureCache | None:
    """Let a `base` without its tower take the features from the store; None, with the reason logged, when it needs
    the tower for more."""
    cache = FeatureCache(base.base_model.get_image_features, ahead.store, say=say, load=ahead.load)
    base.base_model.get_image_features = cache
    inputs, _, _ = batch_on(base, batch)
    try:
        half = precision_here() == torch.bfloat16
        with torch.no_grad(), torch.autocast(base.device.type, torch.bfloat16, enabled=half):
            base.base_model(**inputs, use_cache=False)
    except Exception as error:
        if is_of_machine(error):
            raise
        say(f"the image tower is loaded: the model needs it for more than features ({first_words(error)})")
        cache.close()
        del base.base_model.get_image_features  # cache and model would keep each other in memory
        return None
    return cache
