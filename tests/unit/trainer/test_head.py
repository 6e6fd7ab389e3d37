"""The chunked head against the loss that torch computes of all logits at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.architecture.head_chunk import BYTES_PER_LOGIT, chunk_positions
from trainer.measure.paper import Ledger
from trainer.model.head import chunk_of, supervised_loss

POSITIONS, HIDDEN, VOCABULARY = 50, 16, 3000
CHUNK = 7  # seven chunks of as many positions, and one of a single one


class Model(nn.Module):
    """Its states are its input's."""

    def __init__(self, softcap: float | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.head = nn.Linear(HIDDEN, VOCABULARY, dtype=dtype).requires_grad_(False)
        text = SimpleNamespace(vocab_size=VOCABULARY, final_logit_softcapping=softcap)
        self.config = SimpleNamespace(get_text_config=lambda: text)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def base_model(self, states: Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=states)


def of_all(model: Model, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, count of positions predicted right, gradient of the states), by autograd of all logits at once."""
    states = states.clone().requires_grad_()
    logits = model.head(states).float()
    if softcap := model.config.get_text_config().final_logit_softcapping:
        logits = softcap * torch.tanh(logits / softcap)
    loss = nn.functional.cross_entropy(logits[0], targets, reduction="sum")
    loss.backward()
    return loss.detach(), (logits[0].argmax(-1) == targets).sum(), states.grad  # type: ignore[return-value]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("chunk", [POSITIONS, CHUNK])
def test_the_head_in_chunks_is_the_head_at_once(
    softcap: float | None, in_bf16: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chunk has the same loss to the last bit, several to the rounding of their sum."""
    torch.manual_seed(0)
    model, states = Model(softcap), 6 * torch.randn(1, POSITIONS, HIDDEN)
    targets = torch.randint(0, VOCABULARY, (POSITIONS,))
    with torch.no_grad():
        targets[: POSITIONS // 2] = model.head(states)[0].argmax(-1)[: POSITIONS // 2]  # some of them are right
    monkeypatch.setattr("trainer.model.head.chunk_of", lambda _: chunk)
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        loss, correct, gradient = of_all(model, states, targets)
        given = states.clone().requires_grad_()
        found = supervised_loss(model, given, loss_positions=torch.arange(POSITIONS), loss_targets=targets)
    (found["loss_sum"] / 7).backward()
    assert found["loss_sum"].item() == (loss.item() if chunk == POSITIONS else pytest.approx(loss.item(), rel=1e-6))
    assert found["correct"] == correct >= POSITIONS // 3
    assert given.grad is not None
    assert (7 * given.grad - gradient).abs().max() <= (1e-2 if in_bf16 else 1e-6) * gradient.abs().max()


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_chunk_takes_as_many_bytes_as_the_plan_counts(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, as on a GPU: BYTES_PER_LOGIT, and a few hundredths for the states; a chunk leaves nothing behind."""
    model, states = Model(softcap, torch.bfloat16), torch.randn(1, POSITIONS, HIDDEN, dtype=torch.bfloat16)
    states.requires_grad_()
    targets = torch.randint(0, VOCABULARY, (POSITIONS,))
    monkeypatch.setattr("trainer.model.head.chunk_of", lambda _: CHUNK)
    with Ledger() as ledger:
        for tensor in (model.head.weight, model.head.bias, states, targets):
            ledger.take(tensor)
        before = ledger.begin().now
        supervised_loss(model, states, loss_positions=torch.arange(POSITIONS), loss_targets=targets)
    assert ledger.held.peak - before == pytest.approx(CHUNK * VOCABULARY * BYTES_PER_LOGIT, rel=0.04)


def test_a_chunk_follows_from_the_models_vocabulary() -> None:
    assert chunk_of(Model()) == chunk_positions(VOCABULARY, sharded=False)
