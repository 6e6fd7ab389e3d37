"""Greedy answers to held-out records, and the choice of the records that are answered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from trainer.data.endings import AnswerEnd, answer_end
from trainer.data.turns import Record
from trainer.evaluation.batches import map_batches, must_run_in_lockstep
from trainer.evaluation.rows import Room

# What a model's generation_config.json may ask for besides: other ways to write, of which some are code to be fetched,
# a clock, other caches. Training knows none of them, and without their options most end in an error.
UNASKED = (
    "assistant_early_exit", "cache_implementation", "compile_config", "dola_layers", "guidance_scale", "max_time",
    "penalty_alpha", "prefill_chunk_size", "prompt_lookup_num_tokens", "stop_strings", "token_healing",
    "watermarking_config",
)  # fmt: skip


def sample_places(records: Sequence[Record], count: int) -> list[int]:
    """Places of at most `count` records, always the same ones, spread over the sessions."""

    def key(place: int) -> bytes:
        return hashlib.sha256(f"{place}:{records[place].answer}".encode()).digest()

    return sorted(sorted(range(len(records)), key=key)[:count])


def answer_budget(processor: Any, records: Sequence[Record]) -> int:
    """Number of tokens for the longest true answer with its end, plus a few."""
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
    """The model's greedy answer to each record, up to its `end` (default: the end in the processor's template), of at
    most `budget` tokens (default: enough for the true answers). Collective, as `map_batches` is."""
    budget = budget or answer_budget(processor, records)
    end = end or answer_end(processor)
    # Without an end in `end`, the model uses the one in its generation_config.
    stop = {"eos_token_id": list(end.stop)} if end.stop else {}

    # What a model's generation_config may ask for: a thousand beams would take a thousand times the memory.
    plain: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
    plain |= {name: None for name in UNASKED if getattr(model.generation_config, name, None) is not None}

    def write(batch: dict[str, Tensor], rows: int) -> list[str]:
        tokens = model.generate(
            **batch, max_new_tokens=budget, do_sample=False, use_cache=True, top_k=None, top_p=None,
            synced_gpus=must_run_in_lockstep(accelerator), pad_token_id=processor.tokenizer.pad_token_id, **plain,
            **stop,
        )  # fmt: skip
        written = tokens[:, batch["input_ids"].shape[1] :].tolist()
        return [end.answer(processor, row) for row in written]

    return map_batches(
        write, model, processor, records, accelerator=accelerator, what="answering", between=between, written=budget,
        room=room,
    )  # fmt: skip
