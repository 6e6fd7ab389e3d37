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
from trainer.data.tensors import IGNORED, pad_and_stack, processed, tensor_layout, with_answers
from trainer.data.turns import Picture, Record
from trainer.outcome import ConfigError, RecordError, is_panic
from trainer.text import shown

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
    return with_answers(encode_text(processor, record, prompt), None, [behind], tensor_layout(processor))


def encode_learned(processor: Any, record: Record) -> dict[str, Tensor]:
    """The processor's tensors of a whole record, with `labels` (1, length) on the learned answers and their ends.
    Raises RecordError naming the record, Rewritten where its answers cannot share one text."""
    with _naming(record):
        prompts, answers = render(processor, record)
        text, mark = join_prompts(processor, prompts)
        tokens = processor.tokenizer(answers, add_special_tokens=False)["input_ids"]
        return with_answers(encode_text(processor, record, text), mark, tokens, tensor_layout(processor), labels=True)


def encode_text(processor: Any, record: Record, text: str) -> dict[str, Tensor]:
    """The processor's tensors of a record's pictures and of its rendered `text`. Raises RecordError naming the
    record."""
    with _naming(record):
        return processed(processor, text, load_pictures(record))


def count_tokens(processor: Any, record: Record, texts: Sequence[str]) -> list[int]:
    """The number of tokens in each of a record's rendered `texts`. Raises RecordError naming the record."""
    with _naming(record):
        return [len(tokens) for tokens in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]


@contextmanager
def _naming(record: Record) -> Iterator[None]:
    """Turns any error of a template, a decoder or a processor into a RecordError of one line."""
    try:
        yield
    except (RecordError, ConfigError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
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
        pad_id = self.processor.tokenizer.pad_token_id
        batch = pad_and_stack(examples, pad_id=pad_id, side="right", layout=tensor_layout(self.processor))
        # The state at t predicts the token at t + 1.
        targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED).flatten()
        batch["loss_positions"] = (targets != IGNORED).nonzero().squeeze(1)
        batch["loss_targets"] = targets[batch["loss_positions"]]
        return batch


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
