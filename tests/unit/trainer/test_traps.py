"""What goes wrong in QLoRA for Gemma 3 without raising anything: each trap, and that we are out of it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.config import TrainConfig
from trainer.data.examples import Encoder
from trainer.data.records import load_dataset
from trainer.model import base as models
from trainer.model.anatomy import Anatomy
from trainer.model.contract import check_contract
from trainer.model.head import install_supervised_head, supervised_loss
from trainer.node.start import check_machine, prepare_libraries
from trainer.outcome import ConfigError


def make_config(model: Path, **changes: Any) -> TrainConfig:
    values = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "device": "cpu", **changes}
    return TrainConfig(model=str(model), data="-", output_dir="-", run_id="-", **values)


def load(config: TrainConfig, *, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Any, Anatomy]:
    from transformers import AutoConfig

    anatomy = models.find_anatomy(AutoConfig.from_pretrained(config.model))
    base = models.load_base(config, dataclasses.replace(anatomy, **changes), dtype=dtype, device_map={"": "cpu"})
    torch.manual_seed(0)
    return models.add_lora(base, config, anatomy), anatomy


@pytest.fixture(scope="module")
def batch(tiny_model: Path, walks: Path) -> dict[str, torch.Tensor]:
    processor = models.load_processor(str(tiny_model))
    return Encoder(processor, load_dataset(str(walks)).train).collate([{"index": i} for i in range(4)])


def forward(peft_model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "loss_positions", "loss_targets")}
    return peft_model(**inputs).logits


def test_the_anatomy_is_read_off_the_architecture(tiny_model: Path) -> None:
    _, anatomy = load(make_config(tiny_model))
    assert anatomy == Anatomy(
        decoder="model.language_model",
        unquantized=("model.vision_tower", "model.multi_modal_projector", "lm_head"),
        gates=(),
        linears=tuple(
            rf"model\.language_model\.layers\.\d+\.{name}_proj"
            for name in (
                "self_attn\\.q",
                "self_attn\\.k",
                "self_attn\\.v",
                "self_attn\\.o",
                "mlp\\.gate",
                "mlp\\.up",
                "mlp\\.down",
            )
        ),
        vision_linears=tuple(
            rf"model\.vision_tower\.encoder\.layers\.\d+\.{name}"
            for name in (
                "self_attn\\.k_proj",
                "self_attn\\.v_proj",
                "self_attn\\.q_proj",
                "self_attn\\.out_proj",
                "mlp\\.fc1",
                "mlp\\.fc2",
            )
        ),
    )


@pytest.mark.slow
def test_a_loaded_model_keeps_the_contract(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    config = make_config(tiny_model)
    peft_model, anatomy = load(config)
    text = peft_model.config.get_text_config()
    q, kv = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    shapes = [(text.hidden_size, q), (text.hidden_size, kv), (text.hidden_size, kv), (q, text.hidden_size)]
    shapes += [(text.hidden_size, text.intermediate_size)] * 3
    trained = text.num_hidden_layers * sum(8 * (i + o) for i, o in shapes)
    norms = sum(p.numel() for n, p in peft_model.named_parameters() if "language_model" in n and "norm" in n)
    left = norms / (norms + text.num_hidden_layers * sum(i * o for i, o in shapes))
    with torch.no_grad():
        whole = peft_model(**{k: v for k, v in batch.items() if not k.startswith("loss_")}).loss
    assert check_contract(peft_model, config, anatomy, batch) == [
        ("trainable parameters", f"{trained:,}"),
        ("trained outside the language model", "0"),
        ("adapter precision", "float32"),
        ("4-bit linears in the language model", str(7 * text.num_hidden_layers)),
        ("4-bit linears elsewhere", "0"),
        ("neither in 4 bits nor adapted", f"{left:.1%} of the language model"),
        ("head tied to the embedding", "True"),
        ("attention", "sdpa"),
        ("token types", "present"),
        ("vision features", "without gradient"),
        ("loss of our head", f"{whole:.4f}"),
        ("adapters without a gradient", "0"),
        ("another picture", "another loss"),
        ("later words of an answer", "move no earlier loss"),
        ("the end of an answer", "learned"),
    ]


@pytest.mark.slow
def test_a_head_that_is_not_the_models_own_steps_back(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    """Some families scale their logits in code, which no configuration tells: then the model's own logits are learned
    from."""
    config = make_config(tiny_model)
    peft_model, anatomy = load(config)
    base = peft_model.get_base_model()
    original = base.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        outputs.logits = outputs.logits / 2
        return outputs

    base.forward = functools.wraps(type(base).forward)(scaled)
    with torch.no_grad():
        logits = scaled(**{k: v for k, v in batch.items() if not k.startswith(("loss_", "labels"))}).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[batch["loss_positions"]], batch["loss_targets"])
    said = dict(check_contract(peft_model, config, anatomy, batch))["loss of our head"]
    assert re.fullmatch(rf"{theirs:.4f} by the model's own, which takes more memory \(by ours: \d+\.\d+\)", said)
    given = {k: v for k, v in batch.items() if k != "labels"}
    assert supervised_loss(base, **given)["loss_sum"].item() / len(batch["loss_targets"]) == pytest.approx(
        theirs.item()
    )


@pytest.mark.slow
def test_trap_1_a_skip_list_that_matches_nothing_is_noticed(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    config = make_config(tiny_model)
    peft_model, anatomy = load(config, unquantized=("vision_tower", "multi_modal_projector", "lm_head"))
    with pytest.raises(ConfigError, match=r"4-bit linears elsewhere: \d+, not 0"):
        check_contract(peft_model, config, anatomy, batch)


@pytest.mark.slow
def test_trap_2_the_frozen_tower_gets_no_gradient_with_checkpointing(
    tiny_model: Path, batch: dict[str, torch.Tensor]
) -> None:
    peft_model, _ = load(make_config(tiny_model, activation_checkpointing=True))
    seen = []
    base = peft_model.get_base_model()
    base.model.multi_modal_projector.register_forward_hook(lambda *args: seen.append(args[2].requires_grad))
    base.model.vision_tower.register_forward_hook(lambda *args: seen.append(args[2][0].requires_grad))
    peft_model.train()
    forward(peft_model, batch).sum().backward()
    # Once each: not recomputed in the backward pass either.
    assert seen == [False, False]
    assert all(layer.gradient_checkpointing for layer in base.model.language_model.layers)


@pytest.mark.slow
def test_trap_3_token_types_are_in_the_batch_and_missing_ones_are_refused(
    tiny_model: Path, batch: dict[str, torch.Tensor]
) -> None:
    config = make_config(tiny_model)
    peft_model, anatomy = load(config)
    base = peft_model.get_base_model().eval()
    bare = {k: v for k, v in batch.items() if k != "token_type_ids"}
    with pytest.raises(ConfigError, match=r"not what it should be: token types: no token_type_ids, not present$"):
        check_contract(peft_model, config, anatomy, bare)
    with torch.no_grad():
        assert not torch.allclose(forward(peft_model, batch), forward(peft_model, bare), atol=1e-3)
    image = base.config.image_token_id
    assert torch.equal(batch["token_type_ids"] == 1, batch["input_ids"] == image)


@pytest.mark.slow
def test_trap_4_sdpa_gives_the_logits_of_eager(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    config = make_config(tiny_model)
    peft_model, anatomy = load(config)
    peft_model.eval()
    with torch.no_grad():
        fast = forward(peft_model, batch)
        peft_model.get_base_model().set_attn_implementation("eager")
        slow = forward(peft_model, batch)
    real = batch["attention_mask"].bool()
    assert torch.allclose(fast[real], slow[real], atol=1e-4)
    with pytest.raises(ConfigError, match="attention: eager, not sdpa"):
        check_contract(peft_model, config, anatomy, batch)


def test_trap_5_nothing_is_upcast_but_the_adapters(tiny_model: Path) -> None:
    peft_model, _ = load(make_config(tiny_model), dtype=torch.bfloat16)
    found = {(p.requires_grad, str(p.dtype)) for p in peft_model.parameters()}
    assert found == {(True, "torch.float32"), (False, "torch.bfloat16"), (False, "torch.uint8")}


def test_trap_6_fewer_processes_than_planned_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"^1 process\(es\) started where 2 were planned: start through"):
        check_machine(make_config(tiny_model, world_size=2), SimpleNamespace(num_processes=1))


@pytest.mark.slow
def test_trap_7_a_score_before_training_leaves_the_gradients_right(
    tiny_model: Path, batch: dict[str, torch.Tensor]
) -> None:
    """bitsandbytes repacks NF4 weights at the first eval-mode forward on AVX512-BF16 CPUs, for good."""

    def gradients(score_first: bool) -> list[torch.Tensor]:
        peft_model, _ = load(make_config(tiny_model))
        if score_first:
            peft_model.eval()
            with torch.no_grad():
                forward(peft_model, batch)
        peft_model.train()
        forward(peft_model, batch).float().logsumexp(-1).sum().backward()
        return [p.grad for p in peft_model.parameters() if p.requires_grad]

    for plain, scored in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, scored)


def test_trap_13_the_toy_base_is_not_blind(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    """Gemma 3's projection starts at zero: built from a configuration it says the same whatever the picture."""
    peft_model, _ = load(make_config(tiny_model))
    peft_model.eval()
    with torch.no_grad():
        other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
        assert not torch.allclose(forward(peft_model, batch), forward(peft_model, other), atol=1e-2)


