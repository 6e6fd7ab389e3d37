"""Small parts of the model side, each beside a module of a few numbers: what is counted, watched, scored, refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.demo import tiny
from trainer.architecture.shape import PLANNED_PX
from trainer.measure import pictures
from trainer.measure.parts import Weights, weights_of
from trainer.model import base as model_base
from trainer.model.base import load_model_config
from trainer.model.behaviour import _numbers
from trainer.model.head import log_probabilities, use_own_head
from trainer.outcome import ConfigError
from trainer.tracking.watched import trained_parameters


class Words(nn.Module):
    """A language model of one table, which is its head too; its logits are twice what the table gives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight
        self.config = SimpleNamespace(model_type="words", get_text_config=lambda: SimpleNamespace())

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=2 * self.head(self.inner(self.table(input_ids))))

    def base_model(self, **inputs: Any) -> Any:
        raise AssertionError("the model's own forward was to be used")


def test_a_parameter_that_two_modules_hold_is_counted_once() -> None:
    """As an embedding, since the table is the first that holds it."""
    words = Words()
    assert weights_of(words, frozenset({words.inner})) == Weights(linear=16, experts=0, embedding=28, other=0)
    assert weights_of(words, frozenset(), without=[words.table]) == Weights(linear=0, experts=0, embedding=0, other=16)


def test_the_parameters_that_are_watched_are_the_trained_ones_and_only_in_training() -> None:
    words = Words()
    words.table.weight.requires_grad_(False)
    found, calls = trained_parameters(words), []
    assert dict(found.named_parameters()) == {"inner.weight": words.inner.weight}
    found.register_forward_hook(lambda *_: calls.append("ran"))
    words(torch.tensor([[1]]))
    words.eval()(torch.tensor([[1]]))
    assert calls == ["ran"]


def test_a_model_with_logits_of_its_own_is_scored_by_its_own_forward() -> None:
    words, ids = Words(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    use_own_head(words)
    positions, targets = torch.tensor([1, 5, 3]), torch.tensor([6, 0, 2])
    logits = words(ids).logits
    expected = torch.stack([logits[0, 1].log_softmax(-1)[6], logits[1, 2].log_softmax(-1)[0],
                            logits[1, 0].log_softmax(-1)[2]])  # fmt: skip
    assert torch.equal(log_probabilities(words, positions, targets, 1, input_ids=ids), expected)


def test_a_packed_parameter_counts_the_weights_in_it() -> None:
    plain = nn.Parameter(torch.zeros(6, 1))
    packed: Any = nn.Parameter(torch.zeros(6, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=(3, 4))
    assert (_numbers(plain), _numbers(packed)) == (6, 12)


def test_a_picture_is_measured_by_the_models_own_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration alone could not tell that pictures of all sizes take the same."""
    processor = tiny.build_processor()
    config = tiny.build_config(processor.tokenizer)
    monkeypatch.setattr(pictures, "load_processor", lambda model: processor)
    found = pictures.picture_of("some/model", config)
    assert PLANNED_PX != pictures.SMALL_PX
    assert (found.tokens, found.patches, found.fixed, found.beside) == (tiny.IMAGE_TOKENS, 36, True, False)


def test_without_a_processor_a_picture_is_measured_by_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(model: str) -> Any:
        raise OSError("no processor")

    monkeypatch.setattr(pictures, "load_processor", none)
    vision = SimpleNamespace(image_size=[108, 108], patch_size=18, spatial_merge_size=2)
    found = pictures.picture_of("some/model", SimpleNamespace(vision_config=vision))
    assert (found.tokens, found.patches, found.fixed) == (9, 36, False)
    named = pictures.picture_of("some/model", SimpleNamespace(vision_config=vision, image_seq_length=25))
    assert (named.tokens, named.patches, named.fixed) == (25, 36, False)


def test_a_model_whose_class_cannot_be_looked_up_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr(model_base, "auto_class", lambda _: SimpleNamespace(_model_mapping={}))
    with pytest.raises(ConfigError, match=r"cannot be loaded \(") as caught:
        load_model_config(str(tmp_path))
    assert (caught.value.name, caught.value.given) == ("MODEL", str(tmp_path))


@pytest.mark.parametrize(("free", "device", "moved"), [(119, "cuda", False), (120, "cuda", True), (0, "cpu", True)])
def test_a_model_that_fits_a_gpu_only_in_shards_is_not_moved_there_whole(
    free: int, device: str, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pretend figures of a card, since this needs none."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 1000))
    base = SimpleNamespace(device=torch.device("cpu"), get_memory_footprint=lambda: 100)
    assert model_base._has_room(base, torch.device(device)) is moved
