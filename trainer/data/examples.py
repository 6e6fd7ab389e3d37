"""Turns records into tensors. The same function renders and encodes a prompt for training and for generation.

Prompts and answers are tokenized separately and joined, as they meet at inference. Only the answers and their ends of
turn have a loss. All answers of a record are learned in one forward pass, each behind the true turns before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trainer.data.bounds import BOUNDS
from trainer.data.endings import answer_end, render_answer
from trainer.data.grid import load_picture
from trainer.data.records import each_answer
from trainer.data.turns import Picture, Record
from trainer.outcome import ConfigError, RecordError
from trainer.text import shown

IGNORED = -100
PAD_TO_MULTIPLE_OF = 8  # tensor-core friendly lengths
CACHE_BYTES = 512 * 1024**2  # encoded examples kept in memory: all of a toy set, a fraction of a real one
# Nobody writes a special token so often in a row; a picture has it 36 or 256 times.
LONG_RUN = re.compile(r"(<[^<>]+>|\[[^\[\]]+\])\1{15,}")


class Rewritten(RecordError):
    """The chat template renders an earlier answer differently before a later one, or without its end (as templates do
    that remove thoughts from earlier turns). No single text can then teach both answers."""


def load_pictures(record: Record) -> list[Image.Image]:
    """The pictures the model sees, in order: each a ready image, or four frames as a 2x2 grid."""
    return [load_picture(picture.paths) for picture in record.pictures]


def prompt_and_answer(processor: Any, record: Record) -> tuple[str, str]:
    """(text up to and including the generation prompt, the answer with its end of turn), as `render_answer` and
    `answer_end` return them. Raises ValueError, and the template's own errors."""
    shown = [{"role": turn.role, "content": [_content(part) for part in turn.parts]} for turn in record.turns]
    prompt, text = render_answer(processor, shown, record.answer)
    return prompt, text + answer_end(processor).added


def render(processor: Any, record: Record) -> tuple[list[str], list[str]]:
    """(prompts, answers), one of each per learned answer: the text before the answer, and the answer with its end.

    Raises ValueError as `prompt_and_answer` does, Rewritten where the answers cannot share one text.
    """
    prompts, answers, text = [], [], ""
    for one in each_answer([record]):
        prompt, answer = prompt_and_answer(processor, one)
        if not prompt.startswith(text):
            raise Rewritten("in later turns the chat template renders an earlier answer otherwise")
        prompts.append(prompt[len(text) :])
        answers.append(answer)
        text = prompt + answer
    return prompts, answers


def join_prompts(processor: Any, prompts: Sequence[str]) -> tuple[str, int | None]:
    """(the prompts as one text, the token between them that marks the place of an answer; None for a single prompt).

    A tokenizer never merges a special token with its neighbours, so each prompt is tokenized apart from the answers.
    """
    if len(prompts) == 1:
        return prompts[0], None
    # the processor's markers of pictures
    known = {value for value in vars(processor).values() if isinstance(value, str)}
    special = processor.tokenizer.added_tokens_decoder.items()
    plain = ((number, token.content) for number, token in special
             if token.special and not (token.lstrip or token.rstrip or token.content in known))  # fmt: skip
    number, mark = next(((n, mark) for n, mark in plain if not any(mark in prompt for prompt in prompts)), (None, ""))
    if number is None:
        raise Rewritten("the chat template uses every special token that the tokenizer has")
    return mark.join(prompts), number


def _content(part: str | Picture) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part}


def encode(processor: Any, record: Record, behind: Sequence[int] = ()) -> dict[str, Tensor]:
    """The processor's tensors of the turns before a record's last answer, followed by the tokens `behind`, which are
    text.

    Tensors of the sequence have shape (1, length); those of the pictures are as the processor returns them, and
    absent for a record without pictures. Raises RecordError naming the record.
    """
    with _naming(record):
        prompt, _ = prompt_and_answer(processor, record)
    return _with_answers(encode_text(processor, record, prompt), None, [behind])


def encode_learned(processor: Any, record: Record) -> dict[str, Tensor]:
    """The processor's tensors of a whole record, with `labels` (1, length) on the learned answers and their ends.
    Raises RecordError naming the record, Rewritten where its answers cannot share one text."""
    with _naming(record):
        prompts, answers = render(processor, record)
        text, mark = join_prompts(processor, prompts)
        tokens = processor.tokenizer(answers, add_special_tokens=False)["input_ids"]
        return _with_answers(encode_text(processor, record, text), mark, tokens, labels=True)


def encode_text(processor: Any, record: Record, text: str) -> dict[str, Tensor]:
    """The processor's tensors of a record's pictures and of its rendered `text`. Raises RecordError naming the
    record."""
    with _naming(record):
        return processed(processor, text, load_pictures(record))


def processed(processor: Any, text: str, pictures: list[Image.Image]) -> dict[str, Tensor]:
    """The processor's tensors of one text and its pictures. Raises the processor's own errors."""
    tensors = _as_it_takes_them(processor, text, pictures)
    # Llama 4's processor returns pictures in bfloat16, whatever the model's precision.
    half = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    return {**tensors, **{name: t.float() for name, t in half.items()}}


def _as_it_takes_them(processor: Any, text: str, pictures: list[Image.Image]) -> dict[str, Tensor]:
    # The template has already written BOS.
    options: dict[str, Any] = {"text": [text], "add_special_tokens": False, "return_tensors": "pt"}
    try:
        return dict(processor(images=[pictures] if pictures else None, **options))
    except ValueError:
        if not pictures:
            raise
        try:  # GOT-OCR takes the pictures of all texts in one list, and there is one text
            return dict(processor(images=pictures, **options))
        except Exception:
            pass
        raise


