"""Computes the frozen tower's features of a picture once: a run sees the same pictures every epoch and every
evaluation.

At Gemma 3's shape the tower is half of a step's FLOPs. Its features (1.3 MB a picture at that shape) are kept in
files beside the run, shared by its processes and attempts. A picture goes through the tower alone, so its features
depend neither on its batch nor on what was kept before: a run that was stopped ends like a run that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trainer.config import TrainConfig
from trainer.files import own_folder
from trainer.model.behaviour import token_losses
from trainer.model.refusal import first_words, is_of_machine
from trainer.text import GIB

SAME_FEATURES = 0.01  # nats by which a loss may differ; in fp32 it differs by 1e-6
FREE_SHARE = 4  # use at most one part in so many of the free disk space
WIDTH, MOST_ROWS = 1 << 12, 1 << 16  # of the table in which a tensor's numbers are laid out to be hashed


class FeatureCache:
    """Replaces a model's `get_image_features`."""

    def __init__(self, compute: Any, config: TrainConfig, *, again: bool, say: Callable[[str], object]) -> None:
        """`again`: pictures of the training records will be seen more than once, not only those that are evaluated."""
        self._compute, self._again, self._say = compute, again, say
        self._unlike = False
        """Whether the family takes or returns its features in a form that cannot be kept."""
        self.__signature__ = signature(compute)  # generate() reads there which arguments it may pass
        self._folder = own_folder(features_dir(config))
        free_bytes = shutil.disk_usage(self._folder).free / FREE_SHARE
        self._room_bytes = min(config.feature_cache_gib * GIB, free_bytes) / config.world_size
        self._made_by = f"{config.model} {compute.__self__.dtype}"
        self._writer = ThreadPoolExecutor(1, "features")
        self._computed = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.__signature__.bind(*args, **kwargs).arguments
        options = bound.pop("kwargs", {})
        given = {name: value for name, value in bound.items() if isinstance(value, Tensor)}
        options |= {name: value for name, value in bound.items() if name not in given}
        if not self._unlike and GRID not in given and len(set(map(len, given.values()))) != 1:
            self._give_up(f"{', '.join(given)} are not of one row a picture")
        if self._unlike:
            return self._compute(*args, **kwargs)
        pictures = list(_one_by_one(given))
        keys = torch.stack([torch.cat([fingerprint(t) for t in picture.values()]) for picture in pictures]).tolist()
        found: list[Any] = [self._features(picture, key, options) for picture, key in zip(pictures, keys, strict=True)]
        if self._unlike:
            return self._compute(*args, **kwargs)
        # In the family's form: the features of all pictures in one tensor, or in one for each.
        features = torch.cat(found) if isinstance(found[0], Tensor) else tuple(chain.from_iterable(found))
        return BaseModelOutputWithPooling(pooler_output=features)  # type: ignore[arg-type]

    def _features(
        self, picture: Mapping[str, Tensor], key: list[int], options: Mapping[str, Any]
    ) -> Tensor | tuple[Tensor, ...]:
        name = "".join(f"-{part & (1 << 64) - 1:016x}" for part in key)
        asked = hashlib.blake2b(f"{self._made_by} {sorted(map(repr, options.items()))}".encode(), digest_size=4)
        path = self._folder / f"{asked.hexdigest()}{name}.safetensors"
        with contextlib.suppress(OSError, SafetensorError):  # the file is missing, or cut off
            kept = load_file(path, device=str(next(iter(picture.values())).device))
            return kept[WHOLE] if WHOLE in kept else tuple(kept[str(i)] for i in range(len(kept)))
        found = self._compute(**picture, **options).pooler_output
        tensors = {WHOLE: found} if isinstance(found, Tensor) else {str(i): part for i, part in enumerate(found)}
        if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            self._give_up(f"they come as {type(next(iter(tensors.values()))).__name__}")
            return ()
        training = self._compute.__self__.training
        self._computed += training
        size_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if size_bytes <= self._room_bytes and (self._again or not training):
            self._room_bytes -= size_bytes
            # A view would be saved with the whole tensor that it belongs to.
            copies = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
            self._writer.submit(self._write, path, copies)
        return found if isinstance(found, Tensor) else tuple(found)

    def _give_up(self, why: str) -> None:
        if self._unlike:
            return
        self._unlike = True
        self._say(f"the features of pictures cannot be kept for this family ({why}): the tower runs every time")

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        part = path.with_suffix(f".{os.getpid()}")
        try:
            part.unlink(missing_ok=True)
            save_file(tensors, part)
            part.replace(path)
        except (OSError, SafetensorError):  # a full disk or quota: checkpoints need the space more
            self._room_bytes = 0
            shutil.rmtree(self._folder, ignore_errors=True)

    def take_computed(self) -> int:
        """How many pictures have gone through the tower in training since the last call."""
        taken, self._computed = self._computed, 0
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


def features_dir(config: TrainConfig) -> Path:
    return Path(config.output_dir, "features")


def keep_features(
    base: Any, config: TrainConfig, records: int, say: Callable[[str], object] = bool
) -> FeatureCache | None:
    """Let `base` compute the features of each picture once, in a run that trains on `records` records.

    Returns None, with nothing changed, when that is impossible: adapters or dropout change the tower's output; ZeRO-3
    gathers the tower's shards on all processes together, even when one of them has kept a picture; some families
    return more than the features.
    """
    backbone = base.base_model
    compute = getattr(backbone, "get_image_features", None)
    drops = getattr(getattr(base.config, "vision_config", None), "attention_dropout", 0)
    sharded = any(hasattr(parameter, "ds_numel") for parameter in base.parameters())
    if compute is None or drops or sharded or config.vision == "lora" or not config.feature_cache_gib:
        return None
    if signature(compute).return_annotation != tuple | BaseModelOutputWithPooling:
        return None
    effective = config.micro_batch_size * config.gradient_accumulation_steps * config.world_size
    again = config.max_steps * effective > records
    backbone.get_image_features = FeatureCache(compute, config, again=again, say=say)
    return backbone.get_image_features


def check_features(
    cache: FeatureCache | None, model: Any, batch: Mapping[str, Tensor], say: Callable[[str], object]
) -> FeatureCache | None:
    """The cache, if the losses of `batch` with its features, computed and read back, equal those without it; else
    None, with the model restored and the reason logged."""
    if cache is None or not any(tensor.is_floating_point() for tensor in batch.values()):
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
    return None


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
