"""Records to tensors. One function builds the prompt, for training and for generation alike.

Prompt and answer are tokenized apart and joined, as they meet at inference; the loss falls on the answer and
its end-of-turn only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainer.data.grid import compose_grid
from trainer.data.records import Picture, Record

IGNORED = -100
PAD_TO_MULTIPLE_OF = 8  # tensor-core friendly lengths
CACHE_BYTES = 512 * 1024**2  # encoded examples kept in memory; a whole toy set, a fraction of a real one
LONG_RUN = 16  # so often in a row no one writes a token; a picture has it 36 or 256 times


def load_pictures(record: Record) -> list[Image.Image]:
    """The pictures the model sees, in order: each a ready image, or four frames as a 2x2 grid."""
    return [load_picture(picture) for picture in record.pictures]


def load_picture(picture: Picture) -> Image.Image:
    """Raises OSError naming the file that does not open, ValueError for frames of different sizes."""
    images = []
    for path in picture.paths:
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        except UnidentifiedImageError:
            raise OSError(f"{path} is no image") from None
        except Exception as error:  # Pillow's decoders raise nearly anything
            raise OSError(f"{path}: {error or type(error).__name__}") from error
    return images[0] if len(images) == 1 else compose_grid(images)


def prompt_and_answer(processor: Any, record: Record) -> tuple[str, str]:
    """(text up to and including the generation prompt, the answer with the template's end of turn).

    Both come from the model's own chat template. Raises ValueError when the template does not put the
    answer right behind the generation prompt, since training would then differ from inference.
    """
    shown = [{"role": turn.role, "content": [_content(part) for part in turn.parts]} for turn in record.turns]
    model = {"role": "assistant", "content": [{"type": "text", "text": record.answer}]}
    prompt = processor.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
    whole = processor.apply_chat_template([*shown, model], tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError("the chat template does not place answers right behind its generation prompt")
    return prompt, whole[len(prompt) :]


def _content(part: str | Picture) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part}


class Encoder:
    """record -> tensors of one sample, remembered up to CACHE_BYTES (toy sets are read over and over)."""

    def __init__(self, processor: Any, records: Sequence[Record]) -> None:
        self.processor = processor
        self.records = records
        self._cached: Any = None

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Sequence tensors of shape (1, length) with `labels`, and the picture's as the processor gives them."""
        if self._cached is None:
            example = self._encode(index)
            size = sum(tensor.nbytes for tensor in example.values())
            self._cached = lru_cache(maxsize=CACHE_BYTES // size)(self._encode)
        return self._cached(index)

    def _encode(self, index: int) -> dict[str, Tensor]:
        record = self.records[index]
        prompt_text, answer_text = prompt_and_answer(self.processor, record)
        example = encode_prompt(self.processor, prompt_text, load_pictures(record))
        answer = self.processor.tokenizer(answer_text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        length = example["input_ids"].shape[1]
        append_text(example, answer)
        masked = torch.full((1, length), IGNORED)
        example["labels"] = torch.cat((masked, answer), dim=1)
        return example


def encode_prompt(processor: Any, text: str, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
    """The processor's tensors for one prompt: text of shape (1, length), and the pictures' if there are any."""
    images = [list(pictures)] if pictures else None
    # The template has put BOS there already.
    inputs = processor(text=[text], images=images, add_special_tokens=False, return_tensors="pt")
    return dict(inputs)


def append_text(example: dict[str, Tensor], tokens: Tensor) -> None:
    """Put `tokens` (1, n), plain text, behind what `encode_prompt` made: attended to (1), no image (0)."""
    length = example["input_ids"].shape[1]
    for key, tensor in example.items():
        if is_sequence(tensor, length):
            filler = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            example[key] = torch.cat((tensor, filler.get(key, torch.zeros_like(tokens))), dim=1)


def is_sequence(tensor: Tensor, length: int) -> bool:
    """Whether a tensor of one sample runs along its tokens (the rest belongs to the pictures)."""
    return tensor.dim() == 2 and tuple(tensor.shape) == (1, length)


def pad_and_stack(
    examples: Sequence[dict[str, Tensor]], *, pad_id: int, side: str, multiple_of: int = PAD_TO_MULTIPLE_OF
) -> dict[str, Tensor]:
    """One batch: sequence tensors padded to (batch, length), pictures joined along their first dimension.

    Records without a picture add nothing to the pictures' tensors; a batch of such records alone has none.
    """
    lengths = [example["input_ids"].shape[1] for example in examples]
    longest = -(-max(lengths) // multiple_of) * multiple_of
    fill = {"input_ids": pad_id, "labels": IGNORED}
    along = {key for e, n in zip(examples, lengths, strict=True) for key, t in e.items() if is_sequence(t, n)}
    batch = {}
    for key in dict.fromkeys(key for example in examples for key in example):
        if key not in along:
            batch[key] = _join([example[key] for example in examples if key in example])
            continue
        rows = []
        for example, length in zip(examples, lengths, strict=True):
            # A processor may give no token types for text alone: none of it is an image (0).
            row = example.get(key, torch.zeros((1, length), dtype=torch.long))
            pad = (0, longest - length) if side == "right" else (longest - length, 0)
            rows.append(torch.nn.functional.pad(row, pad, value=fill.get(key, 0)))
        batch[key] = torch.cat(rows)
    return batch


def _join(tensors: Sequence[Tensor]) -> Tensor:
    """Along the first dimension, the others filled with zeros: Idefics3 and SmolVLM cut pictures into as many tiles as
    their size asks for, and skip empty ones."""
    most = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        lacking = [want - have for want, have in zip(most, tensor.shape[1:], strict=True)]
        # From the last dimension to the first, before and behind each.
        padded.append(torch.nn.functional.pad(tensor, [n for lack in reversed(lacking) for n in (0, lack)]))
    return torch.cat(padded)


class TrainCollator:
    """Indices of records -> a training batch of plain tensors.

    Besides the processor's tensors: `labels` (batch, length), and for the head `loss_positions` (n), flat
    indices of the states that predict `loss_targets` (n).
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.pad_id = encoder.processor.tokenizer.pad_token_id

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        examples = [self.encoder(row["index"]) for row in rows]
        batch = pad_and_stack(examples, pad_id=self.pad_id, side="right")
        # The state at t predicts the token at t + 1.
        target = torch.full_like(batch["labels"], IGNORED)
        target[:, :-1] = batch["labels"][:, 1:]
        batch["loss_positions"] = (target.flatten() != IGNORED).nonzero().squeeze(1)
        batch["loss_targets"] = target.flatten()[batch["loss_positions"]]
        return batch


def token_counts(processor: Any, records: Sequence[Record], *, chunk: int = 256) -> list[tuple[int, int, int]]:
    """(tokens, those of the answer, those that the pictures add) of every record, as the Encoder will have them.

    Pictures are encoded only to learn what they add to the text: once for each combination of sizes.
    """
    added: dict[tuple[Any, ...], int] = {}
    counts: list[tuple[int, int, int]] = []
    for start in range(0, len(records), chunk):
        some = records[start : start + chunk]
        texts = [text for record in some for text in prompt_and_answer(processor, record)]
        encoded = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for record, prompt, answer in zip(some, encoded[::2], encoded[1::2], strict=True):
            length = len(prompt) + len(answer)
            key = tuple(picture_size(picture) for picture in record.pictures)
            if key and key not in added:
                added[key] = Encoder(processor, [record])(0)["input_ids"].shape[1] - length
            pictures = added.get(key, 0)
            counts.append((length + pictures, len(answer), pictures))
    return counts


def describe_example(processor: Any, example: dict[str, Tensor]) -> str:
    """What one sample is to the model: the masked part, then the trained part, decoded, image tokens counted."""
    tokenizer = processor.tokenizer
    ids, labels = example["input_ids"][0].tolist(), example["labels"][0].tolist()
    learned = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    masked = [token for token, label in zip(ids, labels, strict=True) if label == IGNORED]
    return "\n".join(
        f"{name} ({len(tokens)} tokens): {_decode(tokenizer, tokens)}"
        for name, tokens in (("masked", masked), ("trained", learned))
    )


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text, on one line, with a long run of one token (a picture's) as its name and count."""
    words: list[str] = []
    plain: list[int] = []
    for token, run in groupby(tokens):
        count = len(list(run))
        if count < LONG_RUN:
            plain += [token] * count
            continue
        words += [tokenizer.decode(plain), f"[{tokenizer.decode([token])} x {count}]"]
        plain = []
    return repr("".join([*words, tokenizer.decode(plain)]))


@lru_cache(maxsize=1 << 16)
def picture_size(picture: Picture) -> tuple[int, int]:
    """(width, height) of its file, or of its first frame; the pixels are not read."""
    with Image.open(picture.paths[0]) as image:
        return image.size
