"""Every setting, off its default, is seen where it acts: here, or by the test that is named for it below. A setting
that stands in no table fails."""

from __future__ import annotations

import ast
import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from off_default import off_default
from PIL import Image

from trainer.config import SETTINGS, ZERO3_SETTINGS, TrainConfig
from trainer.outcome import ConfigError

CONFIG = TrainConfig(model="m", data="d", output_dir="o", run_id="r", device="cpu")

# Of TRL's configuration (and of transformers', which it extends), by the setting that each is.
TOLD = {
    "output_dir": "output_dir", "per_device_train_batch_size": "micro_batch_size",
    "per_device_eval_batch_size": "micro_batch_size", "gradient_accumulation_steps": "gradient_accumulation_steps",
    "max_steps": "max_steps", "optim": "optimizer", "learning_rate": "learning_rate", "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm", "seed": "seed", "data_seed": "seed", "logging_steps": "logging_steps",
    "eval_steps": "eval_steps", "save_steps": "save_steps", "ddp_timeout": "collective_timeout_s",
}  # fmt: skip
# What no setting changes: pictures reach the model, its tower is not checkpointed, no record is cut or packed.
FIXED = {
    "remove_unused_columns": False, "gradient_checkpointing": False, "max_length": None,
    "dataset_kwargs": {"skip_prepare_dataset": True}, "packing": False, "ddp_find_unused_parameters": False,
    "logging_first_step": True, "router_aux_loss_coef": 0.0,
}  # fmt: skip
# Of PEFT's configuration.
ADAPTER = {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
# The tests below that have the setting in their name.
NAMED = (
    "vision", "quantization", "activation_checkpointing", "device", "world_size", "data", "image_root", "learn",
    "text_only", "columns", "session_key", "eval_fraction", "answer_field", "actions", "eval_samples", "score_samples",
    "max_length", "strict", "max_image_megapixels", "lora_targets",
)  # fmt: skip
# What only a run shows.
ELSEWHERE = {
    "model": ("test_families", "test_it_trains_in_4_bits_and_its_adapter_loads_with_plain_peft"),
    "run_id": ("test_train", "test_wandb_keeps_one_offline_run_under_the_run_id"),
    "warmup_fraction": ("test_parity", "test_losses_gradients_and_adapter_follow_stock_trl"),
    "group_lengths": ("test_order", "test_group_lengths_shows_each_epoch_in_its_order_by_the_tokens_of_each_record"),
    "init_adapter": ("test_warm_start", "test_it_goes_on_from_the_weights_and_still_scores_the_bare_base_first"),
    "early_stopping_patience": (
        "test_resume", "test_patience_runs_out_at_the_same_step_whatever_is_in_between",
    ),
    "keep_checkpoints": ("test_resume", "test_the_best_evaluated_adapter_is_kept_and_scored"),
    "feature_store": ("test_features", "test_the_store_is_the_named_folder_or_one_that_all_runs_share"),
    "features_ahead": ("test_features_ahead", "test_what_a_run_finds_missing_it_makes_and_what_it_may_not_use_it_says"),
    "feature_cache_gib": ("test_features", "test_it_is_left_alone_where_features_change_or_are_not_all"),
}  # fmt: skip


def test_every_setting_is_seen_to_act_somewhere() -> None:
    seen = {*TOLD.values(), *ADAPTER.values(), *NAMED, *ELSEWHERE}
    assert [name for name in SETTINGS if name not in seen] == [], "a test must see where it acts, off its default"
    assert seen <= set(SETTINGS)
    tests = [name for name in globals() if name.startswith("test_")]
    assert [name for name in NAMED if not any(f"_{name}_" in f"{test}_" for test in tests)] == []


@pytest.mark.parametrize("setting", ELSEWHERE)
def test_the_test_that_sees_it_is_there(setting: str) -> None:
    module, test = ELSEWHERE[setting]
    (path,) = Path(__file__).resolve().parent.parent.rglob(f"{module}.py")
    text = path.read_text(encoding="utf-8")
    assert test in [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert setting in text


@pytest.mark.slow  # imports TRL
def test_the_trainer_is_told_each_setting_under_its_own_name() -> None:
    from trainer.training.arguments import sft_arguments

    changed = replace(CONFIG, **{name: off_default(name) for name in TOLD.values()})
    told = sft_arguments(changed, evaluated=True)
    assert {name: getattr(told, name) for name in TOLD} == {
        name: getattr(changed, setting) for name, setting in TOLD.items()
    }
    assert {name: getattr(told, name) for name in FIXED} == FIXED
    assert sft_arguments(CONFIG, evaluated=True).optim == "adamw_torch_fused"
    assert [str(sft_arguments(CONFIG, evaluated=some).eval_strategy.value) for some in (True, False)] == ["steps", "no"]


@pytest.mark.slow
@pytest.mark.parametrize(("said", "bf16"), [("bf16", True), ("no", False), (None, False)])
def test_the_launchers_precision_is_the_trainers(said: str | None, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.training.arguments import sft_arguments

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if said:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", said)
    assert sft_arguments(CONFIG, evaluated=False).bf16 == bf16


@pytest.mark.slow
def test_what_zero_3_is_told_beside_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.training import arguments

    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 3}})
    monkeypatch.setattr(arguments, "SFTConfig", lambda **_: SimpleNamespace(deepspeed_plugin=plugin))
    arguments.sft_arguments(CONFIG, evaluated=True)
    assert plugin.deepspeed_config == {
        "zero_optimization": {"stage": 3, **ZERO3_SETTINGS}, "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_device_decides_where_the_trainer_computes_and_who_decodes_pictures(device: Any) -> None:
    from trainer.training.arguments import sft_arguments

    told = sft_arguments(replace(CONFIG, device=device), evaluated=False)
    found = (told.use_cpu, told.dataloader_num_workers, told.dataloader_persistent_workers, told.dataloader_pin_memory)
    assert found == ((True, 0, False, False) if device == "cpu" else (False, 4, True, True))


def test_device_and_world_size_must_be_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from trainer.node.start import check_machine

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_machine(CONFIG, SimpleNamespace(num_processes=1))
    check_machine(replace(CONFIG, world_size=3), SimpleNamespace(num_processes=3))
    for changes in ({"device": "cuda"}, {"world_size": 2}):
        with pytest.raises(ConfigError):
            check_machine(replace(CONFIG, **changes), SimpleNamespace(num_processes=1))


def adapted(model: Path, **changes: Any) -> Any:
    """The PeftModel that is trained."""
    import torch

    from trainer.model import base as models

    config = replace(CONFIG, model=str(model), **changes)
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    base = models.load_base(config, anatomy, dtype=torch.float32, device_map={"": "cpu"})
    return models.add_lora(base, config, anatomy)


def test_the_adapter_has_rank_alpha_and_dropout_as_they_were_set_and_vision_its_towers_linears(
    tiny_model: Path,
) -> None:
    values = {name: off_default(name) for name in ADAPTER.values()}
    adapters = {
        vision: adapted(tiny_model, quantization="none", vision=vision, **values) for vision in ("frozen", "lora")
    }
    for vision, model in adapters.items():
        lora = model.peft_config["default"]
        assert {setting: getattr(lora, name) for name, setting in ADAPTER.items()} == values
        layers = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
        assert layers and any("vision_tower" in name for name in layers) == (vision == "lora")
        tuned = model.get_submodule(layers[-1])
        assert tuned.scaling["default"] == values["lora_alpha"] / values["lora_r"]
        assert tuned.lora_dropout["default"].p == values["lora_dropout"]
        assert tuned.lora_A["default"].out_features == values["lora_r"]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("v_proj,mlp", {"v_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_lora_targets_are_of_the_language_model_alone(targets: str, names: set[str], tiny_model: Path) -> None:
    model = adapted(tiny_model, quantization="none", lora_targets=targets)
    layers = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert {name.rpartition(".")[2] for name in layers} == names
    assert all(".language_model." in name for name in layers)


def test_quantization_is_nf4_twice_over_in_the_language_model_alone(tiny_model: Path) -> None:
    import bitsandbytes
    import torch

    found = {}
    for quantization in ("nf4", "none"):
        model = adapted(tiny_model, quantization=quantization)
        linears = {n: m for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
        assert all(".language_model." in name for name in linears)
        states = [module.weight.quant_state for module in linears.values()]
        found[quantization] = {
            (state.quant_type, state.nested, state.dtype, str(linear.weight.dtype), linear.compute_dtype)
            for state, linear in zip(states, linears.values(), strict=True)
        }
    # Twice: the constants of the 4-bit blocks are quantized too.
    assert found == {"nf4": {("nf4", True, torch.float32, "torch.uint8", torch.float32)}, "none": set()}


def test_quantization_is_packed_into_the_compute_dtype_where_zero3_shards_it(tiny_model: Path) -> None:
    """ZeRO-3 leaves uint8 alone: the plan counts on a base that is sharded too."""
    import torch

    from trainer.model import base as models

    config = replace(CONFIG, model=str(tiny_model))
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    base = models.load_base(config, anatomy, dtype=torch.bfloat16, device_map=None)
    assert base.config.quantization_config.bnb_4bit_quant_storage == torch.bfloat16
    linear = base.get_submodule(f"{anatomy.decoder}.layers.0.mlp.up_proj")
    assert (type(linear).__name__, linear.weight.dtype) == ("Linear4bit", torch.bfloat16)


@pytest.mark.parametrize("vision", ["frozen", "lora"])
def test_activation_checkpointing_is_on_what_is_trained_alone(tiny_model: Path, vision: Any) -> None:
    for asked in (False, True):
        model = adapted(tiny_model, quantization="none", vision=vision, activation_checkpointing=asked)
        on = {name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)}
        assert any("language_model" in name for name in on) == asked
        assert any("vision_tower" in name for name in on) == (asked and vision == "lora")


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Ten sessions of two answers, whose pictures lie in another folder."""
    (tmp_path / "pictures").mkdir()
    lines = []
    for number in range(10):
        Image.new("RGB", (56, 56), (number * 20, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
        turns = []
        for asked, answer in (("<image>now?", f"go {number}"), ("and then?", '{"a": "up", "b": "left"}')):
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns, "images": [f"{number}.png"], "session": f"s{number}"}))
    (tmp_path / "talks.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_data_image_root_learn_eval_fraction_and_seed_decide_the_records(talks: Path) -> None:
    from trainer.data.records import dataset_of

    config = replace(CONFIG, data=str(talks / "talks.jsonl"))
    with pytest.raises(ConfigError, match=r"0\.png"):
        dataset_of(config)
    config = replace(config, image_root=str(talks / "pictures"))
    usual = dataset_of(config)
    assert (len(usual.train), len(usual.eval)) == (9, 1)
    assert {len(record.answers) for record in usual.train} == {2}
    half = dataset_of(replace(config, eval_fraction=0.5))
    assert (len(half.train), len(half.eval)) == (5, 5)
    sides = {tuple(r.session for r in dataset_of(replace(config, eval_fraction=0.5, seed=n)).eval) for n in range(4)}
    assert len(sides) > 1
    assert {len(record.answers) for record in dataset_of(replace(config, learn="last")).train} == {1}


def test_max_image_megapixels_is_the_largest_picture_that_is_decoded(talks: Path, monkeypatch: Any) -> None:
    from trainer.data.bounds import BOUNDS
    from trainer.data.grid import load_image
    from trainer.data.records import dataset_of

    monkeypatch.setattr(BOUNDS, "megapixels", BOUNDS.megapixels)
    large = str(talks / "large.png")
    Image.new("L", (1500, 1000)).save(large)
    config = replace(CONFIG, data=str(talks / "talks.jsonl"), image_root=str(talks / "pictures"))
    dataset_of(config)
    assert load_image(large).size == (1500, 1000)
    dataset_of(replace(config, max_image_megapixels=1))
    with pytest.raises(OSError, match=r"more than the 1 million that are read: .* or max_image_megapixels: 2$"):
        load_image(large)


def test_max_image_megapixels_holds_in_loaders_and_where_a_run_is_asked(tmp_path: Path, monkeypatch: Any) -> None:
    from trainer.data.bounds import BOUNDS, OPTION
    from trainer.data.examples import Encoder
    from trainer.results.trained import Usage, find_trained, write_usage

    usual = OPTION.default
    monkeypatch.setattr(BOUNDS, "megapixels", 200)
    there = pickle.dumps(Encoder(None, []).collate)
    usage = Usage(
        device="cpu", quantization="none", answer_field=None, choices=None, answer_tokens=4, frames=1, context="",
        question="?", max_image_megapixels=200,
    )  # fmt: skip
    write_usage(tmp_path / "adapter", usage)
    for read in (lambda: pickle.loads(there), lambda: find_trained(tmp_path)):
        BOUNDS.megapixels = usual
        read()
        assert BOUNDS.megapixels == 200
    path = tmp_path / "adapter/trainyard.json"
    path.write_text(path.read_text().replace("200", "10000000"))
    with pytest.raises(ConfigError, match=r"is not what training wrote \(max_image_megapixels takes .* 1 to 1000"):
        find_trained(tmp_path)


def test_text_only_is_refused_with_pictures_and_wanted_without(talks: Path) -> None:
    from trainer.data.records import dataset_of

    config = replace(CONFIG, data=str(talks / "talks.jsonl"), image_root=str(talks / "pictures"))
    with pytest.raises(ConfigError, match=r"^text_only: 10 records of "):
        dataset_of(replace(config, text_only=True))
    (talks / "words.jsonl").write_text('{"image": null, "context": "", "question": "now?", "output": "up"}\n' * 3)
    plain = replace(config, data=str(talks / "words.jsonl"), image_root=None)
    with pytest.raises(ConfigError, match="none of 3 records has a picture"):
        dataset_of(plain)
    assert len(dataset_of(replace(plain, text_only=True, eval_fraction=0)).train) == 3


def test_columns_and_session_key_name_the_keys_of_the_records(tmp_path: Path) -> None:
    from trainer.data.records import dataset_of

    rows = [{"ask": f"q{n}", "label": "up", "walk": f"w{n // 5}"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(CONFIG, data=str(tmp_path / "rows.jsonl"), text_only=True, columns="question=ask,answer=label")
    found = dataset_of(config)
    assert {(r.prompt, r.answer) for r in (*found.train, *found.eval)} == {(row["ask"], "up") for row in rows}
    assert len(found.eval) == 2  # each record is a session
    assert dataset_of(replace(config, session_key="walk")).split == "1 of 4 sessions held out"
    with pytest.raises(ConfigError):
        dataset_of(replace(config, columns="auto"))


def test_answer_field_actions_eval_samples_and_score_samples_decide_what_is_measured(tiny_model: Path) -> None:
    from trainer.data.records import Dataset, Record
    from trainer.data.turns import Turn
    from trainer.evaluation.heldout import build_heldout
    from trainer.model.base import load_processor

    processor = load_processor(str(tiny_model))
    answers = [f'{{"a": "{a}", "b": "{b}"}}' for a, b in (("up", "x"), ("down", "x"), ("left", "y"))] * 2
    turn = Turn(role="user", parts=("which?",))
    records = tuple(Record(turns=(turn,), answer=answer, session="") for answer in answers)
    data = Dataset(train=records, eval=records, split="")

    def held_out(**changes: Any) -> tuple[object, ...]:
        found = build_heldout(processor, data, replace(CONFIG, **changes), lambda line: None)
        actions = tuple(dict.fromkeys(found.choices.actions)) if found.choices else None
        return found.field, actions, len(found.records), len(found.answered)

    assert held_out() == ("a", ("down", "left", "up"), 6, 6)
    assert held_out(answer_field="b")[0] == "b"
    assert held_out(actions="up,down,back") == ("a", ("up", "down", "back"), 6, 6)
    assert held_out(eval_samples=2) == ("a", ("down", "left", "up"), 6, 2)
    assert held_out(score_samples=4) == ("a", ("down", "left", "up"), 4, 4)


def test_max_length_and_strict_decide_which_records_stay(talks: Path, tiny_model: Path) -> None:
    from trainer.data.records import load_dataset
    from trainer.model.base import load_processor
    from trainer.node.ranks import Ranks
    from trainer.training.first_checks import drop_unfit

    processor = load_processor(str(tiny_model))
    entry = {"image": "0.png", "context": "", "output": "up"}
    asked = ["now?"] * 3 + ["now? " * 300]
    lines = [json.dumps({**entry, "question": f"{n} {text}"}) for n, text in enumerate(asked)]
    (talks / "long.jsonl").write_text("\n".join(lines))
    data = load_dataset(str(talks / "long.jsonl"), eval_fraction=0, image_root=str(talks / "pictures"))

    def kept(**changes: Any) -> int:
        return len(drop_unfit(processor, data, replace(CONFIG, **changes), Ranks(1), lambda line: None)[0].train)

    assert (kept(max_length=4000), kept(max_length=500), kept(max_length=4000, strict=True)) == (4, 3, 4)
    with pytest.raises(ConfigError, match=r"longer than max_length \(500 tokens"):
        kept(max_length=500, strict=True)
