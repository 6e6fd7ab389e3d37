"""How the tensors that a processor returns are lengthened by answers and put into a batch.

What a tensor is about, its tokens or its pictures, is read off the processor: it is asked for two texts of different
lengths and for two pictures at once. Names and shapes alone do not say it. A row of patches may be as long as the text;
MiniCPM-V lays the patches of all pictures into one row; the mask of Llama 3.2's pictures has a row for each token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trainer.data.template import bounded
from trainer.outcome import ConfigError

IGNORED = -100
PAD_TO_MULTIPLE_OF = 8  # tensor-core friendly lengths
PROBE_PX = (96, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What the dimensions of a processor's tensors are, by the tensors' names."""

    along_tokens: frozenset[str] = frozenset()
    """Tensors (records, tokens, ...)."""
    joined: Mapping[str, int] = field(default_factory=dict)
    """The dimension along which a tensor of pictures grows with each picture."""
    beside: bool = False
    """Whether pictures have no place among the tokens: each token then has a mask of the pictures that it sees, and
    the tensors of pictures have a row for each record, so that records with and without pictures share no batch."""

    def is_sequence(self, name: str, tensor: Tensor, length: int) -> bool:
        """Whether a tensor of one record of `length` tokens runs along its tokens; a tensor that the processor has
        not shown is judged by its shape."""
        if name in self.along_tokens:
            return True
        return name not in self.joined and tuple(tensor.shape) == (1, length)


def processed(processor: Any, text: str, pictures: list[Image.Image]) -> dict[str, Tensor]:
    """The processor's tensors of one text and its pictures. Raises the processor's own errors."""
    tensors = _as_it_takes_them(processor, [text], [pictures] if pictures else [])
    # Llama 4's processor returns pictures in bfloat16, whatever the model's precision.
    half = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    return {**tensors, **{name: t.float() for name, t in half.items()}}


def _as_it_takes_them(processor: Any, texts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Any]:
    # The template has already written BOS.
    options: dict[str, Any] = {"text": texts, "add_special_tokens": False, "return_tensors": "pt"}
    try:
        return dict(processor(images=pictures or None, **options))
    except ValueError:
        if not pictures:
            raise
        try:  # GOT-OCR takes the pictures of all texts in one list
            return dict(processor(images=[one for some in pictures for one in some], **options))
        except Exception:  # the first refusal is the one to tell
            pass
        raise


@lru_cache(maxsize=4)
def tensor_layout(processor: Any) -> Layout:
    """The layout of a processor's tensors, as it shows it; without knowledge when it refuses the questions.

    Raises ConfigError when the chat template does not end.
    """
    picture = Image.effect_noise(PROBE_PX, 90).convert("RGB")
    try:
        short, longer = (_rendered(processor, words) for words in ("?", "? " * 20))
        one, other = (processed(processor, text, [picture]) for text in (short, longer))
        two = _as_it_takes_them(processor, [short] * 2, [[picture]] * 2)
    except ConfigError:
        raise
    except Exception:  # whatever a template or a processor raises
        return Layout()
    lengths = one["input_ids"].shape[1], other["input_ids"].shape[1]
    named = [name for name, tensor in one.items() if isinstance(tensor, Tensor) and name in other]
    along = frozenset(
        name for name in named
        if all(tuple(all_[name].shape[:2]) == (1, n) for all_, n in zip((one, other), lengths, strict=True))
    )  # fmt: skip
    joined = {name: _doubled(one[name], two.get(name)) for name in named if name not in along}
    return Layout(along_tokens=along, joined=joined, beside=any(one[name].ndim > 2 for name in along))


