"""Model shapes: exact counts, where configurations are looked for, and what is said when there is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from specs import GEMMA_4B, known_shape

from trainer.architecture.families import PARSERS
from trainer.architecture.hub import is_hub_id
from trainer.architecture.known_models import KNOWN_MODELS
from trainer.architecture.shapes import resolve_shape, shape_from_config
from trainer.outcome import ConfigError

# Totals that the hub states for the published weights (tied weights once).
PUBLISHED = {
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-4b-pt": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-12b-pt": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
    "google/gemma-3-27b-pt": 27_432_406_640,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73_410_777_344,
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 256_484_928,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 507_482_304,
    "HuggingFaceTB/SmolVLM-Instruct": 2_246_272_880,
}

# Sizes that differ from each other and from every default, so that no two can be mixed up unnoticed.
TEXT = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SIGLIP = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]}
TINY: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**TEXT, "head_dim": 16, "attention_bias": True},
        "vision_config": SIGLIP,  # with the pooling head that Gemma's own configurations leave out
        "mm_tokens_per_image": 4,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": QWEN_ROPE},
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_heads": 2,
            "out_hidden_size": 48,
        },
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": QWEN_ROPE},
        "vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 3, "hidden_size": 48},
        "tie_word_embeddings": True,
    },
    "idefics3": {"text_config": {**TEXT, "mlp_bias": True}, "vision_config": SIGLIP, "scale_factor": 2},
    "smolvlm": {"text_config": {**TEXT, "head_dim": 20}, "vision_config": SIGLIP, "scale_factor": 2},
}


@pytest.mark.parametrize("model", KNOWN_MODELS)
def test_the_built_in_table_gives_the_published_parameter_counts(model: str) -> None:
    assert known_shape(model).total_params == PUBLISHED[model]


def test_gemma_3_4b_is_read_to_its_true_sizes() -> None:
    shape = known_shape(GEMMA_4B)
    text = shape.total_params - shape.vision_params - shape.projector_params
    assert (text, shape.vision_params, shape.projector_params) == (3_880_263_168, 416_866_032, 2_950_272)
    assert (shape.layers, shape.q_width, shape.kv_width, shape.vocab) == (34, 2048, 1024, 262_208)
    assert (shape.vision_patches, shape.tokens_per_image, shape.tied_embedding) == (4096, 256, True)
    assert (shape.lora_params(64), shape.lora_params(64, "lora")) == (119_209_984, 153_991_168)


@pytest.mark.slow
@pytest.mark.parametrize("family", PARSERS)
def test_counts_and_widths_are_those_of_the_transformers_class(family: str) -> None:
    """Built without memory, saved as transformers saves, in full and without defaults, and read back."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    from trainer.model.base import anatomy_of, target_pattern

    config = transformers.AutoConfig.for_model(family, **TINY[family])
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    decoder = model.get_decoder()
    linears = [m for name, m in decoder.layers.named_modules() if name.endswith("_proj")]
    tower = getattr(
        model.model, "vision_tower", getattr(model.model, "vision_model", getattr(model.model, "visual", None))
    )
    merger = getattr(tower, "merger", None)
    aside = sum(p.numel() for p in merger.parameters()) if merger is not None else 0
    layer = [(m.in_features, m.out_features) for m in linears[:7]]
    inside = set(map(id, decoder.modules()))
    for saved in (config.to_dict(), json.loads(config.to_json_string(use_diff=True))):
        shape = shape_from_config(saved, model="tiny")
        assert shape.total_params == sum(p.numel() for p in model.parameters())
        assert shape.vision_params == sum(p.numel() for p in tower.parameters()) - aside
        assert shape.linear_params == sum(m.in_features * m.out_features for m in linears)
        assert sorted(shape.linear_shapes) == sorted(layer)
        assert shape.embedding_params == model.get_input_embeddings().weight.numel()
        pattern = target_pattern(anatomy_of(model), "lora")
        beside = [m for n, m in model.named_modules() if re.fullmatch(pattern, n) and id(m) not in inside]
        assert (shape.vision_linears, shape.vision_linears_in, shape.vision_linears_out) == (
            len(beside), sum(m.in_features for m in beside), sum(m.out_features for m in beside)
        )  # fmt: skip
        assert shape.tied_embedding == (model.lm_head.weight is model.get_input_embeddings().weight)
        if family == "gemma3":
            assert shape.tokens_per_image == config.mm_tokens_per_image


