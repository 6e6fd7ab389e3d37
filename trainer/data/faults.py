"""Counts the records of a set that cannot be used, by the kind of fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trainer.data.file_kinds import ARCHIVES, TARS
from trainer.data.file_names import names_in
from trainer.data.no_records import convert_command
from trainer.data.turns import FormError
from trainer.outcome import ConfigError
from trainer.text import plain_or_shown

FORMAT_HINT = (
    'a record is {"image": "grid.png"} or {"frames": ["0.png", "1.png", "2.png", "3.png"]} with "question" and '
    '"output"; or {"messages": [...]}, or {"conversations": [...]}; columns: names other keys'
)
LEAST_KEPT = 0.1  # of the training records; if fewer remain, the settings are wrong, not the records
SHOWN_PLACES = 3
MISSING = "a picture is not there"


class Place(NamedTuple):
    file: str
    where: str


@dataclass(kw_only=True, slots=True)
class Kind:
    """All faults of one kind."""

    sample: str
    """The message about the first fault of this kind."""
    cure: str
    count: int = 0
    places: list[Place] = field(default_factory=list)
    """The places of the first faults."""


class Faults:
    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self.count = 0

    def add(self, file: str, where: str, error: FormError) -> None:
        kind = self._kinds.setdefault(error.kind, Kind(sample=str(error).removeprefix(":").strip(), cure=error.cure))
        kind.count += 1
        self.count += 1
        if len(kind.places) < SHOWN_PLACES:
            kind.places.append(Place(file, where))

    def lines(self, total: int) -> tuple[str, ...]:
        """One line for each kind, the most frequent first: how many of `total` records, the fault, and where it is."""
        kinds = sorted(self._kinds.items(), key=lambda item: -item[1].count)
        return tuple(f"{kind.count} of {total} records left out: {_describe(name, kind)}" for name, kind in kinds)

    def cures(self, data: str, folder: str, image_root: str | None) -> str:
        """Advice for the end of a refusal; empty where the lines already say it."""
        cures = {kind.cure for kind in self._kinds.values()}
        said = [FORMAT_HINT] if "form" in cures else []
        if "convert" in cures:
            said.append(f"{convert_command(data)} makes records and pictures that can be read")
        if "question" in cures:
            said.append(f"{convert_command(data)} --question TEXT puts one question into all records")
        if "missing" in cures:
            more = f" or {image_root}/" if image_root else "; image_root= names another folder to look in"
            said.append(f"paths are relative to {folder}/{more}")
            names = (name for name in names_in(Path(folder)) if name.lower().endswith((*ARCHIVES, *TARS)))
            if archive := next(names, None):
                said.append(f"{plain_or_shown(archive)} lies there, and is not unpacked")
        return "; ".join(said)


def _describe(name: str, kind: Kind) -> str:
    first = kind.places[0]
    places = f"{first.file} {first.where}"
    for place in kind.places[1:]:
        where = place.where.split()[-1] if place.where.split()[0] == first.where.split()[0] else place.where
        places += f", {where if place.file == first.file else f'{place.file} {place.where}'}"
    more = f" and {kind.count - len(kind.places)} more" if kind.count > len(kind.places) else ""
    sample = f"; the first: {kind.sample}" if kind.sample != name else ""
    return f"{name} ({places}{more}{sample})"


def check_kept(data: str, faults: Faults, kept: int, *, strict: bool, cures: str) -> None:
    """Raises ConfigError when no more than LEAST_KEPT of the records that were read remain; with `strict` when any is
    left out."""
    total = kept + faults.count
    lines = "; ".join(faults.lines(total))
    if strict and lines:
        raise ConfigError(f"strict: {data}: {lines}", advice=cures)
    if kept <= LEAST_KEPT * total:
        raise ConfigError(f"{data}: {kept} of {total} records would be left: {lines}", advice=cures)
