"""The picture of a record: a ready image, or four consecutive frames as a 2x2 grid."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from trainer.data.bounds import BOUNDS
from trainer.data.file_kinds import HEAD_BYTES
from trainer.data.packed import no_json

BORDER_PX = 2
BORDER_COLOR = (255, 255, 255)
BACKGROUND = (255, 255, 255, 255)
# Decoders that run in Pillow itself. The bytes of a file decide, not its name: EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
LARGE_PIXELS = 1 << 24
DEPTHS = (8, 12, 16)
"""Bits that the greys of a 16-bit file use: the fewest that its brightest pixel fits into."""
_one_large = threading.Lock()
# Pillow warns about large pictures, which are expected; it does not open far larger ones.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def load_picture(paths: Sequence[str]) -> Image.Image:
    """The image at the one path, or the grid of four, in which 16-bit greys are equally bright in all frames. Raises
    OSError naming the file that does not open, ValueError for frames of different sizes."""
    found = [load_grey(path) for path in paths]
    if len(found) == 1:
        return found[0][0]
    most = max(bits for _, bits in found)
    return compose_grid([
        load_grey(path, most)[0] if 0 < bits < most else image
        for path, (image, bits) in zip(paths, found, strict=True)
    ])  # fmt: skip


def load_image(path: str) -> Image.Image:
    """The image in RGB, upright as its EXIF says, 16-bit greys scaled to 8 bits, transparent pixels on white.

    The processors of transformers treat pictures in the same way, and only ever get this RGB image. Raises OSError
    naming the file when it does not open.
    """
    return load_grey(path)[0]


class Seen(NamedTuple):
    """What one opening of a file tells."""

    image: Image.Image
    grey_bits: int
    animated: bool
    """Whether further pictures are behind the first one: frames, or the pages of a TIFF."""


def load_grey(path: str, least_bits: int = DEPTHS[0]) -> tuple[Image.Image, int]:
    """As `load_image`, and the bits that the greys of a 16-bit file were taken to use, at least `least_bits`; 0 for
    any other file."""
    with _opened(path) as image:
        return _upright(image, least_bits)


def load_seen(path: str) -> Seen:
    """As `load_grey`, and whether the file holds further pictures."""
    with _opened(path) as image:
        return Seen(*_upright(image, DEPTHS[0]), _is_animated(image))


def _is_animated(image: Image.Image) -> bool:
    """Asked behind the decoding of the first picture, because it may move to the next one."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a decoder raises nearly anything of a later frame
        return False


def _upright(image: Image.Image, least_bits: int) -> tuple[Image.Image, int]:
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}), of a range that no one says")
    upright = ImageOps.exif_transpose(image)
    if not image.mode.startswith("I;16"):
        return _on_white(upright), 0
    levels = np.asarray(upright)
    used = next(bits for bits in DEPTHS if bits >= least_bits and levels.max() < 1 << bits)
    return _on_white(_in_8_bits(upright, levels, used)), used


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The file as Pillow opens it. Raises OSError that names the file, also for what is raised inside."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise ValueError("is no file")  # reading a device or a pipe would never end
        BOUNDS.check_bytes(os.path.getsize(path))
        with Image.open(path, formats=FORMATS) as image, _turn(image):
            yield image
    except UnidentifiedImageError:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise OSError(f"{path} is no image ({known}), {os.path.getsize(path)} bytes{_instead(path)}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything
        # str() would name the file a second time
        said = getattr(error, "strerror", None) or error or type(error).__name__
        raise OSError(f"{path}: {said}") from error


KNOWN = ("a pointer", "a web page", "a picture in HEIC", "a video", "a PDF")


def _instead(path: str) -> str:
    """What a file that is no picture is, where its beginning says so."""
    with open(path, "rb") as file:
        said = no_json(file.read(HEAD_BYTES), Path(path)) or ""
    return f": it is {said.replace(', and no JSON', '')}" if said.startswith(KNOWN) else ""


def _turn(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    """A lock when the image is large, so that of several threads only one decodes a large image at a time. Raises
    ValueError for an image that is too large."""
    width, height = image.size
    BOUNDS.check_pixels(width, height)
    return _one_large if width * height > LARGE_PIXELS else contextlib.nullcontext()


def _in_8_bits(image: Image.Image, levels: np.ndarray, used: int) -> Image.Image:
    """An image of 16-bit greys, its `levels` of `used` bits, with 8 bits, which convert() would cut off at 255; the
    level marked as transparent gets alpha 0. Cameras and scanners store 12 bits in such files, which would be nearly
    black if all 16 counted."""
    alpha = np.where(levels == image.info.get("transparency", -1), 0, 255)
    return Image.merge("LA", [Image.fromarray(band.astype(np.uint8)) for band in (levels >> (used - 8), alpha)])


def _on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB on white. `convert` alone would show the colours hidden under transparent pixels."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image.convert("RGB")


def compose_grid(frames: Sequence[Image.Image]) -> Image.Image:
    """The 2x2 grid of four equally large frames, as RGB, exactly twice as wide and high as one frame, in reading
    order: t=0 top left to t=3 bottom right.

    The border between the cells is drawn over the frames' inner edges instead of being added, so that four frames of
    240x160 give the 480x320 of a ready-made grid and the cells stay aligned to the patch size.

    Raises:
        ValueError: not four frames, or not all of one size.
    """
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
