"""Greedy answers for held-out records, generated from the very prompt that training used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from trainer.data.examples import encode_prompt, load_pictures, pad_and_stack, prompt_and_answer
from trainer.data.records import Record

BATCH_SIZE = 32
MAX_ANSWER_TOKENS = 512


def choose_records(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` records, the same ones whenever they are asked for, spread over the sessions."""

    def key(indexed: tuple[int, Record]) -> bytes:
        return hashlib.sha256(f"{indexed[0]}:{indexed[1].answer}".encode()).digest()

    chosen = sorted(sorted(enumerate(records), key=key)[:count], key=lambda indexed: indexed[0])
    return [record for _, record in chosen]


def in_step(accelerator: Any) -> bool:
    """Whether all processes must run the model as often: ZeRO-3 gathers its shards of the weights together."""
    return accelerator.num_processes > 1 and accelerator.distributed_type.value == "DEEPSPEED"


def shares(
    order: Sequence[int], accelerator: Any, batch_size: int, between: Callable[[], object], what: str
) -> Iterator[tuple[list[int], bool]]:
    """This process's part of `order` in batches, and whether what comes of them is kept.

    As many rounds on every process, each after a call of `between`; a process with nothing left to do sits a
    round out, or does the first index again where all must run in step.
    """
    from tqdm.auto import tqdm

    mine = list(order[accelerator.process_index :: accelerator.num_processes])
    starts = range(0, -(-len(order) // accelerator.num_processes), batch_size)
    for start in tqdm(starts, desc=what, leave=False, disable=None if accelerator.is_main_process else True):
        between()
        if batch := mine[start : start + batch_size]:
            yield batch, True
        elif in_step(accelerator):
            yield [order[0]], False


def answer_budget(tokenizer: Any, records: Sequence[Record]) -> int:
    """Tokens for the longest true answer and a little more, at most MAX_ANSWER_TOKENS."""
    answers = tokenizer([record.answer for record in records], add_special_tokens=False)["input_ids"]
    return min(MAX_ANSWER_TOKENS, max(map(len, answers)) + 4)


@torch.inference_mode()
def generate_answers(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    *,
    accelerator: Any,
    batch_size: int = BATCH_SIZE,
    budget: int | None = None,
    between: Callable[[], object] = bool,
) -> list[str]:
    """The model's answer to each record, in order, on every process; the work is shared among the processes.

    Greedy, and of at most `budget` tokens; left out, what the true answers need. `between` is called before each
    batch, as often on every process, and may raise.
    """
    from accelerate.utils import gather_object

    tokenizer = processor.tokenizer
    budget = budget or answer_budget(tokenizer, records)
    was_training = model.training
    model.eval()
    written: list[tuple[int, str]] = []
    batches = shares(range(len(records)), accelerator, batch_size, between, "answering")
    for indices, kept in batches:
        examples = [
            encode_prompt(processor, prompt_and_answer(processor, records[i])[0], load_pictures(records[i]))
            for i in indices
        ]
        batch = pad_and_stack(examples, pad_id=tokenizer.pad_token_id, side="left")
        batch = {key: tensor.to(accelerator.device) for key, tensor in batch.items()}
        with accelerator.autocast():
            tokens = model.generate(
                **batch, max_new_tokens=budget, do_sample=False, use_cache=True, synced_gpus=in_step(accelerator),
                top_k=None, top_p=None,
            )  # fmt: skip
        texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        written += [(i, text.strip()) for i, text in zip(indices, texts, strict=True) if kept]
    model.train(was_training)
    gathered = dict(gather_object(written))
    return [gathered[index] for index in range(len(records))]
