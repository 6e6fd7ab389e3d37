"""A model that breaks one promise of the contract is refused in the words of that promise, or stepped back from.

Each model here is a tiny Gemma 3 that keeps all promises but one.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainer.config import TrainConfig
from trainer.data.examples import Encoder
from trainer.data.records import Dataset, load_dataset
from trainer.evaluation.heldout import build_heldout, settle_scoring
from trainer.model import base as models
from trainer.model import contract
from trainer.model.anatomy import Anatomy
from trainer.model.behaviour import share_left_alone, token_losses
from trainer.model.contract import adapt, check_contract
from trainer.model.features import FeatureCache, check_features, keep_features
from trainer.model.head import uses_own_head
from trainer.outcome import ConfigError

LINEARS = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=str(tiny_model), data="-", output_dir=str(tmp_path), run_id="-", lora_r=4, lora_alpha=8, device="cpu",
        lora_dropout=0.0, quantization="none", feature_store=f"{tmp_path}/kept",
    )  # fmt: skip


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    return models.load_processor(str(tiny_model))


@pytest.fixture(scope="module")
def batch(processor: Any, walks: Path) -> dict[str, torch.Tensor]:
    return Encoder(processor, load_dataset(str(walks)).train).collate([{"index": 0}])


def loaded(config: TrainConfig) -> tuple[Any, Anatomy]:
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    base = models.load_base(config, anatomy, dtype=torch.float32, device_map=None)
    torch.manual_seed(0)
    return base, anatomy


def after(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let what the forward of `module` returns pass through `change`."""

    def changed(_: nn.Module, __: Any, found: Any) -> Any:
        if isinstance(found, torch.Tensor):
            return change(found)
        found.last_hidden_state = change(found.last_hidden_state)
        return found

    module.register_forward_hook(changed)


def blind(model: Any) -> None:
    after(model.get_base_model().model.multi_modal_projector, torch.zeros_like)


def sees_ahead(model: Any) -> None:
    """Each place knows a little of all places, as where a mask lets the answer be seen."""
    after(model.get_base_model().model.language_model, lambda states: states + states.mean(1, keepdim=True))


def learns_from_its_pictures(model: Any) -> None:
    after(model.get_base_model().model.multi_modal_projector, lambda states: states.clone().requires_grad_())


def without_one_layers_mlp(model: Any) -> None:
    after(model.get_base_model().model.language_model.layers[0].mlp, torch.zeros_like)


def trains_a_norm(model: Any) -> None:
    model.get_base_model().model.language_model.norm.requires_grad_(True)


