"""What scoring takes, made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from trainer.data.answers import answer_field
from trainer.evaluation.scoring import Choices, find_choices

ALONE = SimpleNamespace(
    process_index=0,
    num_processes=1,
    is_main_process=True,
    device="cpu",
    autocast=lambda: torch.autocast("cpu", enabled=False),
)


def found(processor: Any, records: Any, asked: str = "auto") -> Choices:
    choices = find_choices(processor, records, answer_field([r.answer for r in records]), asked)
    assert isinstance(choices, Choices), choices
    return choices
