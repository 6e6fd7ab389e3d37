"""Checkpoints that exist completely or not at all: written to another folder, then committed by one rename.

    runs/<id>/checkpoints/step-000250/    what the ranks filled in, and manifest.json, written last
    runs/<id>/checkpoints/broken-...      set aside, because its manifest does not match
    runs/<id>/checkpoints/.writing-...    never finished; the next attempt removes it

This file does not know the contents of a checkpoint: `save` takes a function that fills a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from trainer.files import CHECKPOINT_NAME, read_json, regular, write_whole
from trainer.node.ranks import Ranks
from trainer.outcome import FAILED, ConfigError

MANIFEST = "manifest.json"
OWNER = "owner"
UNFINISHED = ("writing", "removing")


class CheckpointError(Exception):
    """A checkpoint could not be written. One line; older checkpoints are unchanged."""

    exit_code = FAILED


def nothing_wrong(_: Path) -> str:
    return ""


class CheckpointStore:
    """The checkpoints of one run, as one attempt sees them.

    Every method is called by every rank. Only the first rank commits, sets aside and removes, and only while no later
    attempt has taken over: a writer left behind by a lost node can damage nothing.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        *,
        layout: Mapping[str, float | str],
        unsaid: Mapping[str, float | str] = MappingProxyType({}),
        keep: int,
        say: Callable[[str], object],
        look: Callable[[Path], str] = nothing_wrong,
        before_save: Callable[[], object] = lambda: None,
    ) -> None:
        """`layout` is what must be the same to continue exactly (processes, batch, ...); `unsaid` has its values for
        manifests that lack them. `look` returns what is wrong with the contents of a complete checkpoint."""
        self.folder, self.ranks, self.layout, self._unsaid = folder, ranks, dict(layout), unsaid
        self.keep, self.say, self._look = max(1, keep), say, look
        self._before_save = before_save
        self._token = ranks.rank0_only(partial(secrets.token_hex, 4))

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Committed steps, ascending, whether or not their manifests match."""
        names = (CHECKPOINT_NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in names if match)

    def take_over(self) -> int:
        """Become the writer, and return the newest step whose manifest matches; 0 when there is none.

        Raises:
            ConfigError: the checkpoint cannot be continued exactly, because its layout differs.
        """
        return self.ranks.rank0_only(self._take_over)

    def _take_over(self) -> int:
        if self.folder.is_symlink():  # renaming and removing below would change another folder
            raise ConfigError(f"{self.folder} is a symbolic link: checkpoints lie in the run's own folder, remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / OWNER, self._token)
        for left in (path for kind in UNFINISHED for path in self.folder.glob(f".{kind}-*")):
            shutil.rmtree(left, ignore_errors=True)
        for step in reversed(self.steps()):
            path = self.path(step)
            fault = self.fault(path)
            if not fault:
                self._check_layout(path)
                return step
            aside = self.folder / f"broken-{path.name}-{self._token}"
            path.rename(aside)
            self.say(f"checkpoint {path} is broken ({fault}): set aside as {aside.name}")
        return 0

    def fault(self, path: Path) -> str:
        """What is wrong with the checkpoint at `path`, in words; "" when it can be continued."""
        return check_manifest(path) or self._look(path)

    def _check_layout(self, path: Path) -> None:
        saved = {**self._unsaid, **read_json(path / MANIFEST)["layout"]}
        other = [
            f"{name} {saved[name]}, not {now}"
            for name, now in self.layout.items()
            if name in saved and saved[name] != now
        ]
        if other:
            raise ConfigError(
                f"{path} was saved with {', '.join(other)}: its losses cannot be continued like that. Resume with "
                "what it was saved with, or give another RUN to start anew"
            )

    def save(self, step: int, fill: Callable[[Path], None], *, protect: int | None = None) -> None:
        """Commit what `fill` writes into one folder, called on every rank; then remove checkpoints beyond `keep`,
        except the step `protect`. Does nothing when the step exists already.

        Raises:
            CheckpointError: on every rank, when it failed on any.
        """
        if self.ranks.rank0_only(self.path(step).exists):
            return
        self._before_save()
        beside = self.folder / f".writing-{step:06d}-{self._token}"
        stages = (
            (self.ranks.first, beside.mkdir),
            (True, partial(fill, beside)),
            (self.ranks.first, partial(self._commit, step, beside, protect)),
        )
        for mine, work in stages:
            fault: Exception | None = None
            try:
                if mine:
                    work()
            except Exception as error:  # torch and safetensors raise their own errors for a full disk
                fault = error
            if self.ranks.any(fault is not None):
                if self.ranks.first:
                    shutil.rmtree(beside, ignore_errors=True)
                why = " ".join(str(fault).split()) if fault else "another process could not write its part"
                kept = self.ranks.rank0_only(self.steps)
                last = f"step {kept[-1]} is the newest there is" if kept else "there is none yet"
                raise CheckpointError(
                    f"the checkpoint of step {step} could not be written to {self.folder} ({why}): {last}"
                ) from fault

    def _commit(self, step: int, beside: Path, protect: int | None) -> None:
        files = {
            str(path.relative_to(beside)): {"bytes": path.stat().st_size, "sha256": _sha256(path, sync=True)}
            for path in sorted(beside.rglob("*"))
            if path.is_file()
        }
        manifest = {"step": step, "layout": self.layout, "files": files}
        write_whole(beside / MANIFEST, json.dumps(manifest, indent=1))
        self._check_owner()
        beside.rename(self.path(step))
        descriptor = os.open(self.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        self._check_owner()
        for old in self.steps()[: -self.keep]:
            if old != protect:
                # Renamed first: half removed under its own name, it would look broken.
                gone = self.folder / f".removing-{old:06d}-{self._token}"
                self.path(old).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def _check_owner(self) -> None:
        with regular(self.folder / OWNER).open("rb") as file:
            owner = file.read(len(self._token) + 1)
        if owner != self._token.encode():
            raise RuntimeError("a later attempt has taken over")


def check_manifest(path: Path) -> str:
    """What is wrong with the checkpoint at `path`, in words; "" when its manifest matches."""
    try:
        manifest = read_json(path / MANIFEST)
        manifest["layout"].items()
        if fault := _other_files(path, set(manifest["files"])):
            return fault
        for name, wanted in manifest["files"].items():
            size = (path / name).stat().st_size
            if size != wanted["bytes"]:
                return f"{name} has {size} bytes, not {wanted['bytes']}"
            if _sha256(path / name) != wanted["sha256"]:
                return f"{name} has other contents than were written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(path)} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return ""


def _other_files(path: Path, named: set[str]) -> str:
    """A file that the manifest does not name, or one that it names and that is missing, in words; "" when there is
    neither. Links, pipes and devices are refused: a pipe would block, a device has no end, and a link leads to
    another's file."""
    there = {MANIFEST}
    for found in path.rglob("*"):
        name = str(found.relative_to(path))
        if found.is_symlink() or not (found.is_dir() or found.is_file()):
            return f"{name} is a link, a pipe or a device"
        if found.is_file():
            there.add(name)
    if lacking := sorted(named - there):
        return f"{lacking[0]} is missing"
    if more := sorted(there - named - {MANIFEST}):
        return f"{more[0]} is not in its manifest"
    return ""


def _sha256(path: Path, *, sync: bool = False) -> str:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[attr-defined]
