"""Pictures as the model's own processor would show them: transparency on white, whatever the file's way to say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.fingerprints import open_file
from trainer.data.grid import compose_grid, load_grey, load_image, load_picture
from trainer.data.inspection import Inspection
from trainer.data.records import Dataset

SIZE = (64, 32)


def arrow() -> Image.Image:
    """Black on transparent black: told apart by its alpha alone."""
    picture = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (4, 4, 20, 28))
    picture.paste((200, 40, 40, 128), (40, 4, 60, 28))
    return picture


def palette(name: str) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        picture = Image.new("P", SIZE, 0)
        picture.putpalette([0, 0, 0, 0, 0, 0, 90, 200, 30])
        picture.paste(1, (4, 4, 20, 28))
        picture.paste(2, (40, 4, 60, 28))
        picture.save(path, name, transparency=bytes([0, 255, 100]) if name == "PNG" else 0)

    return save


def moving(name: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: arrow().save(path, name, save_all=True, append_images=[Image.new("RGBA", SIZE)], **options)


def keyed(mode: str, color: Any) -> Callable[[Path], None]:
    """One colour is called transparent, beside no alpha at all."""

    def save(path: Path) -> None:
        picture = Image.new(mode, SIZE, 0)
        picture.paste(color, (4, 4, 20, 28))
        picture.save(path, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)

    return save


FILES: dict[str, Callable[[Path], None]] = {
    "rgba.png": lambda path: arrow().save(path),
    "la.png": lambda path: arrow().convert("LA").save(path),
    "palette.png": palette("PNG"),
    "palette.gif": palette("GIF"),
    "pa.tiff": lambda path: arrow().convert("PA").save(path),
    "rgba.tiff": lambda path: arrow().save(path),
    "rgba.webp": lambda path: arrow().save(path, lossless=True),
    "moving.png": moving("PNG"),
    "moving.gif": moving("GIF"),
    "moving.webp": moving("WEBP", lossless=True),
    "grey.png": keyed("L", 120),
    "bit.png": keyed("1", 255),
    "colour.png": keyed("RGB", (10, 90, 200)),
    "opaque.png": lambda path: arrow().convert("RGB").save(path),
    "opaque_palette.png": lambda path: arrow().convert("RGB").quantize(8).save(path),
    "cmyk.tiff": lambda path: arrow().convert("RGB").convert("CMYK").save(path),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, save in FILES.items():
        save(folder / name)
    return folder


@pytest.fixture(scope="module")
def processors() -> list[Any]:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return [
        Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56),
        Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_what_the_processor_makes_of_its_file(name: str, files: Path, processors: list[Any]) -> None:
    for processor in processors:
        with Image.open(files / name) as own:
            expected = processor(own, return_tensors="np")["pixel_values"]
        found = processor(load_image(str(files / name)), return_tensors="np")["pixel_values"]
        assert np.array_equal(found, expected)


def test_what_is_transparent_is_white_in_a_grid_too(files: Path) -> None:
    left, right = (files / name for name in ("left.png", "right.png"))
    for path, box in ((left, (0, 0, 8, 8)), (right, (24, 0, 32, 8))):
        picture = Image.new("RGBA", (32, 16), (0, 0, 0, 0))
        picture.paste((0, 0, 0, 255), box)
        picture.save(path)
    expected = [Image.new("RGB", (32, 16), "white") for _ in range(2)]
    expected[0].paste("black", (0, 0, 8, 8))
    expected[1].paste("black", (24, 0, 32, 8))
    shown = load_picture([str(path) for path in (left, right, right, left)])
    assert shown.tobytes() == compose_grid([expected[n] for n in (0, 1, 1, 0)]).tobytes()


def test_a_turned_picture_keeps_its_alpha_and_its_greys(files: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    arrow().save(files / "turned.png", exif=turned)
    upright = load_image(str(files / "turned.png"))
    assert (upright.size, upright.getpixel((31, 0)), upright.getpixel((20, 10))) == ((32, 64), (255,) * 3, (0,) * 3)
    grey = Image.new("I;16", SIZE, 0x8000)
    grey.putpixel((0, 0), 0xFFFF)
    grey.save(files / "turned16.png", exif=turned)
    deep = load_image(str(files / "turned16.png"))
    assert (deep.size, deep.getpixel((31, 0)), deep.getpixel((0, 0))) == ((32, 64), (255,) * 3, (128,) * 3)
    grey.save(files / "keyed16.png", transparency=0x8000)
    for brightest, bright in ((0x0FFF, 255), (0x00FF, 255), (0x1000, 16)):  # 12, 8 and 16 bits
        Image.new("I;16", SIZE, brightest).save(files / "few_bits.png")
        assert load_image(str(files / "few_bits.png")).getpixel((0, 0)) == (bright,) * 3
    keyed = load_image(str(files / "keyed16.png"))
    assert (keyed.getpixel((0, 0)), keyed.getpixel((9, 9))) == ((255,) * 3, (255,) * 3)


def test_the_same_grey_is_equally_bright_in_all_frames_of_a_grid(files: Path) -> None:
    for brightest in (200, 4000, 4096):
        grey = Image.new("I;16", SIZE, 100)
        grey.putpixel((9, 9), brightest)
        grey.save(files / f"{brightest}.png")
    names = [str(files / f"{brightest}.png") for brightest in (200, 4000, 4096)]
    assert [load_grey(name)[1] for name in names] == [8, 12, 16]
    for last, level in ((4096, 0), (4000, 6)):
        grid = load_picture([*names[:2], names[0], str(files / f"{last}.png")])
        corners = [grid.getpixel((x, y)) for x in (0, 2 * SIZE[0] - 1) for y in (0, 2 * SIZE[1] - 1)]
        assert corners == [(level,) * 3] * 4


def test_a_set_whose_16_bit_files_are_read_otherwise_says_so() -> None:
    def notes(**read: int) -> list[str]:
        sides: Any = {"train": (), "eval": ()}
        found = Inspection(
            dataset=Dataset(**sides, split=""), max_length=9, checked=sides, picture_sizes=Counter(), looks={},
            apart={}, grey_bits=Counter({int(bits[1:]): count for bits, count in read.items()}),
        )  # fmt: skip
        return found.notes()

    assert notes() == notes(b16=3) == []
    (said,) = notes(b16=3, b8=1)
    assert said.startswith("files with 16-bit greys are read by the brightest pixel of each, 1 as 8 bits, 3 as 16 bits")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_a_file_of_several_pictures_is_counted(suffix: str, tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(tmp_path / f"one.{suffix}")
    red.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[blue])
    assert [open_file(str(tmp_path / f"{name}.{suffix}")).animated for name in ("one", "two")] == [False, True]


def test_a_picture_is_opened_once_to_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "one.gif")
    opened, opens = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **more: opened.append(path) or opens(path, **more))
    assert open_file(str(tmp_path / "one.gif")).size == (8, 8) and opened == [str(tmp_path / "one.gif")]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 picture file holds several pictures or pages: the first is shown"),
        (2, "2 picture files hold several pictures or pages: the first of each is shown"),
    ],
)
def test_a_set_with_files_of_several_pictures_says_so(count: int, said: str) -> None:
    sides: Any = {"train": (), "eval": ()}
    found = Inspection(
        dataset=Dataset(**sides, split=""), max_length=9, checked=sides, picture_sizes=Counter(), looks={}, apart={},
        grey_bits=Counter(), animated=count,
    )  # fmt: skip
    assert found.notes() == [said]
