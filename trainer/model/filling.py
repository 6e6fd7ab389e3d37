"""Fills the store of picture features with the image tower alone, for `python -m trainer features` and for a run that
asks for features ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import __version__
from trainer.config import TrainConfig
from trainer.data.examples import encode_learned
from trainer.data.filled import Filled, entry_path, sample_of, write_filled
from trainer.data.lengths import processor_digest, sample_pictures
from trainer.data.records import Dataset, each_answer
from trainer.data.tensors import pad_and_stack, tensor_layout
from trainer.data.turns import Record
from trainer.model.base import precision_here, precision_name
from trainer.model.features import FeatureCache, keep_features, store_folder
from trainer.model.refusal import UNFIT, refusing
from trainer.model.tower import load_tower
from trainer.model.traits import picture_features
from trainer.outcome import ConfigError, RecordError
from trainer.terminal import LAST_ROW

READERS = 4  # threads: preparing a picture takes longer than the tower does on a large GPU
Say = Callable[[str], object]


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


def fill(
    config: TrainConfig, records: Iterable[Record], processor: Any, *, total: int, device: Any, say: Say, drawn: bool
) -> Done:
    """Let the tower alone compute what the store lacks of these records' pictures, at most `total` records. What is
    there is read, and so checked.

    Raises ConfigError when this model's features cannot be kept.
    """
    tower = load_tower(config.model, dtype=precision_here(), device=device)
    parts: tuple[str, ...] = ()
    cache: FeatureCache | str = "no record has a picture"
    unreadable: dict[str, str] = {}
    keys: list[str] = []
    with (
        LAST_ROW.counting(total, "features of pictures", drawn=drawn) as count,
        refusing(config.model, "asked for the features of its pictures", UNFIT),
        torch.inference_mode(),
    ):
        for record, example in encoded(processor, records):
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
        if unreadable and not parts:
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


def encoded(processor: Any, records: Iterable[Record]) -> Iterator[tuple[Record, dict[str, Tensor] | RecordError]]:
    """(record, its batch alone) for each, in order, prepared by threads a little ahead."""

    def prepare(record: Record) -> dict[str, Tensor] | RecordError:
        try:
            example = encode_learned(processor, record)
        except RecordError as error:
            return error
        pad_id = processor.tokenizer.pad_token_id
        return pad_and_stack([example], pad_id=pad_id, side="right", layout=tensor_layout(processor))

    waiting: list[tuple[Record, Future[dict[str, Tensor] | RecordError]]] = []
    with ThreadPoolExecutor(READERS) as threads:
        for record in records:
            waiting.append((record, threads.submit(prepare, record)))
            if len(waiting) > 2 * READERS:
                first, ready = waiting.pop(0)
                yield first, ready.result()
        yield from ((one, ready.result()) for one, ready in waiting)


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
        trainyard=__version__, precision=precision_name(), made_by=done.maker,
        parts=done.parts, entries=len(keys), size_bytes=sum(sizes), sample=sample_of(keys),
        left_out=tuple(done.unreadable),
        picture_bytes=sample_pictures(Path(path) for record in records for path in record.images),
    )  # fmt: skip
    return write_filled(store, filled, keys), filled