def test_trap_15_a_batch_is_plain_tensors(batch: dict[str, torch.Tensor]) -> None:
    """Anything else passes on the CPU and breaks where memory is pinned for a GPU."""
    assert {type(value) for value in batch.values()} == {torch.Tensor}


def test_trap_20_no_telemetry_and_no_card_without_bf16(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda is a stand-in: there is no GPU here."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    config = make_config(tiny_model, device="cuda")
    prepare_libraries(config)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ConfigError, match=r"^Tesla T4 \(compute capability 7.5\) has no bf16: use a GPU of 8.0"):
        check_machine(config, SimpleNamespace(num_processes=1))


@pytest.mark.slow
def test_the_head_scores_answers_only_and_equals_the_full_head(
    tiny_model: Path, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_model)
    peft_model, _ = load(config)
    logits = forward(peft_model, batch).float()
    shifted = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    (shifted / 7).backward()  # not 1: what a step divides by must come through
    full = {name: p.grad.clone() for name, p in peft_model.named_parameters() if p.requires_grad}
    peft_model.zero_grad()

    monkeypatch.setattr("trainer.model.head.chunk_of", lambda _: 7)  # several chunks, the last one short
    base = peft_model.get_base_model()
    install_supervised_head(base)
    rows: list[int] = []
    base.lm_head.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[0]))
    outputs = peft_model(**{k: v for k, v in batch.items() if k != "labels"})
    (outputs["loss_sum"] / 7).backward()
    scored = int((batch["labels"] != -100).sum())
    assert sum(rows) == scored
    assert max(rows) <= 7
    assert outputs["loss_sum"].item() == pytest.approx(shifted.item(), rel=1e-5)
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, full[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize(
    "lost", ["layers.1.self_attn.q_proj.weight", "multi_modal_projector.mm_input_projection_weight", "lm_head.weight"]
)
def test_a_checkpoint_that_lacks_a_weight_is_refused(lost: str, tiny_model: Path, tmp_path: Path) -> None:
    """transformers draws it at random, and training would go on with that. A head of its own is lost where the model
    inside was saved."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = lost != "lm_head.weight"
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    if lost != "lm_head.weight":  # which is tied where it is saved, and so it is not there
        del weights[next(name for name in sorted(weights) if name.endswith(lost))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for quantization in ("none", "nf4"):
        with pytest.raises(ConfigError, match=rf"lacks 1 of its weights \([\w.]*{re.escape(lost)}, \.\.\.\)"):
            load(make_config(folder, quantization=quantization))