def halves_its_adapters(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.bfloat16()


BROKEN: dict[str, tuple[Callable[[Any], None], str]] = {
    "its pictures change nothing": (blind, "another picture: the same loss, not another loss"),
    "an answer is seen before it is given": (
        sees_ahead, r"later words of an answer: move an earlier loss by \d+\.\d\d nats, not move no earlier loss"),
    "adapters have no gradient": (without_one_layers_mlp, "adapters without a gradient: 3, not 0"),
    "something else is trained": (
        trains_a_norm, r"trainable parameters: [\d,]+, not [\d,]+; trained outside the language model: 1, not 0"),
    "its pictures have a gradient": (
        learns_from_its_pictures, "vision features: with gradient, not without gradient"),
    "adapters have 16 bits": (halves_its_adapters, "adapter precision: bfloat16, not float32"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_breaks_one_promise_is_refused_by_its_name(
    name: str, config: TrainConfig, batch: dict[str, torch.Tensor]
) -> None:
    """Whatever else were broken would stand in the line, too."""
    spoil, said = BROKEN[name]
    base, anatomy = loaded(config)
    model = models.add_lora(base, config, anatomy)
    spoil(model)
    with pytest.raises(ConfigError, match=rf"^MODEL=\S+: is not what it should be: {said}$"):
        check_contract(model, config, anatomy, batch)


@pytest.mark.slow
def test_answers_without_an_end_among_the_learned_tokens_are_refused(
    config: TrainConfig, batch: dict[str, torch.Tensor]
) -> None:
    base, anatomy = loaded(config)
    model = models.add_lora(base, config, anatomy)
    last = int(batch["loss_targets"][-2])  # behind it the template writes a new line
    assert dict(check_contract(model, config, anatomy, batch, ends=(last,)))["the end of an answer"] == "learned"
    cut = {**batch, "loss_positions": batch["loss_positions"][:-2], "loss_targets": batch["loss_targets"][:-2]}
    with pytest.raises(ConfigError, match=r": the end of an answer: not among the trained tokens, not learned$"):
        check_contract(model, config, anatomy, cut, ends=(last,))


@pytest.mark.slow
def test_linears_that_no_loss_depends_on_get_no_adapter_and_the_others_are_as_if_they_had_never_had_one(
    config: TrainConfig, batch: dict[str, torch.Tensor]
) -> None:
    base, anatomy = loaded(config)
    after(base.model.language_model.layers[0].mlp, torch.zeros_like)
    said: list[str] = []
    model, kept, _ = adapt(base, config, anatomy, batch, said.append)
    paths = [f"model.language_model.layers.0.{name}" for name in LINEARS]
    assert [*kept.unused] == sorted(paths)
    assert said == [
        "3 linears get no adapter, as no loss depends on them: "
        + ", ".join(path.replace(".0.", ".N.") for path in sorted(paths))
    ]
    assert dict(check_contract(model, config, kept, batch))["adapters without a gradient"] == "0"


@pytest.mark.slow
def test_features_that_are_others_when_they_are_read_again_are_not_kept(
    config: TrainConfig, batch: dict[str, torch.Tensor]
) -> None:
    base, anatomy = loaded(config)
    model = models.add_lora(base, config, anatomy)
    plain = token_losses(model, batch)
    cache = keep_features(base, config)
    assert isinstance(cache, FeatureCache)
    said: list[str] = []
    assert check_features(cache, model, batch, said.append) is cache and said == []
    read = cache.store.read
    cache.store.read = lambda key: {name: -kept for name, kept in (read(key) or {}).items()}
    why = check_features(cache, model, batch, said.append)
    assert isinstance(why, str) and why.startswith("a loss differs by ")
    assert said == [f"the features of pictures are not kept, as the model would be trained otherwise ({why})"]
    assert torch.equal(token_losses(model, batch), plain), "the tower computes them again"


@pytest.mark.slow
def test_candidates_that_do_not_score_alike_on_what_is_kept_of_a_prompt_run_behind_a_prompt_each(
    config: TrainConfig, processor: Any, walks: Path
) -> None:
    base, anatomy = loaded(config)
    model = models.add_lora(base, config, anatomy)
    records = load_dataset(str(walks))
    asked = replace(config, actions="up,down,up the long winding road")
    held_out = build_heldout(processor, Dataset(train=records.train, eval=records.eval, split=""), asked, bool)
    said: list[str] = []
    assert settle_scoring(held_out, model, said.append) is held_out and said == []

    def forgets(_: nn.Module, __: Any, given: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """As a family that counts what it has kept by an argument that it does not get."""
        if given.get("past_key_values") is not None and given["past_key_values"].get_seq_length():
            given["attention_mask"] = torch.cat(
                (given["attention_mask"][:, :-1] * 0, given["attention_mask"][:, -1:]), dim=1
            )
        return (), given

    base.model.register_forward_pre_hook(forgets, with_kwargs=True)
    settled = settle_scoring(held_out, model, said.append)
    assert settled.choices is not None and settled.choices.apart
    (line,) = said
    assert line.startswith("actions are scored behind a prompt each, which takes longer: what the model keeps of one ")


@pytest.mark.slow
def test_a_prompt_of_tokens_that_the_weights_do_not_have_is_refused_before_a_gpu_sees_them(
    config: TrainConfig, batch: dict[str, torch.Tensor]
) -> None:
    """As where a template marks turns by a token that somebody added; a GPU would say that it is broken."""
    base, anatomy = loaded(config)
    rows = base.get_input_embeddings().num_embeddings
    beyond = {**batch, "input_ids": batch["input_ids"].clone()}
    beyond["input_ids"][0, 1] = rows
    with pytest.raises(ConfigError, match=rf": its tokenizer writes token {rows}, and its weights have {rows} tokens"):
        adapt(base, config, anatomy, beyond, bool)


@pytest.mark.slow
def test_under_deepspeed_all_is_asked_that_needs_no_gradients(
    config: TrainConfig, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is whole until the first step, and a card that holds a shard may have no room for gradients beside the
    whole."""
    base, anatomy = loaded(config)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    rows = base.get_input_embeddings().num_embeddings
    beyond = {**batch, "input_ids": batch["input_ids"].clone()}
    beyond["input_ids"][0, 1] = rows
    with pytest.raises(ConfigError, match=f"its tokenizer writes token {rows}"):
        adapt(base, config, anatomy, beyond, bool)
    base, anatomy = loaded(config)
    original = base.forward

    @functools.wraps(type(base).forward)
    def scaled(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        outputs.logits = outputs.logits / 2
        return outputs

    base.forward = scaled
    monkeypatch.setattr(contract, "without_gradient", lambda *_: pytest.fail("gradients beside the whole model"))
    model, anatomy, head = adapt(base, config, anatomy, batch, bool)
    assert "by the model's own" in head and uses_own_head(base)
    assert check_contract(model, config, anatomy, batch, head=head)[10:] == [
        ("loss of our head", head),
        ("another picture", "another loss"),
        ("later words of an answer", "move no earlier loss"),
        ("the end of an answer", "learned"),
    ]


@pytest.mark.slow
def test_weights_with_a_head_of_their_own_under_a_config_json_that_ties_it_are_told_what_to_write(
    config: TrainConfig, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = shutil.copytree(config.model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    table = next(tensor for name, tensor in weights.items() if name.endswith("embed_tokens.weight"))
    save_file({**weights, "lm_head.weight": -table}, folder / "model.safetensors", metadata={"format": "pt"})
    other = replace(config, model=str(folder))
    said = "head tied to the embedding: False (its weights have a head of their own: write tie_word_embeddings false "
    base, anatomy = loaded(other)
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_contract(models.add_lora(base, other, anatomy), other, anatomy, batch)
    written = json.loads((folder / "config.json").read_text())
    written["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(written))
    base, anatomy = loaded(other)
    assert torch.equal(base.lm_head.weight, -table)
    kept = dict(check_contract(models.add_lora(base, other, anatomy), other, anatomy, batch))
    assert kept["head tied to the embedding"] == "False"


@pytest.mark.slow
def test_weights_without_a_head_under_a_config_json_that_does_not_tie_it_are_told_what_to_write(
    config: TrainConfig, tmp_path: Path
) -> None:
    """As a small model's are whose config.json leaves the key out, in a type that ties nothing unless told."""
    folder = shutil.copytree(config.model, tmp_path / "model")
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "tie_word_embeddings": False}))
    with pytest.raises(ConfigError) as refused:
        loaded(replace(config, model=str(folder)))
    assert str(refused.value) == (
        f"MODEL={folder}: lacks 1 of its weights (lm_head.weight, ...): give a checkpoint that is whole and of this "
        "very type; if its head is the embedding, write tie_word_embeddings true into config.json"
    )


class Experts(nn.Module):
    """A layer of a mixture of experts: the experts are one tensor, which is no linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 4)
        self.attention = nn.Linear(4, 4, bias=False)
        self.experts = nn.Parameter(torch.zeros(3, 4, 4))


def test_experts_in_one_tensor_are_in_the_share_that_is_left_alone() -> None:
    model: Any = nn.ModuleDict({"decoder": Experts()})
    attention = model["decoder"].attention
    assert share_left_alone(model, [attention], "decoder") == 48 / 64
    assert share_left_alone(model, [], "decoder") == 1.0
