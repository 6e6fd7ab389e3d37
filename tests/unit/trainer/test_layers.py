"""A model's linears and what each choice of LoRA would train, against published counts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from specs import known_shape

from trainer.__main__ import main

NOBODY = "http://127.0.0.1:9"  # an address where nobody listens
TEXT = "model.language_model"


def listed(capsys: pytest.CaptureFixture[str], model: str) -> dict[str, Any]:
    assert main(["layers", "--model", model, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_gemma_3_4b_has_these_linears_and_trains_only_the_text_ones(capsys: pytest.CaptureFixture[str]) -> None:
    report = listed(capsys, "google/gemma-3-4b-it")
    groups = [(g["part"], g["name"], g["inputs"], g["outputs"], g["count"], g["trained"]) for g in report["groups"]]
    tower = "model.vision_tower"
    assert sorted(groups) == sorted([
        *((tower, name, 1152, 1152, 27, "with vision=lora") for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
        (tower, "fc1", 1152, 4304, 27, "with vision=lora"), (tower, "fc2", 4304, 1152, 27, "with vision=lora"),
        (TEXT, "q_proj", 2560, 2048, 34, "always"), (TEXT, "k_proj", 2560, 1024, 34, "always"),
        (TEXT, "v_proj", 2560, 1024, 34, "always"), (TEXT, "o_proj", 2048, 2560, 34, "always"),
        (TEXT, "gate_proj", 2560, 10240, 34, "always"), (TEXT, "up_proj", 2560, 10240, 34, "always"),
        (TEXT, "down_proj", 10240, 2560, 34, "always"), ("lm_head", "lm_head", 2560, 262208, 1, "-"),
    ])  # fmt: skip
    # Counted by PEFT for r=64: text only, its attention, the tower too, the tutorials' list of names, all-linear.
    trained = [choice["trained"]["r=64"] for choice in report["choices"]]
    assert trained == [119209984, 35651584, 153991168, 131153920, 153991168]


def test_another_family_is_read_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    model = "Qwen/Qwen2.5-VL-3B-Instruct"
    first = listed(capsys, model)["choices"][0]
    assert first["layers"] == 7 * sum(layer.count for layer in known_shape(model).layers)
    assert first["trained"]["medium"] == known_shape(model).lora_params(64)


def test_the_table_says_what_is_trained(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--model", str(tiny_model), "--lora_r", "8"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [TEXT, "down_proj", "256", "x", "128", "2", "65,536", "6,144", "always"] in lines
    assert ["model.vision_tower", "fc1", "128", "x", "256", "1", "32,768", "3,072", "with", "vision=lora"] in lines


def test_a_model_that_is_not_there_is_one_line_and_78(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The variable HF_HUB_OFFLINE is read once, when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    for model in (f"{tmp_path}/none", "demo/mdel", "./mdel"):
        assert main(["layers", "--model", model]) == 78
        said = capsys.readouterr().err.splitlines()
        assert said[-1] == f"trainyard: --model={model}: is not there: give a model folder, or a hub id"
    assert main(["layers", "--model", "some/model"]) == 78
    assert "--model=some/model: is not in the hub cache (" in capsys.readouterr().err


def test_a_hub_out_of_reach_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # HF_ENDPOINT, too, is read when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", NOBODY + "/{repo_id}/{filename}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOBODY)
    began = time.monotonic()
    assert main(["layers", "--model", "some/model"]) == 1
    assert time.monotonic() - began < 10  # left to itself, the hub's client takes more than 20 s
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f": {NOBODY} cannot be reached (" in said
    assert said.endswith("with the same HF_HOME: hf download some/model\n")


def test_the_token_in_the_env_file_is_the_libraries_too(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {n: v for n, v in os.environ.items() if n != "HF_TOKEN"})
    (tmp_path / ".env").write_text("HUGGINGFACE_TOKEN=hf_y\n")
    monkeypatch.chdir(tmp_path)
    assert main(["layers", "--model", str(tiny_model)]) == 0
    assert os.environ["HF_TOKEN"] == "hf_y"
