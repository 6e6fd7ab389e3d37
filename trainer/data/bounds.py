"""How large a picture may be: one bound for all threads and loaders of a process, set where a run's records are
read, and again where its model or its report is opened, and in loaders that share no memory with it.

What a file says of its size costs nothing; its pixels may take a thousand times its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import TrainConfig
from trainer.flags import options
from trainer.text import GIB

SETTING = "max_image_megapixels"
OPTION = options(TrainConfig)[SETTING]
MEGA = 10**6
BYTES_A_PIXEL = 8
"""No supported format needs more bytes, compressed or not: a longer file holds something that is not a picture."""


@dataclass(slots=True)
class Bounds:
    megapixels: int = OPTION.default

    def take(self, value: object) -> None:
        """As a run was told, whose files may be anybody's. Raises ValueError for what the setting does not take."""
        if (megapixels := OPTION.read(str(value))) is None:
            raise ValueError(f"{SETTING} takes {OPTION.allowed}, got {value!r}")
        self.megapixels = megapixels

    def check_bytes(self, size_bytes: int) -> None:
        """Check the size of a file before it is opened, since some decoders first read the whole file. Raises
        ValueError."""
        most_bytes = self.megapixels * MEGA * BYTES_A_PIXEL
        if size_bytes > most_bytes:
            raise ValueError(
                f"a file of {size_bytes / GIB:.1f} GiB, more than the {most_bytes / GIB:.1f} of a picture of "
                f"{self.megapixels} million pixels: make it smaller, or {self._advice(size_bytes / BYTES_A_PIXEL)}"
            )

    def check_pixels(self, width: int, height: int) -> None:
        """Check the size of a picture before it is decoded. Raises ValueError."""
        if width * height > self.megapixels * MEGA:
            raise ValueError(
                f"{width} x {height} pixels, more than the {self.megapixels} million that are read: make it smaller, "
                f"or {self._advice(width * height)}"
            )

    def _advice(self, pixels: float) -> str:
        return f"{SETTING}: {int(-(-pixels // MEGA))}"


BOUNDS = Bounds()
