"""The evaluation of a run at as many sequences at once as the free memory holds under a card's limit."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu_proof.stage import Stage
from planner.choose import HEADROOM_SHARE
from trainer.text import GIB


def carry_out(stage: Stage, *, card_gib: float, tokens: int) -> dict[str, Any]:
    import torch
    from accelerate import Accelerator

    from trainer.data.records import dataset_of
    from trainer.evaluation.heldout import build_heldout
    from trainer.model.base import add_lora, load_here, load_processor
    from trainer.node.start import init_distributed
    from trainer.tracking.peak import read_stage

    config = stage.config(tokens, max_length=stage.tokens(tokens), eval_fraction=0.5)
    if not stage.rehearsal:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(card_gib * (1 - HEADROOM_SHARE) * GIB / total)
    state = init_distributed(config)
    base, anatomy = load_here(config, state)
    model = add_lora(base, config, anatomy)
    said: list[str] = []
    held_out = build_heldout(load_processor(config.model), dataset_of(config), config, said.append)
    accelerator = Accelerator(cpu=stage.rehearsal)
    before = read_stage("before", config)
    began = time.perf_counter()
    scores = held_out.measure(model, accelerator, bool)
    seconds = time.perf_counter() - began
    after = read_stage("peak", config)
    return {
        "sequences_at_once": held_out.room.most, "records": scores.records, "seconds": seconds,
        "card_gib": card_gib, "held_bytes": before.bytes, "peak_bytes": after.peak_bytes,
        "reserved_bytes": after.reserved_bytes, "said": said,
    }  # fmt: skip