def _with_answers(
    example: dict[str, Tensor], mark: int | None, answers: Sequence[Sequence[int]], *, labels: bool = False
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
        return torch.cat([piece for (a, b), more in pairs for piece in (row[a:b], row.new_tensor(more))])[None]

    ones, zeros = ([[value] * len(answer) for answer in answers] for value in (1, 0))
    # Answers are attended to (1) and are no image (0).
    more = {"input_ids": answers, "attention_mask": ones}
    filled = {
        key: fill(tensor[0], more.get(key, zeros)) if is_sequence(tensor, len(ids)) else tensor
        for key, tensor in example.items()
    }
    if labels:
        filled["labels"] = fill(torch.full_like(ids, IGNORED), answers)
    return filled


@contextmanager
def _naming(record: Record) -> Iterator[None]:
    """Turns any error of a template, a decoder or a processor into a RecordError of one line."""
    try:
        yield
    except (RecordError, ConfigError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        # An error about a file that does not open names the file already.
        named = isinstance(error, OSError) and any(str(path) in said for path in record.images)
        raise RecordError(said if named else f"{name_record(record)}: {said}") from error


def name_record(record: Record) -> str:
    """A name for the record: its first picture, or else the beginning of its text."""
    if not record.images:
        return shown(record.prompt)
    more = len(record.images) - 1
    return f"{record.images[0]}{f' and {more} more' if more else ''}"


def is_sequence(tensor: Tensor, length: int) -> bool:
    """Whether a tensor of one sample runs along its tokens (the rest belongs to the pictures)."""
    return tuple(tensor.shape) == (1, length)


class Encoder:
    """Returns the tensors of a record by its index, and keeps up to CACHE_BYTES of them (toy sets are read
    repeatedly)."""

    def __init__(self, processor: Any, records: Sequence[Record]) -> None:
        self.processor = processor
        self.records = records
        self._room = CACHE_BYTES
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._megapixels = BOUNDS.megapixels

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a loader that began as a new Python (forkserver, spawn), which knows the setting's default alone."""
        self.__dict__.update(state)
        BOUNDS.megapixels = self._megapixels

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Sequence tensors of shape (1, length) with `labels`, and the pictures' tensors as the processor gives
        them."""
        if index in self._kept:
            return self._kept[index]
        example = encode_learned(self.processor, self.records[index])
        if self._room > 0:
            self._room -= sum(tensor.nbytes for tensor in example.values())
            self._kept[index] = example
        return example

    def collate(self, rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """A training batch of plain tensors for the records with these indices.

        Besides the processor's tensors: `labels` (batch, length), and for the head `loss_positions` (n), flat indices
        of the states that predict `loss_targets` (n).
        """
        examples = [self(row["index"]) for row in rows]
        batch = pad_and_stack(examples, pad_id=self.processor.tokenizer.pad_token_id, side="right")
        # The state at t predicts the token at t + 1.
        targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED).flatten()
        batch["loss_positions"] = (targets != IGNORED).nonzero().squeeze(1)
        batch["loss_targets"] = targets[batch["loss_positions"]]
        return batch


def pad_and_stack(examples: Sequence[dict[str, Tensor]], *, pad_id: int, side: str) -> dict[str, Tensor]:
    """One batch: sequence tensors padded on `side` to (batch, length), picture tensors joined along their first
    dimension.

    Records without a picture add nothing to the picture tensors; a batch of only such records has none.
    """
    lengths = [example["input_ids"].shape[1] for example in examples]
    longest = -(-max(lengths) // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch = {}
    for key in dict.fromkeys(key for example in examples for key in example):
        if any(is_sequence(e[key], n) for e, n in zip(examples, lengths, strict=True) if key in e):
            # A processor may return no token types for text alone: all of the text is no image (0).
            rows = [example.get(key, torch.zeros_like(example["input_ids"])) for example in examples]
            batch[key] = _join(rows, [longest], fill.get(key, 0), side)
        else:
            rows = [example[key] for example in examples if key in example]
            # Idefics3 and SmolVLM cut pictures into as many tiles as their size asks for, and skip empty ones.
            batch[key] = _join(rows, [max(sizes) for sizes in zip(*(row.shape[1:] for row in rows), strict=True)])
    return batch


def _join(tensors: Sequence[Tensor], shape: Sequence[int], fill: int = 0, side: str = "right") -> Tensor:
    """The tensors joined along the first dimension, the other dimensions padded on `side` to `shape`."""
    joined = []
    for tensor in tensors:
        whole = tensor.new_full((len(tensor), *shape), fill)
        whole[tuple(slice(-n, None) if side == "left" else slice(n) for n in tensor.shape)] = tensor
        joined.append(whole)
    return torch.cat(joined)


def describe_example(processor: Any, example: dict[str, Tensor]) -> str:
    """One sample as the model sees it: masked and trained parts alternating, decoded, with image tokens counted."""
    ids, labels = example["input_ids"][0], example["labels"][0]
    lines = []
    for learned, run in groupby(range(len(ids)), key=lambda place: bool(labels[place] != IGNORED)):
        tokens = ids[list(run)]
        text = LONG_RUN.sub(_counted, processor.tokenizer.decode(tokens))
        lines.append(f"{'trained' if learned else 'masked'} ({len(tokens)} tokens): {text!r}")
    return "\n".join(lines)


def _counted(run: re.Match[str]) -> str:
    return f"[{run[1]} x {len(run[0]) // len(run[1])}]"
