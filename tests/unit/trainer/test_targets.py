"""What PEFT is told to adapt where it would rewrite it for models whose experts are one tensor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
from torch import nn, tensor

from trainer.model.base import load_model_config
from trainer.model.contract import _kinds
from trainer.model.kind import check_reads_onward, check_tokens
from trainer.model.targets import lost_at_loading, peft_targets
from trainer.outcome import ConfigError

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


@pytest.mark.parametrize(
    ("is_decoder", "onward", "refused"),
    [
        (False, (False, False), True),  # BERT
        (True, (True, True), False),  # BERT, made a decoder by its config.json
        (False, (True,), False),  # GPT-NeoX, whose configuration says nothing true about it
        (False, (), False),  # a family that does not say how it reads: the contract sees it on the first batch
        (None, (False,), False),  # GIT, which masks by itself
        (False, (False, True), False),
    ],
)
def test_a_model_that_reads_in_both_directions_is_refused_by_its_skeleton(
    is_decoder: bool | None, onward: tuple[bool, ...], refused: bool
) -> None:
    decoder = nn.ModuleList(nn.Identity() for _ in onward)
    for layer, one in zip(decoder, onward, strict=True):
        layer.is_causal = one
    config = SimpleNamespace(model_type="bert", **({} if is_decoder is None else {"is_decoder": is_decoder}))
    if not refused:
        check_reads_onward("m", config, decoder)
        return
    with pytest.raises(ConfigError) as error:
        check_reads_onward("m", config, decoder)
    assert str(error.value).startswith("MODEL=m: bert reads a text in both directions (is_decoder is false)")


@pytest.mark.parametrize(
    ("name", "switch"),
    [("BertConfig", "is_decoder"), ("BigBirdConfig", "is_decoder"), ("MegatronBertConfig", "is_decoder"),
     ("RemBertConfig", "is_decoder"), ("RoFormerConfig", "is_decoder"), ("XLMConfig", "causal")],
)  # fmt: skip
def test_an_encoder_is_refused_by_its_configuration_which_need_not_name_a_class(
    name: str, switch: str, tmp_path: Path
) -> None:
    import transformers

    kind = getattr(transformers, name)
    kind().save_pretrained(tmp_path)
    assert "architectures" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ConfigError) as error:
        load_model_config(str(tmp_path))
    said = f"MODEL={tmp_path}: {kind.model_type} reads a text in both directions ({switch} is false), so it cannot "
    assert str(error.value).startswith(said)
    check_reads_onward("m", kind(**{switch: True}))


def test_adapters_that_peft_finds_again_are_not_lost() -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = Model("gemma3")
    assert lost_at_loading(get_peft_model(model, LoraConfig(target_modules=PATTERN))) == []


def test_an_adapter_that_peft_would_look_for_under_another_name_is_lost() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    class RenamedConfig(PreTrainedConfig):
        model_type = "renamed_as_it_loads"

    class Renamed(PreTrainedModel):
        config_class = RenamedConfig

        def __init__(self, config: RenamedConfig) -> None:
            super().__init__(config)
            self.decoder = nn.ModuleList([Layer(), Layer()])

    register_checkpoint_conversion_mapping(
        RenamedConfig.model_type, [WeightRenaming(r"\.mlp\.up_proj\.", ".mlp.fc1.")], overwrite=True
    )
    model: Any = Renamed(RenamedConfig())
    lost = lost_at_loading(get_peft_model(model, LoraConfig(target_modules=PATTERN)))
    assert lost == ["decoder.0.mlp.up_proj", "decoder.1.mlp.up_proj"]


def test_a_tokenizer_with_more_tokens_than_the_weights_is_refused_before_a_gpu_sees_them() -> None:
    """As where somebody added <|im_end|> and did not resize the embedding."""
    for tokens in ([], [9], [0, 9]):
        check_tokens("m", nn.Embedding(10, 2), tensor(tokens))
    check_tokens("m", nn.Identity(), tensor([10]))  # an embedding of its own kind
    with pytest.raises(ConfigError) as error:
        check_tokens("m", nn.Embedding(10, 2), tensor([3, 10]))
    assert str(error.value) == (
        "MODEL=m: its tokenizer writes token 10, and its weights have 10 tokens, from 0: were tokens added without "
        "resize_token_embeddings? give the tokenizer that belongs to these weights"
    )