def _rendered(processor: Any, words: str) -> str:
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]
    with bounded():
        return str(processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


def _doubled(one: Tensor, two: object) -> int:
    """The dimension in which the tensor of two records is twice as large; the first where no other is."""
    if not isinstance(two, Tensor) or two.ndim != one.ndim:
        return 0
    grown = [place for place, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if b == 2 * a]
    return grown[0] if len(grown) == 1 else 0


def with_answers(
    example: dict[str, Tensor],
    mark: int | None,
    answers: Sequence[Sequence[int]],
    layout: Layout,
    *,
    labels: bool = False,
) -> dict[str, Tensor]:
    """The tensors of a text with each of its `mark` tokens replaced by the tokens of an answer; the last answer is
    appended."""
    ids = example["input_ids"][0]
    places = (ids == mark).nonzero().flatten().tolist() if mark is not None else []
    if len(places) != len(answers) - 1:
        raise ValueError(f"{len(answers)} answers have {len(places) + 1} places in the text that the processor made")
    spans = list(zip([0, *(place + 1 for place in places)], [*places, len(ids)], strict=True))

    def fill(row: Tensor, values: Sequence[Sequence[int]]) -> Tensor:
        pairs = zip(spans, values, strict=True)
        return torch.cat([piece for (a, b), more in pairs for piece in (row[a:b], _behind(row[a:b], more))])[None]

    ones, zeros = ([[value] * len(answer) for answer in answers] for value in (1, 0))
    # Answers are attended to (1) and are no image (0).
    more = {"input_ids": answers, "attention_mask": ones}
    filled = {
        name: fill(tensor[0], more.get(name, zeros)) if layout.is_sequence(name, tensor, len(ids)) else tensor
        for name, tensor in example.items()
    }
    if labels:
        filled["labels"] = fill(torch.full_like(ids, IGNORED), answers)
    return filled


def _behind(row: Tensor, values: Sequence[int]) -> Tensor:
    """What stands behind `row` (tokens, ...): the `values`; of a mask of pictures, what the last token sees."""
    return row.new_tensor(values) if row.ndim == 1 else row[-1:].expand(len(values), *row.shape[1:])


def lengthened(batch: Mapping[str, Tensor], tokens: Tensor, layout: Layout) -> dict[str, Tensor]:
    """A batch of prompts, padded to the left, with `tokens` (records, n) behind each."""
    more = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    length = batch["input_ids"].shape[1]

    def longer(name: str, tensor: Tensor) -> Tensor:
        if not layout.is_sequence(name, tensor[:1], length):
            return tensor
        if tensor.ndim > 2:
            return torch.cat((tensor, tensor[:, -1:].expand(-1, tokens.shape[1], *tensor.shape[2:])), dim=1)
        # The tokens are attended to (1) and are no image (0).
        return torch.cat((tensor, more.get(name, torch.zeros_like(tokens)).to(tensor.dtype)), dim=1)

    return {name: longer(name, tensor) for name, tensor in batch.items()}


def pad_and_stack(
    examples: Sequence[dict[str, Tensor]], *, pad_id: int, side: str, layout: Layout | None = None
) -> dict[str, Tensor]:
    """One batch: sequence tensors padded on `side` to (batch, length), picture tensors joined as `layout` says.

    Records without a picture add nothing to the picture tensors, and a batch of only such records has none.
    """
    layout = layout or Layout()
    lengths = [example["input_ids"].shape[1] for example in examples]
    longest = -(-max(lengths) // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch = {}
    for name in dict.fromkeys(name for example in examples for name in example):
        there = [(example[name], n) for example, n in zip(examples, lengths, strict=True) if name in example]
        like = there[0][0]
        if any(layout.is_sequence(name, tensor, n) for tensor, n in there):
            # A processor may return no token types for text alone: all of the text is no image (0).
            rows = [e[name] if name in e else like.new_zeros(1, n, *like.shape[2:])
                    for e, n in zip(examples, lengths, strict=True)]  # fmt: skip
            batch[name] = _join(rows, [longest, *_widest(rows, 2)], fill.get(name, 0), side)
        else:
            turned = [row.movedim(layout.joined.get(name, 0), 0) for row, _ in there]
            # Idefics3 and SmolVLM cut pictures into as many tiles as their size asks for, and skip empty ones.
            batch[name] = _join(turned, _widest(turned, 1)).movedim(0, layout.joined.get(name, 0)).contiguous()
    return batch


def _widest(rows: Sequence[Tensor], first: int) -> list[int]:
    """The largest sizes of `rows` from dimension `first` on."""
    return [max(sizes) for sizes in zip(*(row.shape[first:] for row in rows), strict=True)]


def _join(tensors: Sequence[Tensor], shape: Sequence[int], fill: int = 0, side: str = "right") -> Tensor:
    """The tensors joined along the first dimension, the second padded on `side`, all others behind, to `shape`."""
    joined = []
    for tensor in tensors:
        whole = tensor.new_full((len(tensor), *shape), fill)
        place = [slice(size) for size in tensor.shape]
        if side == "left":
            place[1] = slice(-tensor.shape[1], None)
        whole[tuple(place)] = tensor
        joined.append(whole)
    return torch.cat(joined)
