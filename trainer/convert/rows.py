"""The rows of a data set by split, one at a time: JSON by trainer/data, every other format by the datasets library."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from trainer.convert.captions import captioned
from trainer.convert.csv_rows import CsvRows
from trainer.convert.folders import METADATA, Table, check_reader, files_in, not_read, tables_beside_pictures
from trainer.convert.hub_cache import cached_snapshot
from trainer.convert.tars import bound_members, refuse_packed
from trainer.data.containers import read_records
from trainer.data.file_kinds import ARCHIVES, unpack_advice
from trainer.data.file_names import SIDE_OF
from trainer.data.no_records import hub_id
from trainer.data.sources import data_parts, find_sources
from trainer.data.turns import FormError
from trainer.node.pickles import refusal
from trainer.outcome import ConfigError, is_out_of_memory
from trainer.settings import say
from trainer.text import shown

# What the datasets library calls the readers of single files.
READERS = {
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".csv": "csv", ".tsv": "csv", ".tar": "webdataset",
    ".jsonl": "json", ".json": "json", ".ndjson": "json",
}  # fmt: skip
TABLE = "metadata.csv"
NAMES_FILE = "file_name"
SAVED = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
MEMORY = (
    "it needs more memory than convert takes (docs/threats.md): it unpacks to far more than its files, or little "
    "memory is free here"
)
SPLIT_NAME = r"\w[\w.-]{0,99}"
# Columns of webdataset that say where a sample is from.
INNER = ("__key__", "__url__", "__index_level_0__")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    name: str
    """train, eval or test, else the data set's own name of the split."""
    rows: Any
    total: int | None = None
    folder: Path | None = Path()
    """Relative paths of pictures are relative to this folder. None for data of the hub: no file of this machine is
    meant."""
    root: Path | None = None
    """Where a picture is looked for that is not in `folder`."""
    bounds: Path | None = None
    """The folder outside of which no picture is read, for a copy of data of the hub."""

    def begin_at(self, done: int) -> Iterator[dict[str, Any] | FormError]:
        """The rows without the first `done`; for a row that is no record, its fault. Raises ConfigError when neither
        a row nor those behind it can be read."""
        skipped = self.rows.skip(done) if hasattr(self.rows, "skip") else islice(self.rows, done, None)
        try:
            for row in skipped:
                yield row if isinstance(row, FormError) else _flattened(row)
        except (ConfigError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a reader raises of a damaged file
            raise ConfigError(f"{self.name}: a row cannot be read: {_one_line(error)}") from None


def find_splits(data: str, subset: str | None) -> list[Split]:
    """The splits of `data`, each under a name of its own. Raises ConfigError for data that does not exist or has no
    known form."""
    if _is_json(data):
        sources = find_sources(data)
        say(sources.notes)
        sides = {"train": sources.train, "eval": sources.eval}
        return named_apart(
            Split(name=name, rows=_Objects(path), folder=path.parent) for name, files in sides.items() for path in files
        )
    refuse_packed(Path(data))
    try:
        splits = named_apart(_by_library(data, subset))
        if odd := next((split.name for split in splits if not re.fullmatch(SPLIT_NAME, split.name)), None):
            raise ConfigError(f"{data} has a split called {shown(odd)}, which no file can be called")
        return splits
    except (ConfigError, KeyboardInterrupt):
        raise
    except Exception as error:  # the hub, the network, any file
        said = _one_line(error).rstrip(".")
        how = (
            ": if the tar is no webdataset, unpack it (tar -xf) and name what was in it" if "WebDataset" in said else ""
        )
        raise ConfigError(f"{data} cannot be read: {said}{how}") from None


def named_apart(splits: Iterable[Split]) -> list[Split]:
    """The splits, where several mean one side (validation and dev) as eval, eval-1 and so on: DATA reads these names
    as that side too."""
    given = [*splits]
    taken = {split.name for split in given}
    found: dict[str, Split] = {}
    for split in given:
        name = split.name
        if name in found:
            name = next(new for number in count(1) if (new := f"{name}-{number}") not in taken)
        taken.add(name)
        found[name] = replace(split, name=name)
    return [*found.values()]


def _is_json(data: str) -> bool:
    """Whether trainer/data reads `data`; a folder of pictures with metadata is read by the datasets library."""
    parts = data_parts(data)
    if not all(os.path.exists(part) for part in parts) or any(
        os.path.isdir(part) and any((Path(part) / name).is_file() for name in METADATA) for part in parts
    ):
        return False
    try:
        return bool(find_sources(data))
    except ConfigError:
        return False


class _Objects:
    """The objects of a JSON file; each iteration starts at the first one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[dict[str, Any] | FormError]:
        for where, found in read_records(self._path):
            yield FormError(f"{self._path.name} {where}{found}") if isinstance(found, FormError) else found


def _picture_table(folder: Path, files: Sequence[Path]) -> list[Split]:
    """The splits of a folder of pictures whose tables, among its `files`, are metadata.csv; none for any other."""
    sides: dict[str, list[dict[str, Any]]] = {}
    for file in (path for path in files if path.name == TABLE):
        for row in CsvRows([str(file)], {}):
            if not (named := [key for key in row if key.endswith(NAMES_FILE)]):
                return []
            where = file.parent.relative_to(folder)
            pictures = {
                key.removesuffix(NAMES_FILE).strip("_") or "image": {"path": str(where / row[key])} for key in named
            }
            folders = (where / row[named[0]]).parent.parts
            side = next((SIDE_OF[part.lower()] for part in folders if part.lower() in SIDE_OF), "train")
            rest = {key: cell for key, cell in row.items() if key not in named}
            sides.setdefault(side, []).append({**pictures, **rest})
    return [Split(name=side, rows=rows, total=len(rows), folder=folder) for side, rows in sides.items()]


def _streamed(path: str, *, of_hub: str = "", inside: Sequence[Path] = (), **options: Any) -> Any:
    """The splits of what the datasets library reads, csv as text where the set itself names no types. `of_hub` is the
    id of a data set of the hub, and `inside` are the files of a folder."""
    from datasets import load_dataset_builder
    from datasets.packaged_modules.csv.csv import Csv

    builder = load_dataset_builder(path, **options)
    files = [file for some in (builder.config.data_files or {}).values() for file in some]
    if packed := next((file for file in files if file.lower().endswith(ARCHIVES)), None):
        name = Path(packed.rpartition("/")[2])
        where = f"{of_hub.partition('/')[2]}-files"
        fetch = f"hf download {of_hub} --repo-type dataset --local-dir {where} fetches it, then in {where} "
        raise ConfigError(f"{name} is packed: {fetch if of_hub else ''}{unpack_advice(name)}")
    if "data_files" not in options:
        _refuse_others_files(builder.config.data_files or {}, path, builder.base_path or "")
    if os.path.isdir(path):
        check_reader(Path(path), type(builder).__module__.split(".")[-1])
        if line := not_read(Path(path), inside, files):
            say([line])
    if isinstance(builder, Csv) and builder.config.features is None and builder.config.data_files:
        how = builder.config.pd_read_csv_kwargs
        return {side: CsvRows(files, how) for side, files in builder.config.data_files.items()}
    bound_members(builder)
    return builder.as_streaming_dataset()


def _refuse_others_files(files: Mapping[Any, Sequence[Any]], data: str, address: str) -> None:
    """Raises ConfigError for files that the README of a data set names as its data and that lie outside of it: it
    could name any file of this machine, or another data set that your token may read."""
    local = os.path.isdir(data)
    inside = tuple(f"{place}/" for place in ((os.path.realpath(data), os.path.abspath(data)) if local else (address,)))
    for file in (str(file) for listed in files.values() for file in listed):
        found = file if "://" in file else os.path.abspath(file)
        if not found.startswith(inside):
            raise ConfigError(
                f"{data} names {shown(file)} as its data, a file outside of it: its README.md must name its own files"
            )


def _by_library(data: str, subset: str | None) -> list[Split]:
    from datasets import disable_progress_bars
    from datasets.utils.logging import CRITICAL, set_verbosity

    disable_progress_bars()
    set_verbosity(CRITICAL)  # what it says is raised too
    path = Path(data)
    folder: Path | None = path
    bounds = None
    if path.is_file():
        if (reader := READERS.get(path.suffix.lower())) is None:
            raise ConfigError(f"{data}: it takes a folder, a hub id, or a file of {', '.join(READERS)}")
        found = _streamed(reader, data_files={"train": str(path)}, **_tabs(path.suffix.lower()))
        folder = path.parent
    elif path.is_dir():
        if (found := _saved(path)) is None:
            files = files_in(path)
            if pictures := _picture_table(path, files):
                return pictures
            if beside := captioned(path, files):
                return [
                    Split(name=side, rows=rows, total=len(rows.pictures), folder=path) for side, rows in beside.items()
                ]
            if tables := tables_beside_pictures(path, files):
                return [*map(_of_table, tables)]
            found = _streamed(str(path), inside=files, name=subset)
    else:
        if (name := hub_id(data)) is None:
            raise ConfigError(f"{data} does not exist: give a file, a folder, or the id of a data set of the hub")
        try:
            found, folder = _streamed(name, of_hub=name, name=subset), None
        except ConnectionError as error:
            if (cached := cached_snapshot(name)) is None:
                raise ConfigError(
                    f"{data} cannot be fetched, and no copy is in the cache: {_one_line(error)}"
                ) from None
            found, folder = _streamed(cached, of_hub=name, inside=files_in(Path(cached)), name=subset), Path(cached)
            bounds = folder.parents[1]  # its files are links to blobs beside it
    return [
        Split(name=SIDE_OF.get(str(name).lower(), str(name)), rows=_named_labels(rows), total=_total(rows, str(name)),
              folder=folder, bounds=bounds)
        for name, rows in found.items()
    ]  # fmt: skip


def _of_table(table: Table) -> Split:
    suffix = Path(table.files[0]).suffix.lower()
    rows = _streamed(READERS[suffix], data_files={"train": [*table.files]}, **_tabs(suffix))["train"]
    return Split(name=table.side, rows=_named_labels(rows), folder=table.folder, root=table.root)


def _tabs(suffix: str) -> dict[str, Any]:
    return {"sep": "\t"} if suffix == ".tsv" else {}


def _saved(folder: Path) -> Any:
    """The splits of a folder that `save_to_disk` wrote; None for any other folder."""
    if not any(all((folder / name).is_file() for name in names) for names in SAVED):
        return None
    from datasets import Dataset, load_from_disk

    found = load_from_disk(str(folder))
    splits = {"train": found} if isinstance(found, Dataset) else found
    return {name: rows.to_iterable_dataset() for name, rows in splits.items()}


def _named_labels(rows: Any) -> Any:
    """The rows with pictures as their bytes, and class numbers as class names."""
    from datasets import ClassLabel, Value

    if isinstance(rows, CsvRows) or rows.features is None:  # text alone
        return rows
    rows = rows.decode(False)
    for name, feature in rows.features.items():
        if isinstance(feature, ClassLabel):
            names = feature.names
            features = rows.features.copy()
            features[name] = Value("string")

            def say(row: dict[str, Any], name: str = name, names: list[str] = names) -> dict[str, Any]:
                return {name: names[row[name]] if isinstance(row[name], int) and row[name] >= 0 else row[name]}

            rows = rows.map(say, features=features)
    return rows


def _total(rows: Any, name: str) -> int | None:
    splits = getattr(getattr(rows, "info", None), "splits", None) or {}
    return splits[name].num_examples or None if name in splits else None


def _flattened(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the record that webdataset keeps under `json` moved to the top level."""
    row = {name: value for name, value in row.items() if name not in INNER}
    inner = row.get("json")
    if isinstance(inner, dict):
        return {**{name: value for name, value in row.items() if name != "json"}, **inner}
    return row


def _one_line(error: Exception) -> str:
    if isinstance(error, UnpicklingError):  # torch's own words advise to load it all the same
        return f"a pickle in it {refusal(error)}"
    if is_out_of_memory(error):
        return MEMORY
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}..."
