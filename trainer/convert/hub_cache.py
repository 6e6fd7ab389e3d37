"""The copy of a data set in the hub's cache, for machines without a network."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from trainer.outcome import ConfigError
from trainer.settings import say

SHARD = r"(.*?)-\d{5}-of-(\d{5})"


def cached_snapshot(name: str) -> str | None:
    """The folder of a data set of the hub in the hub's cache, where it is there, which is said. Raises ConfigError
    where files of it are seen to be missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        lacking = _lacking(folder)
    except IncompleteSnapshotError as error:  # the hub's list of its files is in the cache too
        folder, lacking = Path(error.snapshot_path), "it lacks files that the hub lists"
    except LocalEntryNotFoundError:
        return None
    copy = f"copy of {name} in the cache (commit {folder.name})"
    if lacking:
        raise ConfigError(f"{name} cannot be fetched, and the {copy} is not whole: {lacking}: fetch it with a network")
    listed = (folder.parents[1] / "trees" / f"{folder.name}.json").is_file()
    unsure = "" if listed else "; it looks whole, though no list of its files is there"
    say([f"{name} cannot be fetched: the {copy} is read{unsure}"])
    return str(folder)


def _lacking(folder: Path) -> str:
    """The sign that a snapshot in the cache is incomplete: a link to nothing, or a shard without its neighbours."""
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    if cut := next((path for path in paths if not path.exists()), None):
        return f"{cut.relative_to(folder)} is not there"
    shards: dict[tuple[str, int], int] = Counter(
        (f"{path.parent}/{shard[1]}{path.suffix}", int(shard[2]))
        for path in paths
        if (shard := re.match(SHARD, path.name))
    )
    some = next(((name, count, of) for (name, of), count in shards.items() if count < of), None)
    return f"{some[1]} of {some[2]} files of {os.path.relpath(some[0], folder)} are there" if some else ""
