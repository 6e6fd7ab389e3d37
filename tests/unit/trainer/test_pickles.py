"""A pickle in a checkpoint could run anything: such a checkpoint is set aside by name, and nothing in it is run."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from poison import Poison, sums_anew

from trainer.model.warm_start import damaged
from trainer.node.pickles import ANYTHING, ONLY_WEIGHTS, allow_own_classes, load_only_weights, unsafe_pickle
from trainer.node.ranks import Ranks
from trainer.node.start import prepare_libraries
from trainer.results.adapter_file import PLAIN_PATTERN
from trainer.training.checkpoint import CheckpointStore

torch = pytest.importorskip("torch")


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "it ran"
    assert not (tmp_path / "it ran").exists()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ONLY_WEIGHTS, ANYTHING):
        monkeypatch.setenv(name, "0")
    allow_own_classes()


def filled(folder: Path) -> Path:
    """With what the Trainer leaves."""
    import numpy

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}}}, folder / "optimizer.pt")
    state = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.random.get_rng_state()}
    torch.save(state, folder / "rng_state_0.pth")
    return folder


def test_what_the_trainer_leaves_is_safe(tmp_path: Path) -> None:
    assert unsafe_pickle(filled(tmp_path)) == ""


@pytest.mark.parametrize("form", ["torch", "legacy", "protocol 2", "protocol 5"])
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state_0.pth", "adapter_model.bin", "global_step3/x.pt", "s.pkl"])
def test_a_poisoned_file_is_named_and_not_run(form: str, name: str, tmp_path: Path, marker: Path) -> None:
    path = filled(tmp_path / "step") / name
    path.parent.mkdir(exist_ok=True)
    content = {"state": Poison(marker)}
    if form.startswith("protocol"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    said = unsafe_pickle(tmp_path / "step")
    why = "holds posix.system, which could run anything: it was not loaded"
    # Of younger protocols torch reads too little to find the name.
    assert said == f"{name} {why if form != 'protocol 5' else 'cannot be loaded as numbers alone (UnpicklingError)'}"


def test_a_poisoned_checkpoint_whose_sums_hold_is_set_aside(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def store() -> CheckpointStore:
        return CheckpointStore(tmp_path / "run", Ranks(1), layout={}, keep=3, say=print, look=unsafe_pickle)

    first = store()
    first.take_over()
    for step in (1, 2):
        first.save(step, lambda folder: filled(folder) and None)
    torch.save({"state": Poison(marker)}, tmp_path / "run" / "step-000002" / "optimizer.pt")
    sums_anew(tmp_path / "run" / "step-000002")
    assert first.fault(first.path(2)).startswith("optimizer.pt holds posix.system")
    assert store().take_over() == 1
    said = capsys.readouterr().out
    assert (
        "step-000002 is broken (optimizer.pt holds posix.system, which could run anything: it was not loaded): set"
        in said
    )
    assert "weights_only" not in said and said.count("\n") == 1


def test_no_library_of_a_training_can_load_code(tmp_path: Path, marker: Path) -> None:
    """DeepSpeed asks for weights_only=False; a person may have allowed everything for all programs."""
    from trainer.config import TrainConfig

    os.environ[ANYTHING] = "1"
    prepare_libraries(TrainConfig(model="m", data="d", output_dir="o", run_id="r", device="cpu"))
    torch.save({"state": Poison(marker)}, tmp_path / "x.pt")
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "x.pt", weights_only=False)
    load_only_weights()
    assert (os.environ[ONLY_WEIGHTS], ANYTHING in os.environ) == ("1", False)
    said = str(damaged("the adapter in a", caught.value))
    assert said.startswith(
        "the adapter in a (its pickle holds posix.system, which could run anything: it was not loaded)"
    )


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        (r"model\.layers\.\d+\.q_proj|lm\-head", True), (r"(?!(?:a\.b\-c)$)(?:model\.\d+\.\d+\.x|y)", True),
        ("all-linear", True), ("(?:.|.)" * 40 + "ZZ", False), (r"\d+" * 40 + "Z", False), (r"\.\d+" * 40 + "Z", False),
        (".*", False), ("(a|b)", False), (r"\w", False), (r"\1", False), ("a$", False), ("a.b", False), ("", False),
        (r"(?!(?:a)$)(?:(?:a))", False), ("a\n", False),
    ],
)  # fmt: skip
def test_an_expression_for_targets_has_no_two_ways_to_match(pattern: str, plain: bool) -> None:
    assert bool(PLAIN_PATTERN.fullmatch(pattern)) == plain


@pytest.mark.slow  # imports PEFT
def test_an_adapter_is_lora_as_training_writes_it_and_nothing_more(tmp_path: Path) -> None:
    from peft import LoraConfig

    from trainer.model.anatomy import target_pattern
    from trainer.outcome import ConfigError
    from trainer.results.adapter_file import check_adapter

    paths = (r"model\.language_model\.layers\.\d+\.q_proj", r"lm\-head")
    anatomy: Any = SimpleNamespace(
        linears=paths, vision_linears=(r"tower\.x",), unused=("a.b-c",), decoder="model.language_model"
    )
    for vision in ("frozen", "lora"):
        made = LoraConfig(r=8, lora_dropout=0.05, target_modules=target_pattern(anatomy, vision), task_type="CAUSAL_LM")
        made.save_pretrained(tmp_path)
        check_adapter(tmp_path)
    for targets in ("all-linear", ["q_proj", "v_proj"]):  # as PEFT writes them
        LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(tmp_path)
        check_adapter(tmp_path)
    path = tmp_path / "adapter_config.json"
    usual = json.loads(path.read_text())
    for name, value in {
        "megatron_config": {"a": 1}, "megatron_core": "os", "modules_to_save": ["lm_head"],
        "rank_pattern": {".*": 10**9},
        "r": 10**9, "lora_alpha": [], "target_modules": "(a+)+$", "lora_dropout": "x", "peft_type": "PREFIX_TUNING",
        "use_dora": True, "init_lora_weights": "olora", "trainable_token_indices": [1], "layers_pattern": "(x*)*",
        "exclude_modules": "(x*)*", "task_type": [1], "bias": "all", "auto_mapping": {"parent_library": "os"},
        "target_parameters": ["x"], "revision": {"a": 1}, "layer_replication": [[0, 10**9]], "new": 1,
    }.items():  # fmt: skip
        path.write_text(json.dumps({**usual, name: value}))
        with pytest.raises(ConfigError, match=rf"adapter_config\.json says '?{name}'? is .*: Trainyard reads LoRA"):
            check_adapter(tmp_path)
    for text in ("[]", "{", "1", '"x"', "null", "[" * 99999):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"adapter_config\.json cannot be read"):
            check_adapter(tmp_path)
    path.write_text(json.dumps({**usual, "target_modules": [f"{number:08}" for number in range(200_000)]}))
    with pytest.raises(ConfigError, match=r"adapter_config\.json says target_modules is "):
        check_adapter(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"adapter_config\.json is no file"):
        check_adapter(tmp_path)


def test_a_models_weights_are_read_from_safetensors_alone(tiny_model: Path, tmp_path: Path, marker: Path) -> None:
    from trainer.config import TrainConfig
    from trainer.model import base as models

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    weights = next(model.glob("*.safetensors"))
    weights.unlink()
    torch.save({"x": Poison(marker)}, model / "pytorch_model.bin")
    config = TrainConfig(model=str(model), data="d", output_dir="o", run_id="r", device="cpu", quantization="none")
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    with pytest.raises(OSError, match="safetensors"):
        models.load_base(config, anatomy, dtype=torch.float32, device_map={"": "cpu"})


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_that_a_models_config_names_is_not_fetched(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """transformers would load it from the hub, or say that its package is missing."""
    from trainer.model import base as models

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    found = json.loads((model / "config.json").read_text())
    for part in (found, found["text_config"], found["vision_config"]):
        part[name] = "kernels-community/flash-attn2"
    (model / "config.json").write_text(json.dumps(found))
    config = models.load_model_config(str(model))
    assert {part._attn_implementation for part in (config, config.text_config, config.vision_config)} == {None}
    skeleton, _ = models.take_apart(str(model), config)
    assert skeleton.config._attn_implementation == "sdpa"