@pytest.mark.slow
@pytest.mark.parametrize("family", PARSERS)
def test_values_that_a_configuration_leaves_out_are_the_class_defaults(family: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    layers = {"text_config": {"num_hidden_layers": 1}}
    if family == "qwen2_vl":  # its own defaults of text and vision do not fit each other
        layers["vision_config"] = {"hidden_size": 8192}
    if family == "qwen2_5_vl":
        layers["vision_config"] = {"out_hidden_size": 8192}
    config = transformers.AutoConfig.for_model(family, **layers)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    shape = shape_from_config({"model_type": family, **layers}, model="bare")
    assert shape.total_params == sum(p.numel() for p in model.parameters())


def test_a_flat_qwen_configuration_reads_like_a_nested_one() -> None:
    """The hub's files keep the text values at the top level, transformers 5 nests them."""
    nested = {"model_type": "qwen2_5_vl", **TINY["qwen2_5_vl"]}
    flat = {**nested, **nested["text_config"]}
    del flat["text_config"]
    assert shape_from_config(flat, model="flat") == shape_from_config(nested, model="nested")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; nothing of the real one is seen."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


def _save(folder: Path, family: str = "gemma3") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": family, **TINY[family]}))
    return folder


def test_a_local_folder_comes_before_everything_else(tmp_path: Path, hub: Path) -> None:
    assert resolve_shape(str(_save(tmp_path / "mine"))).hidden == 48


def test_the_hub_cache_comes_before_the_built_in_table(hub: Path) -> None:
    """The revision is the one that main names, not whichever snapshot comes first."""
    repo = hub / "models--google--gemma-3-4b-it"
    _save(repo / "snapshots" / "a-stale-one", "smolvlm")
    _save(repo / "snapshots" / "f00d")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("f00d\n")
    assert (resolve_shape(GEMMA_4B).family, resolve_shape(GEMMA_4B).hidden) == ("gemma3", 48)


def test_the_cache_is_also_found_below_hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    repo = tmp_path / "hub" / "models--me--mine"
    _save(repo / "snapshots" / "f00d")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("f00d")
    assert resolve_shape("me/mine").hidden == 48


def test_a_mirror_of_a_known_model_is_known(hub: Path) -> None:
    assert resolve_shape("unsloth/gemma-3-4b-it") == known_shape(GEMMA_4B)


@pytest.mark.parametrize(
    "model", ["/no/such/gemma-3-4b-it", "../x/gemma-3-4b-it", "./gemma-3-4b-it", "no such/gemma-3-4b-it", "a/b--c"]
)
def test_what_is_no_folder_and_no_hub_id_is_not_known_by_its_name(hub: Path, model: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve_shape(model)
    assert str(refusal.value) == (
        f"MODEL={model}: no folder here and no hub id: give a folder, or owner/name as in google/gemma-3-4b-it"
    )


def test_a_path_that_lies_elsewhere_is_known_by_its_name(hub: Path) -> None:
    assert resolve_shape("/sets/models/gemma-3-4b-it/", elsewhere=True) == known_shape(GEMMA_4B)


def test_hub_ids_are_what_the_hub_takes() -> None:
    validators = pytest.importorskip("huggingface_hub.utils")
    names = ["a/b", "b", "A-1_x.y/B.2", "a/b.git", "a--b", "a/b..c", "-a/b", "a/-b", "a/b.", "a b/c", "a/b/c"]
    for name in [*names, "/a", "a/", "café/x", "", ".", "..", "a" * 96, "a" * 97, f"{'o' * 97}/a"]:
        try:
            validators.validate_repo_id(name)
        except validators.HFValidationError:
            assert not is_hub_id(name), name
        else:
            assert is_hub_id(name), name


def test_an_unknown_model_is_refused_with_the_nearest_and_the_way_out(hub: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve_shape("google/gemma-3-4b-itt")
    message = str(refusal.value)
    assert "MODEL=google/gemma-3-4b-itt: not a folder, not in the Hugging Face cache, not built in" in message
    assert "did you mean google/gemma-3-4b-it?" in message
    assert message.endswith("download its config.json and pass the folder")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds list, not a JSON object"),
        ('{"model_type": "llava"}', "model_type 'llava'; known families: gemma3, qwen2_5_vl, qwen2_vl, idefics3"),
        ("{}", "model_type None"),
        ('{"model_type": "gemma3", "text_config": 3}', "not a gemma3 configuration"),
        ('{"model_type": "gemma3", "text_config": {"hidden_size": "wide"}}', "not a gemma3 configuration"),
        ('{"model_type": "gemma3", "text_config": {"num_hidden_layers": 0}}', "not a gemma3 configuration"),
        ('{"model_type": "gemma3", "vision_config": {"num_hidden_layers": 0}}', "vision_layers comes to 0, no whole"),
        ('{"model_type": "qwen2_vl", "vision_config": {"embed_dim": -1}}', "not a qwen2_vl configuration"),
        ('{"model_type": "smolvlm", "vision_config": {"image_size": 8}}', "vision_patches comes to 0, no whole"),
        ('{"model_type": "smolvlm", "scale_factor": 0}', "not a smolvlm configuration"),
    ],
)
def test_a_config_json_that_says_nothing_useful_is_refused_in_one_line(
    tmp_path: Path, hub: Path, text: str, said: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        resolve_shape(str(tmp_path))
    assert said in str(refusal.value)
    assert str(refusal.value).startswith(f"MODEL={tmp_path}: ") and "\n" not in str(refusal.value)


def test_a_folder_without_config_json_is_refused(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(ConfigError, match=r"the folder has no config\.json"):
        resolve_shape(str(tmp_path))


def test_planning_imports_neither_torch_nor_anything_else_that_is_heavy() -> None:
    code = (
        "import sys, planner.choose, planner.table\n"
        "import trainer.architecture.shapes, planner.memory.estimate\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'huggingface_hub', 'numpy', 'yaml', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
