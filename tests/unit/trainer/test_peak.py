"""What counts as memory on a GPU: numbers of a card that is not here."""

from __future__ import annotations

import pytest

from trainer.config import TrainConfig
from trainer.tracking.peak import Stage, read_stage

SAID = {
    "memory_allocated": 10, "max_memory_allocated": 20, "memory_reserved": 25, "max_memory_reserved": 30,
    "mem_get_info": (40, 100),
}  # fmt: skip


def test_memory_of_a_gpu_is_torchs_and_what_others_hold_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name, value in SAID.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-", device="cuda")
    # 60 of 100 are held; torch's allocator has 25 of these now, and had 30.
    counted = {"peak_bytes": 20, "reserved_bytes": 30, "process_bytes": 65}
    assert read_stage("LoRA", config) == Stage(name="LoRA", bytes=10, **counted)
    assert read_stage("peak", config) == Stage(name="peak", bytes=20, **counted)
