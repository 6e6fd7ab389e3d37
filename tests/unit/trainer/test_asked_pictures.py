"""infer says when a question has other pictures than those that training showed."""

from __future__ import annotations

import pytest

from trainer.data.turns import Picture, Record, Turn
from trainer.results.trained import Usage
from trainer.tools.infer import unlike_training

FOUR = Picture(paths=("a.png", "b.png", "c.png", "d.png"))
ONE = Picture(paths=("a.png",))


@pytest.mark.parametrize(
    ("frames", "counts", "asked", "note"),
    [
        (4, (1,), (FOUR,), ""),
        (4, (1,), (ONE,),
         "one picture is taken as a ready grid; training drew grids of four frames: give the four, oldest first"),
        (1, (1,), (ONE,), ""),
        (1, (1,), (FOUR,), "four frames are drawn as one grid; training used ready pictures"),
        (1, (1,), (ONE, ONE), "the question has 2 pictures; in training each had 1"),
        (1, (1,), (), "the question has 0 pictures; in training each had 1"),
        (1, (1, 2, 4), (ONE, ONE, ONE), "the question has 3 pictures; in training each had 1 to 4"),
        (1, (0, 1), (), ""),
        (1, (), (ONE, ONE), ""),  # an adapter of 0.1.0 does not say how many
    ],
)  # fmt: skip
def test_other_pictures_than_in_training_are_said(
    frames: int, counts: tuple[int, ...], asked: tuple[Picture, ...], note: str
) -> None:
    usage = Usage(
        device="cpu", quantization="nf4", answer_field=None, choices=None, answer_tokens=8, frames=frames, context="",
        question="", pictures=counts,
    )  # fmt: skip
    record = Record(turns=(Turn(role="user", parts=(*asked, "Which?")),), answer="?", session="")
    assert unlike_training(record, usage) == note
