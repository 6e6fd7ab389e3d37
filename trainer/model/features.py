"""Computes the frozen tower's features of a picture once, for all epochs, evaluations, attempts and runs.

At Gemma 3's shape the tower is half of a step's FLOPs. Its features (1.3 MB a picture at that shape) are kept in a
store that runs share (trainer/model/feature_store.py). A picture goes through the tower alone and in the precision of
training, so its features depend neither on its batch nor on who asked first: a run that finds them ends like a run
that computes them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from inspect import signature
from itertools import chain
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trainer.config import TrainConfig
from trainer.files import CACHE_NAME
from trainer.model.base import precision_here
from trainer.model.behaviour import token_losses
from trainer.model.contract import under_deepspeed
from trainer.model.feature_store import IN_USE_S, FeatureStore
from trainer.model.refusal import first_words, is_of_machine
from trainer.model.tower import dropping, made_by, tower_weights
from trainer.text import GIB

SAME_FEATURES = 0.01  # nats by which a loss may differ; in fp32 it differs by 1e-6
MOST_WAITING = 32
"""So many pictures at most wait to be written: a tower that is faster than the disk waits, or memory would run out."""
WIDTH, MOST_ROWS = 1 << 12, 1 << 16  # of the table in which a tensor's numbers are laid out to be hashed


class FeatureCache:
    """Replaces a model's `get_image_features`."""

    def __init__(
        self, compute: Any, store: FeatureStore, *, say: Callable[[str], object], load: Callable[[], Any] | None = None
    ) -> None:
        """`compute` is the method that is replaced. `load` loads the tower alone, for a model without it, when a
        picture's features are not in the store."""
        self._owner, self._compute, self._say, self.store, self._load = compute.__self__, compute, say, store, load
        self.unlike = False
        """Whether the family takes or returns its features in a form that cannot be kept."""
        self.__signature__ = signature(compute)  # generate() reads there which arguments it may pass
        self._writer, self._room = ThreadPoolExecutor(1, "features"), BoundedSemaphore(MOST_WAITING)
        self._touch_at = 0.0
        self._half = precision_here() == torch.bfloat16
        self.computed = 0
        """How many pictures have gone through the tower."""
        self._taken = 0
        self._seen: list[str] = []
        self._other = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.__signature__.bind(*args, **kwargs).arguments
        options = bound.pop("kwargs", {})
        given = {name: value for name, value in bound.items() if isinstance(value, Tensor)}
        options |= {name: value for name, value in bound.items() if name not in given}
        if not self.unlike and GRID not in given and len(set(map(len, given.values()))) != 1:
            self._give_up(f"{', '.join(given)} are not of one row a picture")
        if self.unlike:
            return self._compute(*args, **kwargs)
        if self.without_tower and time.monotonic() >= self._touch_at:
            self._touch_at = time.monotonic() + IN_USE_S / 2
            self._writer.submit(self.store.touch_held)
        pictures = list(_one_by_one(given))
        sums = torch.stack([torch.cat([fingerprint(t) for t in picture.values()]) for picture in pictures]).tolist()
        found: list[Any] = [
            self._features(picture, told, options) for picture, told in zip(pictures, sums, strict=True)
        ]
        if self.unlike:
            return self._compute(*args, **kwargs)
        if self._other:
            found = [-f.flip(-1) if isinstance(f, Tensor) else tuple(-part.flip(-1) for part in f) for f in found]
        # In the family's form: the features of all pictures in one tensor, or in one for each.
        features = torch.cat(found) if isinstance(found[0], Tensor) else tuple(chain.from_iterable(found))
        return BaseModelOutputWithPooling(pooler_output=features)  # type: ignore[arg-type]

    def _features(
        self, picture: Mapping[str, Tensor], told: list[int], options: Mapping[str, Any]
    ) -> Tensor | tuple[Tensor, ...]:
        asked = f"{[*picture]} {told} {sorted(map(repr, options.items()))}"
        key = hashlib.sha256(asked.encode()).hexdigest()[:40]
        self._seen.append(key)
        device = next(iter(picture.values())).device
        if kept := self.store.read(key):
            # A copy: the file may go while the tensor is in use.
            tensors = {name: tensor.to(device, copy=True) for name, tensor in kept.items()}
            return tensors[WHOLE] if WHOLE in tensors else tuple(tensors[str(i)] for i in range(len(tensors)))
        self._need_tower()
        with torch.autocast(device.type, torch.bfloat16, enabled=self._half):
            found = self._compute(**picture, **options).pooler_output
        tensors = {WHOLE: found} if isinstance(found, Tensor) else {str(i): part for i, part in enumerate(found)}
        if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            self._give_up(f"they come as {type(next(iter(tensors.values()))).__name__}")
            return ()
        self.computed += 1
        self._taken += self._owner.training
        # A view would be saved with the whole tensor that it belongs to.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        self._room.acquire()
        self._writer.submit(self.store.write, key, copies).add_done_callback(lambda _: self._room.release())
        return found if isinstance(found, Tensor) else tuple(found)

    def _need_tower(self) -> None:
        if self._load:
            self._say("the features of a picture are not in the store: the image tower is loaded after all")
            load, self._load = self._load, None
            # Kept apart, so that nothing that looks through the model finds it.
            self._compute = load().base_model.get_image_features

    @contextmanager
    def other_picture(self) -> Iterator[None]:
        """Within this, all features are as if the pictures were others."""
        self._other = True
        try:
            yield
        finally:
            self._other = False

    def _give_up(self, why: str) -> None:
        if self.unlike:
            return
        self.unlike = True
        self._say(f"the features of pictures cannot be kept for this family ({why}): the tower runs every time")

    @property
    def without_tower(self) -> bool:
        """Whether the model has no tower, and none had to be loaded."""
        return self._load is not None

    def take_computed(self) -> int:
        """How many pictures have gone through the tower in training since the last call."""
        taken, self._taken = self._taken, 0
        return taken

    def take_seen(self) -> list[str]:
        """The names of the pictures that were asked for since the last call."""
        taken, self._seen = self._seen, []
        return taken

    def settle(self) -> None:
        """Wait until everything computed so far is written."""
        self._writer.submit(bool).result()

    def close(self) -> None:
        """Wait until everything is written, and end the writer."""
        self._writer.shutdown()


