"""What PEFT is told to adapt where it would rewrite it for models whose experts are one tensor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
from torch import nn

from trainer.model.contract import _kinds
from trainer.model.targets import peft_targets

LINEARS = ("self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = (
            nn.ModuleDict({name.partition(".")[2]: nn.Linear(2, 2) for name in LINEARS if name.startswith(part)})
            for part in ("self_attn", "mlp")
        )


class Model(nn.Module):
    def __init__(self, model_type: str) -> None:
        super().__init__()
        self.tower, self.decoder = Layer(), nn.ModuleList([Layer(), Layer()])
        self.config = SimpleNamespace(model_type=model_type)


PATTERN = rf"decoder\.\d+\.({'|'.join(LINEARS)})"


def test_a_plain_model_is_told_in_one_expression() -> None:
    assert peft_targets(Model("gemma3"), PATTERN) == (PATTERN, [])


def test_an_experts_names_are_left_out_and_the_rest_is_told_by_whole_paths() -> None:
    """Else q_proj alone would be left of the paths, which the tower has too."""
    told, lost = peft_targets(Model("glm4v_moe"), PATTERN)
    assert told == ["decoder.0.self_attn.q_proj", "decoder.1.self_attn.q_proj"]
    assert lost == [f"decoder.{n}.{name}" for n in (0, 1) for name in LINEARS[1:]]


def test_the_same_linear_of_all_layers_is_one_kind_and_three_kinds_are_named() -> None:
    assert _kinds([f"decoder.{n}.{name}" for name in ("q", "k") for n in range(12)]) == "decoder.N.q, decoder.N.k"
    assert _kinds(["a.10.experts.3.up", "b.0", "c", "d.1", "e"]) == "a.N.experts.N.up, b.0, c and 2 more kinds"
