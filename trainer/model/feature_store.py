"""A folder of picture features that runs share: sweep members, attempts, epochs, and whoever uses the same model.

    FOLDER/<what makes them>/<2 digits>/<picture>.safetensors    the features of one picture, with a checksum
    FOLDER/<what makes them>/.<picture>.<16 digits>              being written

An entry is written beside its place and renamed, so that it is there whole or not at all, on NFS too; nobody waits
for a lock, and two writers of one picture write the same. A read maps the file, and an entry whose checksum does not
hold is removed. When the folder is full, the entries that nobody has used for longest go first; a file's modification
time says when it was last used, because many file systems keep no time of access.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.data.filled import SUFFIX, entry_path
from trainer.files import own_folder, sweep_halves
from trainer.text import GIB

NAME = re.compile(r"[0-9a-f]{40}")
LARGEST_BYTES = GIB  # of one entry: the features of a page take a tenth of it in the largest towers
FREE_SHARE = 4  # use at most one part in so many of the space that is free without the store
IN_USE_S = 3600
"""An entry that was used within so many seconds stays, so that no file is removed while somebody reads it."""
COUNTED_AGAIN = 16  # the folder's size is read again when one part in so many of its bound was written


class FeatureStore:
    def __init__(self, folder: Path, made_by: str, *, most_bytes: int) -> None:
        """The features that `made_by` makes, in `folder`, all of whose entries have at most `most_bytes`."""
        self.root, self.folder, self._most_bytes = folder, folder / made_by, most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        own_folder(self.folder)
        sweep_halves(self.folder)
        self._own: set[Path] = set()
        """What this process has used: never removed to make room, or a set larger than the room would go round."""
        self._held: list[Path] = []
        self._writable = True
        self._size_bytes = self._allowed_bytes = self._until_count = 0
        self.damaged = 0
        """How many entries did not hold what they should."""

    def path(self, picture: str) -> Path:
        return entry_path(self.root, self.folder.name, picture)

    def read(self, picture: str) -> dict[str, Tensor] | None:
        """The features, mapped from the file; None when there are none, or damaged ones, which are removed."""
        path = self.path(picture)
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_BYTES:
                raise ValueError("it is no entry")
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = (file.metadata() or {}).get("sum")
            if told != content_sum(picture, tensors):
                raise ValueError("its checksum does not hold")
        except OSError:  # there is none, or this machine cannot read it now: nothing is wrong with the entry
            return None
        except (ValueError, SafetensorError):
            self._remove_damaged(path)
            return None
        self._own.add(path)
        if found.st_mtime < time.time() - IN_USE_S / 2:
            with contextlib.suppress(OSError):
                os.utime(path)
        return tensors

    def write(self, picture: str, tensors: Mapping[str, Tensor]) -> bool:
        """Keep the features of a picture, which are on the CPU. False when there is no room, or nothing can be written:
        this process then writes no more, and when the disk is full half of the store goes, since checkpoints need the
        space more."""
        path = self.path(picture)
        part = self.folder / f".{picture}.{os.urandom(8).hex()}"
        size = sum(tensor.nbytes for tensor in tensors.values())
        if not self._writable:
            return False
        try:
            own_folder(path.parent)  # first: somebody may have removed all folders, and room is counted in them
            if not self._makes_room(size):
                return False
            save_file(dict(tensors), part, metadata={"sum": content_sum(picture, tensors)})
            part.replace(path)
        except (OSError, SafetensorError) as error:
            self._writable = False
            with contextlib.suppress(OSError):
                part.unlink()
            if is_full(error):
                self._remove_oldest(to_bytes=self._count() // 2, in_use=True)
            return False
        self._own.add(path)
        self._size_bytes += size
        return True

    def missing(self, pictures: Iterable[str]) -> list[str]:
        """Those of these pictures that have no entry."""
        names = {path.name for path, _ in _entries(self.folder)}
        return [picture for picture in pictures if f"{picture}{SUFFIX}" not in names]

    def hold(self, pictures: Iterable[str]) -> None:
        """Let these entries count as used from now on, whenever `touch_held` is called: a run without a tower cannot
        make them again, and may read them once in many hours."""
        self._held = [self.path(picture) for picture in pictures]
        self._own.update(self._held)
        self.touch_held()

    def touch_held(self) -> None:
        for path in self._held:
            with contextlib.suppress(OSError):
                os.utime(path)

    def _makes_room(self, needed: int) -> bool:
        self._until_count -= needed
        if self._until_count <= 0:
            self._count()
        if self._size_bytes + needed > self._allowed_bytes:
            # A little more than needed, or every further entry would look at all others.
            self._remove_oldest(to_bytes=self._allowed_bytes - max(needed, self._allowed_bytes // COUNTED_AGAIN))
        return self._size_bytes + needed <= self._allowed_bytes

    def _count(self) -> int:
        """Read the store's size, and the free space, which other processes change too."""
        self._size_bytes = sum(found.st_size for _, found in _entries(self.root))
        free = shutil.disk_usage(self.root).free
        self._allowed_bytes = min(self._most_bytes, (self._size_bytes + free) // FREE_SHARE)
        self._until_count = max(1, self._allowed_bytes // COUNTED_AGAIN)
        return self._size_bytes

    def _remove_oldest(self, *, to_bytes: int, in_use: bool = False) -> None:
        """Remove what nobody has used for longest, until at most `to_bytes` remain; what is `in_use` only if asked."""
        latest = time.time() + (IN_USE_S if in_use else -IN_USE_S)
        entries = sorted(_entries(self.root), key=lambda entry: entry[1].st_mtime)
        self._size_bytes = sum(found.st_size for _, found in entries)
        for path, found in entries:
            if self._size_bytes <= to_bytes or found.st_mtime > latest:
                break
            if in_use or path not in self._own:
                with contextlib.suppress(OSError):
                    path.unlink()
                self._size_bytes -= found.st_size

    def _remove_damaged(self, path: Path) -> None:
        self.damaged += 1
        with contextlib.suppress(OSError):
            path.unlink()


def is_full(error: Exception) -> bool:
    """Whether an error of writing says that the disk or a quota is full."""
    said = re.search(r"os error (\d+)", str(error))  # as safetensors says it
    return (int(said[1]) if said else getattr(error, "errno", None)) in (errno.ENOSPC, errno.EDQUOT)


def content_sum(picture: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of an entry: of the picture too, so that an entry under another's name does not hold."""
    digest = hashlib.blake2b(picture.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The entries below a folder, with their sizes and times; links are not followed."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(Path(entry.path))
                elif entry.name.endswith(SUFFIX) and NAME.fullmatch(entry.name.removesuffix(SUFFIX)):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
