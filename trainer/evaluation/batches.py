"""Runs held-out records through the model with the same prompts as in training: the work is shared among the
processes, in batches as large as the memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainer.data.examples import encode
from trainer.data.tensors import pad_and_stack, tensor_layout
from trainer.data.turns import Record
from trainer.evaluation.memory import cost_of, free_bytes, tried
from trainer.evaluation.rows import Room, needed_bytes, records_at_once, rows_that_fit
from trainer.log import complain
from trainer.outcome import SickNode
from trainer.terminal import LAST_ROW

READERS = 4  # threads: preparing a picture of Gemma 3 takes longer than scoring it on a large GPU
T = TypeVar("T")
Batch = dict[str, Tensor]


def must_run_in_lockstep(accelerator: Any) -> bool:
    """Whether all processes must run the model equally often: under ZeRO-3 they gather the shards of the weights
    together."""
    return accelerator.num_processes > 1 and accelerator.distributed_type.value == "DEEPSPEED"


@torch.inference_mode()
def map_batches(
    work: Callable[[Batch, int], Sequence[T]],
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
    """The result of `work` for each record, in order, on every process; the work is shared among the processes.

    `work` takes a batch of prompts, padded to the left, with the tokens `behind` them, and how many sequences it may
    run at once: as many as the free memory holds, and half as many after each time that memory ran out on any
    process. `work` adds up to `written` tokens, or `candidates` (the number of tokens of each), behind a prompt.
    `between` is called before each batch, equally often on every process, and may raise. Records of similar length
    form a batch. A process with no record left skips a round, or repeats one record when all must run in lockstep.

    Raises SickNode when the memory is too small for one sequence.
    """
    from accelerate.utils import gather_object

    order = sorted(range(len(records)), key=lambda i: (len(records[i].pictures), len(records[i].prompt)))
    mine = order[accelerator.process_index :: accelerator.num_processes]
    share = -(-len(order) // accelerator.num_processes)  # for every process, though some may have one record less
    together, room = must_run_in_lockstep(accelerator), room or Room()
    found: dict[int, T] = {}
    with (
        ThreadPoolExecutor(READERS) as threads,
        LAST_ROW.counting(share, what, drawn=accelerator.is_main_process) as count,
        _evaluating(model),
    ):
        reader = Reader(threads, records, partial(encode, processor, behind=behind))

        def run(places: Sequence[int], rows: int) -> Sequence[T]:
            if not places:
                return ()
            pad_id = processor.tokenizer.pad_token_id
            batch = pad_and_stack(reader.wait_for(places), pad_id=pad_id, side="left", layout=tensor_layout(processor))
            with accelerator.autocast():
                return work({key: tensor.to(accelerator.device) for key, tensor in batch.items()}, rows)

        needed: Callable[[int], int] = int
        if order and (together or room.most > 1):
            (longest,) = reader.wait_for(order[-1:])
            sizes, asked = cost_of(model, longest, written, candidates)
            needed = partial(needed_bytes, sizes, asked)
            fit = rows_that_fit(free_bytes(torch.device(accelerator.device)), needed, asked.most_rows)
            room.most = min(room.most, *gather_object([fit]))
        done = 0
        while done < share:
            between()
            rows = min(room.most, share * max(1, len(candidates)))
            size = records_at_once(rows, len(candidates))
            places = mine[done : done + size]
            again = order[:1] * (min(size, share - done) - len(places)) if together else []
            reader.start([*places, *again])
            reader.start(mine[done + size : done + 2 * size])  # read ahead while the model works
            now = partial(run, [*places, *again], rows)
            reserve = partial(_reserve, needed(rows), accelerator.device) if together else None
            results, lacking = _try_on_all(now, reserve, what)
            if lacking:
                room.most = _half(rows, what, lacking, accelerator)
                reader.forget()  # reading may have failed
                continue
            found |= zip(places, results or (), strict=False)
            reader.forget(places)
            count(len(places))
            done += size
    gathered = dict(gather_object(list(found.items())))
    return [gathered[place] for place in range(len(records))]


class Reader:
    """Reads records into tensors, by their places, in threads ahead of the model."""

    def __init__(self, threads: ThreadPoolExecutor, records: Sequence[Record], read: Callable[[Record], Batch]) -> None:
        self._threads, self._records, self._read = threads, records, read
        self._begun: dict[int, Future[Batch]] = {}

    def start(self, places: Sequence[int]) -> None:
        for place in places:
            if place not in self._begun:
                self._begun[place] = self._threads.submit(self._read, self._records[place])

    def wait_for(self, places: Sequence[int]) -> list[Batch]:
        """The tensors of the records at these places. Raises RecordError."""
        self.start(places)
        return [self._begun[place].result() for place in places]

    def forget(self, places: Sequence[int] | None = None) -> None:
        """Drop the tensors of these places, or of all; they are read again when they are next asked for."""
        for place in list(self._begun) if places is None else places:
            del self._begun[place]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _try_on_all(
    run: Callable[[], Sequence[T]], reserve: Callable[[], Sequence[T]] | None, what: str
) -> tuple[Sequence[T] | None, str]:
    """(the result of `run` on this process, ""), or (None, why) when memory was lacking on any process. Collective.

    If a process drops out while a sharded model runs, the others wait for ever: with `reserve` each process first
    asks for the memory. Raises SickNode when memory is lacking all the same.
    """
    from accelerate.utils import gather_object

    results, lacking = tried(reserve or run)
    if lacking := next(filter(None, gather_object([lacking])), ""):
        return None, lacking
    if reserve:
        results, lacking = tried(run)
        if lacking:
            raise SickNode(_too_little(what, lacking))
    return results, ""


def _reserve(size: int, device: Any) -> Sequence[Any]:
    """An empty result when `size` bytes can be allocated. Raises torch's own error when they cannot."""
    torch.empty(size, dtype=torch.uint8, device=device)
    return ()


def _half(rows: int, what: str, lacking: str, accelerator: Any) -> int:
    """Half of `rows`, which the first process logs. Raises SickNode for one row; only the first process's error has a
    text."""
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
