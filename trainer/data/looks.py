"""Finds pictures that look alike although their pixels differ, as after encoding a picture again or making it
smaller. A picture is reduced to a few grey cells. Two pictures look alike when every cell nearly agrees. A match is a
hint for a person, not a proof."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELLS = 16
"""Cells along each side: a figure of a sixteenth of the side that moved by its own width changes cells altogether."""
# Greys of 256. As JPEG of quality 60, a third to one and a half times as large, photographs, noise and drawn frames
# were measured to change a cell by 2 and the mean by 0.9; a figure of 16 in 240 pixels moved by 8 changes a cell by 11.
MOST_APART, MOST_APART_ON_AVERAGE = 3, 1.0
PROBES = 8
"""The number of cells that are compared first: those that differ most within a box."""
BOX_WIDTH, BOX_MARGIN = 8, 2
BLOCK = 1024
"""Pictures of a box that are compared at once: the first match ends the search."""
MOST_SECONDS = 60.0
"""The other ranks of a run wait. Pictures of a camera that does not move all lie in one box."""

Cells = NDArray[np.int16]


def look(image: Image.Image) -> bytes:
    """The cells of a picture, a byte each."""
    return image.convert("L").resize((CELLS, CELLS), Image.Resampling.BILINEAR).tobytes()


class Alike(NamedTuple):
    found: int
    compared: int
    """How many were looked at in the time."""


def count_alike(asked: Sequence[bytes], known: Collection[bytes], seconds: float = MOST_SECONDS) -> Alike:
    """How many of `asked`, taken in order for so many `seconds`, look like one of `known`. Each is as many looks behind
    one another as a picture has files, the same for all."""
    if not asked or not known:
        return Alike(0, len(asked))
    until = monotonic() + seconds
    boxes: dict[tuple[int, ...], list[bytes]] = {}
    for one, means in zip(known, _quarters(known), strict=True):
        boxes.setdefault(tuple(int(mean // BOX_WIDTH) for mean in means), []).append(one)
    arrays = {box: np.stack([_cells(one) for one in some]) for box, some in boxes.items()}
    probes = {box: array.var(0).argsort()[-PROBES:] for box, array in arrays.items()}
    count = 0
    for compared, (one, means) in enumerate(zip(asked, _quarters(asked), strict=True)):
        if monotonic() >= until:
            return Alike(count, compared)
        count += any(_is_among(_cells(one), arrays[box], probes[box]) for box in _near(means) if box in arrays)
    return Alike(count, len(asked))


def _near(means: Any) -> Iterator[tuple[int, ...]]:
    """The boxes in which a picture that looks alike may lie."""
    ends = ({int((mean - BOX_MARGIN) // BOX_WIDTH), int((mean + BOX_MARGIN) // BOX_WIDTH)} for mean in means)
    return product(*ends)


def _cells(one: bytes) -> Cells:
    return np.frombuffer(one, np.uint8).astype(np.int16)


def _quarters(looks: Collection[bytes]) -> Any:
    """The mean grey of each quarter of each picture's first file, shape (pictures, 4)."""
    first = np.stack([_cells(one[: CELLS * CELLS]) for one in looks])
    return first.reshape(len(looks), 2, CELLS // 2, 2, CELLS // 2).mean((2, 4)).reshape(len(looks), 4)


def _is_among(one: Cells, some: Cells, probes: Any) -> bool:
    return any(_is_near(one, some[begin : begin + BLOCK], probes) for begin in range(0, len(some), BLOCK))


def _is_near(one: Cells, block: Cells, probes: Any) -> bool:
    near = block[(np.abs(block[:, probes] - one[probes]) <= MOST_APART).all(1)]
    apart = np.abs(near - one)
    return bool(((apart.max(1, initial=0) <= MOST_APART) & (apart.mean(1) <= MOST_APART_ON_AVERAGE)).any())
