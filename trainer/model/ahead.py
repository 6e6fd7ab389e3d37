"""A run whose pictures all have features in the store, made now where it asks for that: it loads its model without the
tower."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.filled import Filled, read_filled, read_keys
from trainer.data.records import Dataset
from trainer.data.turns import Record
from trainer.model.base import precision_here, precision_name
from trainer.model.behaviour import batch_on
from trainer.model.contract import under_deepspeed
from trainer.model.feature_store import FeatureStore
from trainer.model.features import FeatureCache, open_store, store_folder
from trainer.model.filling import Say, fill, record_filled, set_name, with_pictures
from trainer.model.refusal import first_words, is_of_machine
from trainer.model.tower import load_tower, made_by, stands_alone, tower_weights
from trainer.node.stop import Stop
from trainer.outcome import ConfigError

BETWEEN_STOPS = 8  # records: on a CPU one may take seconds, and a job is told to stop two minutes before it must


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """A store that holds the features of every picture of a run."""

    store: FeatureStore
    parts: tuple[str, ...]
    """The modules that the run's model does not need."""
    load: Callable[[], Any]
    """Loads the tower alone, for a picture that is not there in the end."""


def find_ahead(
    config: TrainConfig, dataset: Dataset, processor: Any, *, device: Any, stop: Stop, share: slice, say: Say
) -> Ahead | None:
    """The store, if it holds the features of every picture, or if they were asked for ahead: what it lacks is then
    computed now, by the tower alone, each process its `share`. None when the run needs the tower, or is to stop.
    Collective."""
    records, ranks = with_pictures(dataset), stop.ranks
    if not records:
        return None
    where = (store_folder(config), dataset.sha256, config.model, precision_name())
    filled = ranks.rank0_only(partial(read_filled, *where))
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
    parts, held = filled.parts if filled else (), (keys or [])[share]
    if ranks.any(lacking > 0):
        say(f"features of {lacking} pictures are made ahead, by the image tower alone ...")
        own = _from_elsewhere(records[share], config.run_id)
        in_rounds = _until_stopped(own, len(records[:: share.step]), stop)
        done, why = None, ""
        try:
            if own:
                done = fill(
                    config, in_rounds, processor, total=len(own), device=device, say=say, drawn=ranks.first
                )  # fmt: skip
            if done and done.lacking:
                why = f"{store.root} has no room for the features of all pictures"
            if done and done.unreadable:
                why = next(iter(done.unreadable.values()))
        except ConfigError as error:
            why = str(error)
        for _ in in_rounds:  # the others wait for this process in every round, also when it has failed
            pass
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if stop.wanted():
            stop.moved_on = ranks.any(done is not None and done.computed > 0)
            return None
        if ranks.any(bool(why)):
            say(f"the image tower is loaded: {why}")
            return None
        parts, held = ranks.rank0_only(lambda: done.parts if done else ()), done.keys if done else []
        if done and len(own) == len(records):
            with suppress(OSError):  # the next start looks for all of them again
                record_filled(config, dataset, done)
    store.hold(held)
    say(f"features: all pictures' are kept in {store.root}, and the image tower is left off")
    load = partial(load_tower, config.model, dtype=precision_here(), device=device)
    return Ahead(store=store, parts=parts, load=load)


def _until_stopped(records: Sequence[Record], rounds: int, stop: Stop) -> Iterator[Record]:
    """These records, until the run is to stop. Collective: every process goes through all `rounds`, though it may have
    fewer records."""
    for place in range(rounds):
        if place % BETWEEN_STOPS == 0 and stop.wanted():
            return
        yield from records[place : place + 1]


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
    return "" if stands_alone(config.model) else "the tower lies inside the language model"


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
