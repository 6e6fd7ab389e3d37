"""Files that are called pictures: none reaches another program, fills the memory or never ends."""

from __future__ import annotations

import os
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trainer.data.bounds import BOUNDS, MEGA
from trainer.data.fingerprints import open_file
from trainer.data.grid import FORMATS, load_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run showpage\n%%EOF\n"


def png(width: int, height: int) -> bytes:
    """A whole one of black pixels, one bit each, in a thousandth of their bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["e.png", "e.eps", "e.jpg", "e"])
def test_no_file_reaches_ghostscript(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "called"
    for program in ("gs", "gswin64c"):
        (tmp_path / program).write_text(f"#!{sys.executable}\nopen({str(called)!r}, 'w')\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(
        OSError, match=f"^{re.escape(str(tmp_path / name))} is no image \\(PNG, .*\\), {len(EPS)} bytes$"
    ):
        load_image(str(tmp_path / name))
    assert not called.exists()


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_the_kinds_that_people_bring_open_whatever_they_are_called(kind: str, tmp_path: Path) -> None:
    more = {"save_all": True, "append_images": [Image.new("RGB", (16, 8))]} if kind == "MPO" else {}
    Image.new("RGB", (16, 8), "red").save(tmp_path / "picture.dat", kind, **more)
    assert load_image(str(tmp_path / "picture.dat")).size == (16, 8)


@pytest.mark.parametrize("kind", ["PSD", "ICO", "PCX", "TGA", "SGI", "IM", "DDS"])
def test_other_kinds_do_not_open(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"8BPS") if kind == "PSD" else Image.new("RGB", (16, 16)).save(path, kind)
    with pytest.raises(OSError, match="is no image"):
        load_image(str(path))


def test_a_small_file_of_too_many_pixels_is_named_before_one_is_decoded(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "bomb.png"
    path.write_bytes(png(13_000, 13_000))
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = open_file(str(path))
    said = "13000 x 13000 pixels, more than the 68 million that are read: make it smaller, or max_image_megapixels: 169"
    assert found.error == f"{path}: {said}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_the_pictures_of_large_cameras_open(tmp_path: Path) -> None:
    assert BOUNDS.megapixels * MEGA >= 8192 * 8192 > 8160 * 6120  # the latter as telephones take them
    path = tmp_path / "wide.png"
    path.write_bytes(png(70_000, 300))  # more than LARGE_PIXELS
    assert load_image(str(path)).size == (70_000, 300)
    assert open_file(str(path)).size == (70_000, 300)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_what_is_no_file_is_named_and_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    make(path)
    assert open_file(str(path)).error == f"{path}: is no file"


HEADS = {
    "WEBP": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "GIF": b"GIF89a\x10\0\x10\0\0\0\0!\xfe\xff",
    "PPM": b"P6\n#",
    "PNG": b"\x89PNG\r\n\x1a\n\x7f\xff\xff\xfftEXt",
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\0",
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_file_that_is_longer_than_any_picture_is_not_read(kind: str, tmp_path: Path) -> None:
    """Of some kinds Pillow first reads a file whole, in others it looks for an end."""
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.write(HEADS[kind])
        file.truncate(6 << 30)
    said = "a file of 6.0 GiB, more than the 0.5 of a picture of 68 million pixels: make it smaller, or "
    assert open_file(str(path)).error == f"{path}: {said}max_image_megapixels: 806"
