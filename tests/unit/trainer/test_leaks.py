"""What training shows of the held-out records, pixel for pixel; the key of the answers that looks like the action."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from trainer.data import looks
from trainer.data.answers import likelier_field
from trainer.data.fingerprints import File, arrangement
from trainer.data.inspection import Inspection, inspect_dataset
from trainer.data.looks import count_alike, look
from trainer.data.record_check import Checked
from trainer.data.records import Dataset, load_dataset
from trainer.data.turns import Picture, Record, Turn


def test_held_out_pictures_that_training_shows_too_are_counted_by_their_pixels(tmp_path: Path) -> None:
    from examples.demo.tiny import build_processor

    red, blue = (Image.new("RGB", (24, 12), color) for color in ("red", "blue"))
    for name, image in (("a.png", red), ("b.webp", red), ("c.png", blue), ("d.bmp", red)):
        image.save(tmp_path / name, **({"lossless": True} if name == "b.webp" else {}))

    def row(name: str, question: str) -> dict[str, Any]:
        return {"image": name, "question": question, "output": "up"}

    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in (row("a.png", "one"), row("d.bmp", "three"), row("c.png", "x " * 65_000)))
    )
    (tmp_path / "eval.json").write_text(json.dumps([row("b.webp", "two"), row("c.png", "two"), row("b.webp", "three")]))
    inspection = inspect_dataset(load_dataset(str(tmp_path)), build_processor(), max_length=999)
    assert inspection.notes() == [
        "2 of 3 held-out pictures are shown in training too, pixel for pixel: scores say less about pictures that "
        "are new"
    ]
    # The same pixels and words in another format are the same record.
    assert inspection.left_out() == [
        "1 of 3 train records left out: also among the held-out records (train.jsonl line 2)",
        "1 of 3 train records left out: more text than max_length tokens can hold (train.jsonl line 3; the first: "
        "130002 characters)",
    ]


def test_held_out_pictures_that_are_training_pictures_encoded_again_are_said_to_look_alike(tmp_path: Path) -> None:
    from examples.demo.tiny import build_processor

    def frame(x: int) -> Image.Image:
        image = Image.new("RGB", (240, 160), (60, 160, 60))
        ImageDraw.Draw(image).rectangle([x, 64, x + 15, 79], fill=(200, 30, 30))
        return image

    frame(16).save(tmp_path / "a.png")
    frame(96).save(tmp_path / "b.png")
    frame(16).resize((120, 80)).save(tmp_path / "again.jpg", quality=60)
    frame(32).save(tmp_path / "moved.png")
    for name, shown in (("train", ("a", "b")), ("eval", ("again", "moved", "b"))):
        paths = [next(tmp_path.glob(f"{stem}.[pj]*")).name for stem in shown]
        rows = [{"image": path, "question": f"{name} {n}", "output": "up"} for n, path in enumerate(paths)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    inspection = inspect_dataset(load_dataset(str(tmp_path)), build_processor(), max_length=999)
    assert inspection.left_out() == []
    assert inspection.notes() == [
        "1 of 3 held-out pictures are shown in training too, pixel for pixel: scores say less about pictures that are "
        "new",
        "1 of 3 held-out pictures look like one that training shows, as where a picture was encoded again or made "
        "smaller: if they are the same, scores say less about new ones",
    ]


@pytest.mark.parametrize(
    ("text", "edges"), [("Go up, now!", ("G", "w!")), (" (a", (" (a", "a")), ("?! ", ("?! ", "?! ")), ("", ("", ""))]
)
def test_the_edges_of_a_text_go_to_its_first_and_its_last_letter(text: str, edges: tuple[str, str]) -> None:
    """A tokenizer may join them with what stands around a picture."""
    picture = Picture(paths=("a.png",))
    record = Record(turns=(Turn(role="user", parts=(text, picture)),), answer="up", session="")
    assert arrangement(record, {"a.png": File(size=(8, 4))}) == (("user", edges, ((8, 4),)),)


def test_grids_look_alike_frame_by_frame() -> None:
    one, other = (look(Image.new("RGB", (8, 8), color)) for color in ("red", "white"))
    assert count_alike([one * 4, one * 3 + other], [one * 4]) == (1, 2)
    assert (count_alike([one], []), count_alike([], [one])) == ((0, 1), (0, 0))


@pytest.mark.parametrize(
    ("changes", "is_alike"), [((), True), ((3,), True), ((4,), False), ((1,) * 256, True), ((1,) * 255 + (2,), False)]
)
def test_looks_are_alike_up_to_3_greys_in_a_cell_and_1_on_average(changes: tuple[int, ...], is_alike: bool) -> None:
    one = bytes([100] * looks.CELLS**2)
    other = bytes([100 + change for change in changes] + [100] * (len(one) - len(changes)))
    assert count_alike([other], [one]) == (is_alike, 1)


def test_looks_are_compared_for_a_time_that_is_bounded_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(9))
    monkeypatch.setattr(looks, "monotonic", lambda: next(clock))
    one = look(Image.new("RGB", (8, 8), "red"))
    assert count_alike([one] * 9, [one], seconds=4) == (3, 3)
    picture = Checked(pictures=(("a",),))
    inspection = Inspection(
        dataset=Dataset(train=(), eval=(), split=""), max_length=9, picture_sizes=Counter(), apart={},
        checked={"train": (picture,), "eval": (replace(picture, pictures=(("b",),)),)}, looks={"a": one, "b": one},
        grey_bits=Counter(),
    )  # fmt: skip
    clock = iter(range(0, 900, 60))
    assert inspection.notes() == [
        "0 of 1 held-out pictures were compared with the looks of training's: that ends after 60 s"
    ]


def test_the_first_picture_that_looks_alike_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []
    near = looks._is_near

    def counting(one: Any, block: Any, probes: Any) -> bool:
        blocks.append(len(block))
        return near(one, block, probes)

    monkeypatch.setattr(looks, "_is_near", counting)
    one, like = (look(Image.new("RGB", (8, 8), (shade, 60, 60))) for shade in (90, 91))
    assert count_alike([like], [one] * (2 * looks.BLOCK)) == (1, 1)
    assert blocks == [looks.BLOCK]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([{"reasoning": f"because {n}", "button": "up" if n % 3 else "down"} for n in range(12)],
         "reasoning has 12 values in 12 answers, and is scored as the first key; button has 2 values in 12 answers: "
         "answer_field: button scores it instead"),
        ([{"button": "up" if n % 3 else "down", "reasoning": f"because {n}"} for n in range(12)], None),
        ([{"reasoning": f"because {n}", "words": f"say {n}"} for n in range(12)], None),
        ([{"reasoning": f"because {n}", "kind": "game"} for n in range(12)], None),
        ([{"reasoning": f"because {n}", "button": "up"} for n in range(3)], None),
    ],
)  # fmt: skip
def test_a_key_of_few_values_behind_one_of_many_is_named(answers: Any, said: str | None) -> None:
    assert likelier_field([json.dumps(answer) for answer in answers]) == said


def test_plain_answers_have_no_key() -> None:
    assert likelier_field(["up"] * 20) is None
