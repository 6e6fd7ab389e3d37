"""Held-out records put before the model by the very prompt that training used: the work shared among the processes,
and greedy answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from trainer.data.examples import encode, pad_and_stack
from trainer.data.records import Record

ROWS = 32  # sequences at once
READERS = 4  # threads: preparing a picture of Gemma 3 takes longer than scoring it on a large GPU
T = TypeVar("T")


def choose(records: Sequence[Record], count: int) -> list[int]:
    """Places of at most `count` records, the same ones whenever they are asked for, spread over the sessions."""

    def key(place: int) -> bytes:
        return hashlib.sha256(f"{place}:{records[place].answer}".encode()).digest()

    return sorted(sorted(range(len(records)), key=key)[:count])


def in_step(accelerator: Any) -> bool:
    """Whether all processes must run the model as often: ZeRO-3 gathers its shards of the weights together."""
    return accelerator.num_processes > 1 and accelerator.distributed_type.value == "DEEPSPEED"


@torch.inference_mode()
def ask(
    work: Callable[[dict[str, Tensor]], Sequence[T]],
    model: Any,
    processor: Any,
    records: Sequence[Record],
    *,
    accelerator: Any,
    what: str,
    between: Callable[[], object] = bool,
    behind: Sequence[int] = (),
    batch_size: int = ROWS,
) -> list[T]:
    """What `work` makes of each record, in order, on every process; the work is shared among the processes.

    `work` takes a batch of prompts, padded to the left, with the tokens `behind` them. `between` is called before each
    batch, as often on every process, and may raise. Records of like length go together. A process with nothing left to
    do sits a round out, or does one record again where all must run in step.
    """
    from accelerate.utils import gather_object

    order = sorted(range(len(records)), key=lambda i: (len(records[i].pictures), len(records[i].prompt)))
    mine = order[accelerator.process_index :: accelerator.num_processes]
    rounds = range(0, -(-len(order) // accelerator.num_processes), batch_size)
    batches = [mine[start : start + batch_size] for start in rounds]
    repeated = order[:1] if in_step(accelerator) else []
    was_training = model.training
    model.eval()
    found: list[tuple[int, T]] = []
    with ThreadPoolExecutor(READERS) as readers:

        def read(places: Sequence[int]) -> Iterator[dict[str, Tensor]]:
            return readers.map(lambda place: encode(processor, records[place], behind), places)

        bar = tqdm(batches, what, leave=False, disable=None if accelerator.is_main_process else True)
        try:
            upcoming = read(batches[0] or repeated) if batches else iter(())
            for places, following in zip(bar, [*batches[1:], []], strict=True):
                between()
                # While the model works on these, the next ones are read.
                examples, upcoming = list(upcoming), read(following or repeated)
                if not examples:
                    continue
                batch = pad_and_stack(examples, pad_id=processor.tokenizer.pad_token_id, side="left")
                with accelerator.autocast():
                    results = work({key: tensor.to(accelerator.device) for key, tensor in batch.items()})
                found += zip(places, results, strict=False)
        finally:
            model.train(was_training)
    gathered = dict(gather_object(found))
    return [gathered[place] for place in range(len(records))]


def answer_budget(tokenizer: Any, records: Sequence[Record]) -> int:
    """Tokens for the longest true answer and a little more."""
    answers = tokenizer([record.answer for record in records], add_special_tokens=False)["input_ids"]
    return max(map(len, answers), default=0) + 4


def generate_answers(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    *,
    accelerator: Any,
    budget: int | None = None,
    between: Callable[[], object] = bool,
) -> list[str]:
    """The model's answer to each record, greedily and of at most `budget` tokens; left out, what the true answers need.
    Collective, as `ask` is."""
    tokenizer = processor.tokenizer
    budget = budget or answer_budget(tokenizer, records)

    def write(batch: dict[str, Tensor]) -> list[str]:
        tokens = model.generate(
            **batch, max_new_tokens=budget, do_sample=False, use_cache=True, synced_gpus=in_step(accelerator),
            top_k=None, top_p=None,
        )  # fmt: skip
        texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    return ask(write, model, processor, records, accelerator=accelerator, what="answering", between=between)
