"""Runs an evaluation and a tower on tensors that have a size but no memory, as trainer/measure/paper.py runs a step."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.config import TrainConfig
from trainer.evaluation.rows import SCORED_POSITIONS
from trainer.evaluation.scoring import cache_rows
from trainer.measure.paper import Held, Ledger, adapted, after_a_step, like_gpu
from trainer.model.base import auto_class
from trainer.model.head import log_probabilities


def evaluation_on_paper(model_config: Any, config: TrainConfig, *, tokens: int, answer: int) -> Held:
    """The bytes held at the peak of scoring one record between two steps: a prompt of `tokens` tokens, and behind a
    copy of its keys and values one candidate of `answer` tokens. A written answer runs the same prompt, then single
    tokens.

    Raises whatever the model's forward raises on tensors without values.
    """
    model, base = adapted(model_config, config)
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        kept = after_a_step(model, base, ledger)
        ledger.begin()
        with torch.no_grad(), like_gpu(), torch.autocast("cpu", torch.bfloat16):
            _score(model.eval(), base, ledger, tokens, answer - 1)
        del kept  # the optimizer's moments were there
    return ledger.held


def _score(model: Any, base: Any, ledger: Ledger, tokens: int, more: int) -> None:
    ledger.part = "prompt"
    first = model(**_inputs(tokens, tokens), use_cache=True, logits_to_keep=1)
    scores = first.logits[:, -1].float().log_softmax(-1)[:, [0]]
    cache = first.past_key_values
    del first
    ledger.part = "candidate"
    places = torch.arange(more)
    copied = cache_rows(cache, torch.zeros(1, dtype=torch.long))
    inputs = _inputs(more, tokens + more)
    log_probabilities(base, places, places, SCORED_POSITIONS, **inputs, past_key_values=copied, use_cache=True)
    del scores


def _inputs(tokens: int, seen: int) -> dict[str, Any]:
    return {
        "input_ids": torch.zeros(1, tokens, dtype=torch.long),
        "attention_mask": torch.ones(1, 1, tokens, seen, dtype=torch.bool),
        "position_ids": torch.zeros(1, tokens, dtype=torch.long),
    }


def tower_on_paper(model_config: Any, *, side: int, views: int) -> Held:
    """The bytes held at the peak while the frozen tower works on a picture in so many views of `side` x `side` px,
    beside a model in 16 bits."""
    with torch.device("meta"):
        base = auto_class(model_config).from_config(model_config, dtype=torch.bfloat16, trust_remote_code=False).eval()
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        base.to_empty(device="cpu")
        base.tie_weights()
        ledger.begin()
        ledger.part = "tower"
        with torch.no_grad(), like_gpu(), torch.autocast("cpu", torch.bfloat16):
            base.get_image_features(pixel_values=torch.zeros(views, 3, side, side, dtype=torch.bfloat16))
    return ledger.held
