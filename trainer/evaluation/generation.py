"""Held-out records put before the model by the very prompt that training used: the work shared among the processes,
and greedy answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainer.data.endings import AnswerEnd, answer_end
from trainer.data.examples import encode, pad_and_stack
from trainer.data.records import Record
from trainer.evaluation.memory import cost_of, free_bytes, tried
from trainer.evaluation.rows import Room, needed_bytes, records_at_once, rows_that_fit
from trainer.log import complain
from trainer.outcome import SickNode
from trainer.terminal import LAST_ROW

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
    work: Callable[[dict[str, Tensor], int], Sequence[T]],
    model: Any,
    processor: Any,
    records: Sequence[Record],
    *,
    accelerator: Any,
    what: str,
    between: Callable[[], object] = bool,
    behind: Sequence[int] = (),
    written: int = 0,
    candidates: Sequence[int] = (),
    room: Room | None = None,
) -> list[T]:
    """What `work` makes of each record, in order, on every process; the work is shared among the processes.

    `work` takes a batch of prompts, padded to the left, with the tokens `behind` them, and how many sequences it may
    run at once: as many as the free memory holds, and half as many after each time that it ran out, on every process.
    `written` and `candidates` (the tokens of each) are what it puts behind a prompt. `between` is called before each
    batch, as often on every process, and may raise. Records of like length go together. A process with nothing left to
    do sits a round out, or does one record again where all must run in step.

    Raises SickNode when the memory does not do for one sequence.
    """
    from accelerate.utils import gather_object

    order = sorted(range(len(records)), key=lambda i: (len(records[i].pictures), len(records[i].prompt)))
    mine = order[accelerator.process_index :: accelerator.num_processes]
    share = -(-len(order) // accelerator.num_processes)
    together, room = in_step(accelerator), room or Room()
    needed: Callable[[int], int] = int
    found: dict[int, T] = {}
    was_training = model.training
    model.eval()
    counting = LAST_ROW.counting(share, what, drawn=accelerator.is_main_process)
    with ThreadPoolExecutor(READERS) as readers, counting as count:
        reading: dict[int, Future[dict[str, Tensor]]] = {}

        def read(places: Sequence[int]) -> None:
            for place in places:
                if place not in reading:
                    reading[place] = readers.submit(encode, processor, records[place], behind)

        def run(places: Sequence[int], rows: int) -> Sequence[T]:
            examples = [reading[place].result() for place in places]
            if not examples:
                return ()
            batch = pad_and_stack(examples, pad_id=processor.tokenizer.pad_token_id, side="left")
            with accelerator.autocast():
                return work({key: tensor.to(accelerator.device) for key, tensor in batch.items()}, rows)

        if order and (together or room.most > 1):
            read(order[-1:])
            longest = reading[order[-1]].result()
            needed = partial(needed_bytes, *cost_of(model, longest, written, candidates))
            fit = rows_that_fit(free_bytes(torch.device(accelerator.device)), needed)
            room.most = min(room.most, *gather_object([fit]))
        done = 0
        try:
            while done < share:
                between()
                rows = min(room.most, share * max(1, len(candidates)))
                size = records_at_once(rows, len(candidates))
                places = mine[done : done + size]
                again = order[:1] * (min(size, share - done) - len(places)) if together else []
                read([*places, *again])
                read(mine[done + size : done + 2 * size])  # while the model works on those
                # Once a model in shards runs, a process that falls out leaves the others waiting: it asks before.
                now = partial(run, [*places, *again], rows)
                results, lacking = tried(partial(_reserve, needed(rows), accelerator.device) if together else now)
                if lacking := next(filter(None, gather_object([lacking])), ""):
                    room.most = _half(rows, what, lacking, accelerator)
                    reading.clear()  # reading may be what failed
                    continue
                if together:
                    results, lacking = tried(now)
                    if lacking:
                        raise SickNode(_too_little(what, lacking))
                found |= zip(places, results or (), strict=False)
                for place in places:
                    reading.pop(place)
                count(len(places))
                done += size
        finally:
            model.train(was_training)
    gathered = dict(gather_object(list(found.items())))
    return [gathered[place] for place in range(len(records))]


def _reserve(size: int, device: Any) -> Sequence[Any]:
    """Nothing, where so many bytes can be had. Raises as torch does where they cannot."""
    torch.empty(size, dtype=torch.uint8, device=device)
    return ()


def _half(rows: int, what: str, lacking: str, accelerator: Any) -> int:
    """Half of `rows`, said by the first process. Raises SickNode, in its words alone, for what has no half."""
    if rows == 1:
        raise SickNode(_too_little(what, lacking) if accelerator.is_main_process else "") from MemoryError(lacking)
    if accelerator.is_main_process:
        complain(f"{what}: memory ran out with {rows} sequences at once, {rows // 2} from now on")
    return rows // 2


def _too_little(what: str, lacking: str) -> str:
    return (
        f"{what}: memory ran out with one sequence at once ({lacking}): it takes more memory (VRAM=, on the CPU MEM=) "
        "or shorter records (MAX_LENGTH=)"
    )


def answer_budget(processor: Any, records: Sequence[Record]) -> int:
    """Tokens for the longest true answer, what ends it, and a little more."""
    end = answer_end(processor)
    texts = [end.before + end.behind, *(record.answer for record in records)]
    around, *answers = map(len, processor.tokenizer(texts, add_special_tokens=False)["input_ids"])
    return max(answers, default=0) + around + 4


def generate_answers(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    *,
    accelerator: Any,
    budget: int | None = None,
    end: AnswerEnd | None = None,
    between: Callable[[], object] = bool,
    room: Room | None = None,
) -> list[str]:
    """The model's answer to each record, greedily, up to its `end` (left out, that of the processor's template), of at
    most `budget` tokens (left out, what the true answers need). Collective, as `ask` is."""
    budget = budget or answer_budget(processor, records)
    end = end or answer_end(processor)
    # Without an end of its own the model keeps that of its generation_config.
    stop = {"eos_token_id": list(end.stop)} if end.stop else {}

    def write(batch: dict[str, Tensor], rows: int) -> list[str]:
        tokens = model.generate(
            **batch, max_new_tokens=budget, do_sample=False, use_cache=True, synced_gpus=in_step(accelerator),
            top_k=None, top_p=None, pad_token_id=processor.tokenizer.pad_token_id, **stop,
        )  # fmt: skip
        written = tokens[:, batch["input_ids"].shape[1] :].tolist()
        return [end.answer(processor, row) for row in written]

    return ask(
        write, model, processor, records, accelerator=accelerator, what="answering", between=between, written=budget,
        room=room,
    )  # fmt: skip