WHOLE = "features"  # the name of a picture's single tensor; several tensors are numbered
# Qwen puts the patches of all pictures into one row; this argument says how many belong to each
GRID = "image_grid_thw"


def store_folder(config: TrainConfig) -> Path:
    """The folder of kept features: `feature_store`, else one that all runs of a folder share."""
    return Path(config.feature_store or Path(config.output_dir).parent / CACHE_NAME / "features")


def why_not(base: Any, config: TrainConfig) -> str:
    """Why the features of pictures cannot be kept, in words; "" when they can."""
    compute = getattr(base.base_model, "get_image_features", None)
    if compute is None:
        return "the family has no method for them"
    if not config.feature_cache_gib:
        return "feature_cache_gib is 0"
    if config.vision == "lora":
        return "adapters in the tower change them"
    if under_deepspeed():
        # All processes gather the tower's shards together, even when one of them has kept a picture. Now it is whole:
        # DeepSpeed shards it before the first step.
        return "ZeRO-3 shards the tower"
    if signature(compute).return_annotation != tuple | BaseModelOutputWithPooling:
        return "the family's tower gives more than features"
    return dropping(base)


def keep_features(base: Any, config: TrainConfig, say: Callable[[str], object] = bool) -> FeatureCache | str:
    """Let `base` compute the features of each picture once. Returns why that is impossible, with nothing changed,
    otherwise."""
    if why := why_not(base, config):
        return why
    try:
        store = open_store(config, made_by(config.model, tower_weights(base), precision=precision_here()))
    except OSError as error:
        return f"{store_folder(config)} cannot be written: {error.strerror}"
    base.base_model.get_image_features = FeatureCache(base.base_model.get_image_features, store, say=say)
    kept: FeatureCache = base.base_model.get_image_features
    return kept


def open_store(config: TrainConfig, maker: str) -> FeatureStore:
    """The store of the run, for the features that `maker` makes. Raises OSError."""
    return FeatureStore(store_folder(config), maker, most_bytes=config.feature_cache_gib * GIB)


def check_features(
    cache: FeatureCache, model: Any, batch: Mapping[str, Tensor], say: Callable[[str], object]
) -> FeatureCache | str:
    """The cache, if the losses of `batch` with its features, computed and read back, equal those without it; else the
    reason, which is logged, with the model restored."""
    if not any(tensor.is_floating_point() for tensor in batch.values()):
        return cache
    backbone = model.get_base_model().base_model
    try:
        computed = token_losses(model, dict(batch))
        cache.settle()
        kept = [computed, token_losses(model, dict(batch))]
    except Exception as error:
        if is_of_machine(error):
            raise
        kept, why = [], first_words(error)
    del backbone.get_image_features  # restores the method of the class
    plain = token_losses(model, dict(batch))
    if kept:
        off = max((losses - plain).abs().max().item() for losses in kept)
        if off <= SAME_FEATURES:
            backbone.get_image_features = cache
            return cache
        why = f"a loss differs by {off:.3f} nats"
    say(f"the features of pictures are not kept, as the model would be trained otherwise ({why})")
    cache.close()
    return why


def _one_by_one(given: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The arguments for each picture; for each record, when a record's pictures lie in one row."""
    if GRID not in given:
        count = len(next(iter(given.values())))
        yield from ({name: t[i : i + 1] for name, t in given.items()} for i in range(count))
        return
    grid = given[GRID]
    for i, patches in enumerate(given["pixel_values"].split(grid.prod(-1).tolist())):
        yield {"pixel_values": patches, GRID: grid[i : i + 1]}


@lru_cache(maxsize=2)
def _weights(device: torch.device) -> tuple[Tensor, ...]:
    drawn = torch.Generator().manual_seed(0)
    most = 1 << 63
    return tuple(torch.randint(-most, most - 1, (2, n), generator=drawn).to(device) for n in (WIDTH, MOST_ROWS))


def fingerprint(tensor: Tensor) -> Tensor:
    """(2) int64 that differ between any two tensors that differ in more than zeros at their end: sums of all
    elements, as whole numbers modulo 2^64, times random numbers. Computed on the tensor's device."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    numbers = tensor.contiguous().flatten().view(whole).long()
    rows = torch.nn.functional.pad(numbers, (0, -len(numbers) % WIDTH)).view(-1, WIDTH)
    columns, down = _weights(tensor.device)
    return torch.stack([((rows * columns[i]).sum(1) * down[i, : len(rows)]).sum() for i in (0, 1)])
