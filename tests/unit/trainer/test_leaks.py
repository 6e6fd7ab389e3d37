"""What training shows of the held-out records, pixel for pixel; the key of the answers that looks like the action."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer.data.answers import likelier_field
from trainer.data.inspection import inspect_dataset
from trainer.data.records import load_dataset


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
        "1 of 3 train records left out: also among the held-out records",
        "1 of 3 train records left out: more text than max_length tokens can hold (130002 characters)",
    ]


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
