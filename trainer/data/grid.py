"""Four consecutive frames as one picture: a 2x2 grid read like text, t=0 top left to t=3 bottom right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

BORDER_PX = 2
BORDER_COLOR = (255, 255, 255)


def compose_grid(frames: Sequence[Image]) -> Image:
    """The 2x2 grid of four equally large frames, as RGB, exactly twice as wide and high as one of them.

    The border between the cells is drawn over the frames' inner edges instead of being added, so that four
    frames of 240x160 give the 480x320 of a ready-made grid and the cells stay aligned to the patch size.

    Raises:
        ValueError: not four frames, or not all of one size.
    """
    from PIL import Image, ImageDraw

    sizes = {frame.size for frame in frames}
    if len(frames) != 4 or len(sizes) != 1:
        raise ValueError(f"a grid takes four frames of one size, got {len(frames)} of sizes {sorted(sizes)}")
    width, height = sizes.pop()
    grid = Image.new("RGB", (2 * width, 2 * height))
    for index, frame in enumerate(frames):
        grid.paste(frame.convert("RGB"), (index % 2 * width, index // 2 * height))
    draw, half = ImageDraw.Draw(grid), BORDER_PX // 2
    draw.rectangle((width - half, 0, width + half - 1, 2 * height), fill=BORDER_COLOR)
    draw.rectangle((0, height - half, 2 * width, height + half - 1), fill=BORDER_COLOR)
    return grid
