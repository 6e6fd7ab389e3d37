"""What a processor's tensors are about is read off the processor: answers lengthen what runs along the tokens, and
pictures are joined where the processor joins them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.data.tensors import Layout, lengthened, pad_and_stack, tensor_layout, with_answers

PATCHES = 9


class Processor:
    """One token a character and one a picture; `kind` is how its pictures come."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def apply_chat_template(self, turns: Any, **_: Any) -> str:
        return "".join("*" if part["type"] == "image" else part["text"] for part in turns[0]["content"])

    def __call__(self, *, text: list[str], images: Any, **_: Any) -> dict[str, Any]:
        count, longest = len(text), max(map(len, text))
        of_text = {"input_ids": torch.ones(count, longest, dtype=torch.long)}
        if self.kind == "one row":  # MiniCPM-V
            shape: tuple[int, ...] = (1, 3, 2, PATCHES * count)
        elif self.kind == "tiles":  # Idefics3
            shape = (count, 2, 3, 4)
        elif self.kind == "beside":  # Llama 3.2
            of_text["sees"] = torch.ones(count, longest, 1, 2, dtype=torch.long)
            shape = (count, 1, 2, 3)
        else:  # a row of patches for each picture
            shape = (count, PATCHES, 5)
        return {**of_text, "pixel_values": torch.ones(shape)}


@pytest.mark.parametrize(
    ("kind", "along", "joined", "beside"),
    [
        ("one row", {"input_ids"}, {"pixel_values": 3}, False),
        ("tiles", {"input_ids"}, {"pixel_values": 0}, False),
        ("patches", {"input_ids"}, {"pixel_values": 0}, False),
        ("beside", {"input_ids", "sees"}, {"pixel_values": 0}, True),
    ],
)
def test_the_processor_shows_what_its_tensors_are(
    kind: str, along: set[str], joined: dict[str, int], beside: bool
) -> None:
    assert tensor_layout(Processor(kind)) == Layout(along_tokens=frozenset(along), joined=joined, beside=beside)


def test_a_processor_that_refuses_the_questions_is_judged_by_shapes() -> None:
    assert tensor_layout(object()) == Layout()
    assert Layout().is_sequence("mask", torch.ones(1, 4), 4)
    assert not Layout().is_sequence("pixels", torch.ones(1, 4, 2), 4)


def test_a_row_of_patches_as_long_as_the_text_stays_as_it_is() -> None:
    layout = tensor_layout(Processor("one row"))
    example = {"input_ids": torch.ones(1, 7, dtype=torch.long), "pixel_values": torch.ones(1, 7)}
    longer = with_answers(example, None, [[5, 6]], layout)
    assert longer["input_ids"].shape == (1, 9) and longer["pixel_values"].shape == (1, 7)


def test_pictures_in_one_row_stay_in_one_row() -> None:
    layout = tensor_layout(Processor("one row"))
    rows = [{"input_ids": torch.ones(1, 4, dtype=torch.long), "pixel_values": torch.full((1, 3, 2, n), float(n))}
            for n in (5, 9)]  # fmt: skip
    pixels = pad_and_stack(rows, pad_id=0, side="right", layout=layout)["pixel_values"]
    assert pixels.shape == (1, 3, 2, 14)
    assert pixels[0, 0, 0].tolist() == [5.0] * 5 + [9.0] * 9


def test_the_mask_of_pictures_beside_the_text_goes_on_over_the_answer() -> None:
    """A token of an answer sees what the token before it sees."""
    layout = tensor_layout(Processor("beside"))
    sees = torch.tensor([[0, 0], [1, 0], [1, 1]])[None, :, None]  # three tokens, one picture, two tiles
    shown = {"input_ids": torch.tensor([[7, 8, 9]]), "sees": sees, "pixel_values": torch.ones(1, 1, 2, 3)}
    answered = [with_answers(shown, None, [answer], layout, labels=True) for answer in ([1, 2], [1])]
    assert answered[0]["sees"][0, :, 0].tolist() == [[0, 0], [1, 0], [1, 1], [1, 1], [1, 1]]
    batch = pad_and_stack(answered, pad_id=0, side="left", layout=layout)
    assert batch["input_ids"].tolist() == [[0, 0, 0, 7, 8, 9, 1, 2], [0, 0, 0, 0, 7, 8, 9, 1]]
    assert batch["sees"][1, :, 0].tolist() == [[0, 0]] * 5 + [[1, 0]] + [[1, 1]] * 2
    longer = lengthened(batch, torch.tensor([[3], [3]]), layout)
    assert longer["input_ids"][:, -1].tolist() == [3, 3]
    assert longer["sees"][:, -1, 0].tolist() == [[1, 1], [1, 1]]
    assert longer["pixel_values"].shape == batch["pixel_values"].shape == (2, 1, 2, 3)


def test_the_mask_is_lengthened_at_every_answer_of_a_conversation() -> None:
    layout, mark = tensor_layout(Processor("beside")), 0
    sees = torch.tensor([[1], [0], [1], [0]])[None, :, :, None]  # the marked token is the second
    example = {"input_ids": torch.tensor([[7, mark, 8, 9]]), "sees": sees}
    found = with_answers(example, mark, [[1, 2], [3]], layout)
    assert found["input_ids"].tolist() == [[7, 1, 2, 8, 9, 3]]
    assert found["sees"].flatten().tolist() == [1, 1, 1, 1, 0, 0]
