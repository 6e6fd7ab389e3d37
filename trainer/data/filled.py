"""Data sets whose pictures all have features in a store, as `python -m trainer features` filled it: the plan and a
run's start read this. Torch-free, because `plan` reads it.

    STORE/sets/<data>-<model and precision>.json    what was filled, and with what
    STORE/sets/<data>-<model and precision>.keys    the names of the pictures' entries, one a line
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import __version__
from trainer.data.lengths import SAMPLED, processor_digest
from trainer.files import MIB, own_folder, read_json, regular, write_whole

SETS = "sets"
SUFFIX = ".safetensors"
MOST_KEYS_MIB = 512
KEY = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    model: str
    """The model as it was given, a hub id or a folder."""
    data_sha256: str
    processor_sha256: str | None
    """Digest of the files that configure the processor, where `model` is a folder."""
    trainyard: str
    precision: str
    """bfloat16 on a GPU, else float32."""
    made_by: str
    """The name of what made the features: weights, configuration and libraries."""
    parts: tuple[str, ...]
    """Modules of the model that are needed for features alone."""
    entries: int
    size_bytes: int
    sample: tuple[str, ...]
    """At most SAMPLED of the entries, spread evenly: a login node should not look for all."""
    picture_bytes: dict[str, int]
    """Sizes of at most SAMPLED picture files, by their paths."""
    left_out: tuple[str, ...] = ()
    """Names of the sets of pictures that could not be read: a run that reads one of them makes its features."""


def precision_of(device: str) -> str:
    """The precision in which a run on `device` computes."""
    return "bfloat16" if device == "cuda" else "float32"


def entry_path(store: Path, made_by: str, key: str) -> Path:
    """The file of a picture's features."""
    return store / made_by / key[:2] / f"{key}{SUFFIX}"


def sample_of(keys: Sequence[str]) -> tuple[str, ...]:
    ordered = sorted(set(keys))
    return tuple(ordered[:: -(-len(ordered) // SAMPLED) or 1])


def write_filled(store: Path, filled: Filled, keys: Sequence[str]) -> Path:
    path = sets_path(store, filled.data_sha256, filled.model, filled.precision)
    own_folder(path.parent)
    write_whole(path.with_suffix(".keys"), "".join(f"{key}\n" for key in sorted(set(keys))))
    write_whole(path, json.dumps(dataclasses.asdict(filled), indent=1) + "\n")
    return path


def read_filled(store: Path, data_sha256: str, model: str, precision: str, project_dir: Path = Path()) -> Filled | None:
    """What was filled for these bytes, this model and this precision; None when nothing was, or the model's processor
    or the pictures are others now. A folder and pictures that are not on this machine are not compared."""
    try:
        entry = read_json(sets_path(store, data_sha256, model, precision))
        found = Filled(**{**entry, **{name: tuple(entry[name]) for name in ("parts", "sample", "left_out")}})
        here = {path: os.path.getsize(path) for path in found.picture_bytes if os.path.isfile(path)}
        named = [found.made_by, *found.sample, *found.left_out]
        whole = all(KEY.fullmatch(name) for name in named) and all(isinstance(part, str) for part in found.parts)
        numbers = isinstance(found.entries, int) and isinstance(found.size_bytes, int)
        processor = processor_digest(project_dir / model)
        same = (
            (found.data_sha256, found.precision, found.trainyard) == (data_sha256, precision, __version__)
            and (processor is None or processor == found.processor_sha256)
            and here.items() <= found.picture_bytes.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if whole and numbers and same else None


def any_filled(store: Path) -> bool:
    """Whether anything was ever filled ahead: if not, the data need not be read."""
    try:
        return any(name.endswith(".json") for name in os.listdir(store / SETS))
    except OSError:
        return False


def is_there(store: Path, filled: Filled) -> bool:
    """Whether the sample of the entries is in the store."""
    return all(entry_path(store, filled.made_by, key).is_file() for key in filled.sample)


def read_keys(store: Path, filled: Filled) -> list[str] | None:
    """The names of all entries; None when the list is damaged."""
    path = sets_path(store, filled.data_sha256, filled.model, filled.precision).with_suffix(".keys")
    try:
        with regular(path).open("rb") as file:
            keys = file.read(MOST_KEYS_MIB * MIB).decode().split("\n")[:-1]
    except (OSError, ValueError):
        return None
    return keys if len(keys) == filled.entries and all(map(KEY.fullmatch, keys)) else None


def sets_path(store: Path, data_sha256: str, model: str, precision: str) -> Path:
    with_what = hashlib.sha256(f"{model.rstrip('/')} {precision}".encode()).hexdigest()
    return store / SETS / f"{data_sha256[:24]}-{with_what[:12]}.json"
