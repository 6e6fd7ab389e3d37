"""Shapes: shipped ones against published counts, where a shape is looked for, and what is said when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_family import taken_the_whole_way
from specs import GEMMA_4B, known_shape, make_spec, write_measured
from training import run_forked

from planner.choose import choose
from trainer.architecture import shapes
from trainer.architecture.hub import is_hub_id
from trainer.architecture.shape import ModelShape
from trainer.architecture.shape_file import SHAPE_FILE, digest, file_name, kept_shape, plain, text_of, user_folder
from trainer.architecture.shapes import SHIPPED, Unmeasured, resolve_shape, shipped_models
from trainer.outcome import ConfigError
from trainer.text import plain_or_shown
from trainer.tools import shape as shape_command

CONFIG = {"model_type": "gemma3", "text_config": {"hidden_size": 48}}
FILES = sorted(path for path in SHIPPED.glob("*.json") if path.name != "index.json")
TOLERANCE = 0.005


def published(record: dict[str, Any]) -> float:
    """The count that was published: to the digit, or as ~8.7 B."""
    given = str(record["parameters"])
    return float(given.strip("~ B")) * (1e9 if given.startswith("~") else 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_shape_has_the_published_number_of_parameters(path: Path) -> None:
    """Exact where the count was published to the digit and the values were read."""
    record = json.loads(path.read_text())
    shape = kept_shape(record, None)
    assert shape
    counted = shape.total_params + record.get("unloaded", 0)
    assert abs(counted / published(record) - 1) < TOLERANCE
    if record["sure"] == "confirmed" or shape.family in ("gemma3", "qwen2_5_vl", "qwen3_vl", "qwen3_5"):
        assert counted == published(record)


def test_at_least_55_hub_ids_are_planned_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    answered, refused = [], {}
    for model in shipped_models():
        try:
            plan = choose(make_spec(model, vram_gib=180, mem_gib=64))
            assert plan.spec.shape == resolve_shape(model, measure=False)
            assert plan.chosen.fits
        except ConfigError as error:
            if "cannot be trained here" in str(error):
                refused[model] = str(error)
                continue
            assert "not even 180 GiB would do" in str(error) or "try " in str(error)
        answered.append(model)
    assert len(answered) >= 55
    # What was seen not to train is refused by the plan already.
    assert {model.partition("/")[2].partition("-3")[0] for model in refused} == {"paligemma", "paligemma2", "Llama"}
    assert refused["google/paligemma-3b-pt-224"] == (
        "MODEL=google/paligemma-3b-pt-224: it cannot be trained here: its answer can be seen before it is given, so "
        "training would learn to copy: docs/model-types.md has what can"
    )


def test_the_index_knows_every_shipped_file_and_every_file_its_configuration() -> None:
    yaml = pytest.importorskip("yaml")
    entries = yaml.safe_load((SHIPPED.parents[1] / "measure" / "published.yaml").read_text())
    index = json.loads((SHIPPED / "index.json").read_text())
    assert {model for entry in entries for model in (*entry["ids"], *entry.get("same", ()))} == set(index["models"])
    assert set(index["models"].values()) == {path.stem for path in FILES}
    for entry in entries:
        record = json.loads((SHIPPED / f"{index['models'][entry['ids'][0]]}.json").read_text())
        assert record["config_sha256"] == digest(entry["config"])
        assert kept_shape(record, entry["config"])
        assert {name: record.get(name) for name in ("parameters", "sure", "refused", "source")} == {
            name: entry.get(name) for name in ("parameters", "sure", "refused", "source")
        }


def test_the_index_is_written_for_the_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from trainer.measure import ship

    monkeypatch.setattr(ship, "SHIPPED", tmp_path)
    for path in FILES:
        (tmp_path / path.name).touch()
    ship.write_index(ship.published())
    assert (tmp_path / "index.json").read_bytes() == (SHIPPED / "index.json").read_bytes()
    (tmp_path / FILES[0].name).unlink()
    ship.write_index(ship.published())
    index = json.loads((tmp_path / "index.json").read_text())
    assert {*index["models"].values()} == {*index["configurations"].values()} == {path.stem for path in FILES[1:]}


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_shape_prints_tables_or_one_json_object(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure_and_keep(model: str) -> tuple[ModelShape, Path]:
        asked.append(model)
        return known_shape(GEMMA_4B), Path("kept.json")

    monkeypatch.setitem(sys.modules, "trainer.measure.keep", SimpleNamespace(measure_and_keep=measure_and_keep))
    monkeypatch.chdir(tmp_path)  # where no .env is
    assert shape_command.main(["--model", "some/model", *words]) == 0
    said = capsys.readouterr().out
    if words:
        assert json.loads(said) == {"kept": "kept.json", "shape": json.loads(json.dumps(plain(known_shape(GEMMA_4B))))}
    else:
        assert said.splitlines()[-1] == "kept in kept.json" and "\nall                   4,300,079,472\n" in said
    assert asked == ["some/model"]


def test_gemma_3_4b_is_measured_to_its_true_sizes() -> None:
    shape = known_shape(GEMMA_4B)
    text = shape.total_params - shape.vision_params - shape.projector_params
    assert (text, shape.vision_params, shape.projector_params) == (3_880_263_168, 416_866_032, 2_950_272)
    (layer,) = shape.layers
    assert (layer.count, layer.q_width, layer.kv_width, shape.vocab) == (34, 2048, 1024, 262_208)
    assert (shape.vision_patches, shape.tokens_per_image, shape.head_params) == (4096, 256, 0)
    assert (shape.lora_params(64), shape.lora_params(64, "lora")) == (119_209_984, 153_991_168)


def test_a_traced_layer_of_gemma_3_keeps_what_its_parts_do() -> None:
    """4q in attention and 3f in the MLP, in the computation's width; 4h + q + k in fp32, what its norms read."""
    h, f, q, k = 2560, 10_240, 2048, 1024
    (layer,) = known_shape(GEMMA_4B).layers
    assert (layer.values, layer.fp32_values, layer.kept_inputs) == (4 * q + 3 * f, 4 * h + q + k, 2 * h + f)


def test_experts_are_counted_at_16_bits_and_the_plan_says_it() -> None:
    model = "Qwen/Qwen3-VL-30B-A3B-Instruct"
    shape = known_shape(model)
    assert 28e9 < shape.expert_params < 30e9
    with pytest.raises(ConfigError) as refused:
        choose(make_spec(model))
    assert "GiB a GPU (54.0 of it fused experts, which stay at 16 bits)" in str(refused.value)
    plan = choose(make_spec(model, vram_gib=80))
    assert dict(plan.chosen.estimate.items)["experts in 16 bits"] == 2 * shape.expert_params
    (note,) = [note for note in plan.notes if "fused experts" in note]
    assert "of the weights are fused experts, which bitsandbytes does not pack" in note


def test_a_layer_of_linear_attention_has_adapters_but_not_on_its_gates() -> None:
    """Two of its eight linears have 16 outputs; the one beside a convolution of as many channels is no gate."""
    linear, full = known_shape("Qwen/Qwen3.5-0.8B").layers
    assert (linear.count, linear.adapters, linear.adapter_outputs) == (18, 6, 6144 + 2048 + 1024 + 2 * 3584 + 1024)
    assert (full.count, full.adapters, full.kv_width) == (6, 7, 512)


def test_a_language_model_alone_has_no_tower() -> None:
    items = dict(choose(make_spec("Qwen/Qwen3-8B")).chosen.estimate.items)
    assert (items["image tower"], items["image tower forward"]) == (0, 0)


def measured_is_shipped(model: str) -> int:
    from trainer.measure.shape import measure
    from trainer.measure.ship import published_config

    shipped = known_shape(model)
    found = measure(
        model, published_config(model), tokens_per_image=shipped.tokens_per_image,
        patches=shipped.vision_patches, fixed=shipped.fixed_pictures,
    )  # fmt: skip
    assert found == shipped, (asdict(found), asdict(shipped))
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("model", [GEMMA_4B, "Qwen/Qwen3-VL-2B-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct"])
def test_what_is_shipped_is_what_is_measured(model: str, tmp_path: Path) -> None:
    ended = run_forked(tmp_path / "log", measured_is_shipped, model)
    assert ended.codes == (0,), ended.output


@pytest.mark.slow
def test_a_family_that_nobody_has_heard_of_needs_no_code(tmp_path: Path) -> None:
    """Classes under a new model_type are measured, planned by a Python that knows nothing of them, trained in 4 bits,
    scored, asked, merged, and loaded by plain PEFT and by the card's own code."""
    ended = run_forked(tmp_path / "log", taken_the_whole_way, tmp_path)
    assert ended.codes == (0,), ended.output
    assert json.loads((tmp_path / "found").read_text()) == ["trains", "0.5% left alone"]
    shape = resolve_shape(str(tmp_path / "model"), measure=False)
    (layer,) = shape.layers
    assert (shape.family, layer.count, layer.kv_width, layer.adapters) == ("house_vl", 3, 32, 7)
    assert (shape.tokens_per_image, shape.vision_patches, shape.vision_layers) == (16, 16, 3)
    assert choose(make_spec(shape=shape)).chosen.label == "single_gpu"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and an empty cache of ours; nothing of the real ones is seen, and nothing is measured."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "training_environment", lambda: False)
    return cache


def snapshot(hub: Path, model: str, *, revision: str = "f00d", config: dict[str, Any] = CONFIG) -> None:
    """config.json of that revision in the hub's cache, which main names."""
    repo = hub / f"models--{model.replace('/', '--')}"
    (repo / "snapshots" / revision).mkdir(parents=True)
    (repo / "snapshots" / revision / "config.json").write_text(json.dumps(config))
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(f"{revision}\n")


def keep(tmp_path: Path, name: str, config: dict[str, Any] = CONFIG) -> None:
    """The shape of `config` in the user's folder."""
    write_measured(tmp_path / "kept", config, hidden=48)
    folder = user_folder({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "kept" / SHAPE_FILE).replace(folder / name)


@pytest.mark.parametrize("kind", ["a folder", "a folder of others", "a hub id"])
def test_a_measured_shape_is_kept_where_the_next_plan_finds_it(
    kind: str, tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from trainer.measure import keep

    model, kept, more = str(tmp_path / "mine"), tmp_path / "mine" / SHAPE_FILE, {}
    if kind == "a hub id":
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        snapshot(hub, "me/mine", revision="f" * 40)
        (hub / "models--me--mine" / "refs" / "main").write_text("f" * 40)
        model, kept = "me/mine", tmp_path / "cache/trainyard/shapes/me--mine.json"
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.json").write_text(json.dumps(CONFIG, indent=4))
    if kind == "a folder of others":
        monkeypatch.setattr(keep.os, "access", lambda path, mode: False)
        kept = tmp_path / f"cache/trainyard/shapes/{digest(CONFIG)}.json"
    if kind != "a folder":
        more = {"model": model}
        kept.parent.mkdir(parents=True)
    shape = replace(known_shape(GEMMA_4B), hidden=48)
    assert keep.keep(model, shape) == kept
    assert kept.read_text() == text_of(shape, CONFIG, **more)
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert resolve_shape(model, measure=False) == shape


def test_a_local_folder_comes_before_everything_else(tmp_path: Path, hub: Path) -> None:
    assert resolve_shape(str(write_measured(tmp_path / "mine", CONFIG, hidden=48))).hidden == 48


def test_a_folder_that_cannot_be_written_to_is_known_by_its_configuration(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(CONFIG, indent=4))
    keep(tmp_path, f"{digest(CONFIG)}.json")
    assert resolve_shape(str(tmp_path / "mine")).hidden == 48


@pytest.mark.parametrize("change", ["configuration", "version", "sizes"])
def test_a_kept_shape_is_taken_for_the_very_configuration_alone(tmp_path: Path, hub: Path, change: str) -> None:
    folder = write_measured(tmp_path / "mine", CONFIG, hidden=48)
    record = json.loads((folder / SHAPE_FILE).read_text())
    if change == "configuration":
        (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": False}))
    elif change == "version":
        (folder / SHAPE_FILE).write_text(json.dumps({**record, "version": 0}))
    else:
        (folder / SHAPE_FILE).write_text(json.dumps({**record, "shape": {**record["shape"], "hidden": -1}}))
    with pytest.raises(Unmeasured) as refusal:
        resolve_shape(str(folder))
    assert str(refusal.value) == (
        f"MODEL={folder}: its shape has not been measured yet: where torch is installed, type make shape MODEL={folder}"
    )


def test_the_hub_cache_comes_before_what_is_shipped(tmp_path: Path, hub: Path) -> None:
    """The revision is the one that main names, not whichever snapshot comes first."""
    snapshot(hub, GEMMA_4B, revision="a-stale-one", config={"model_type": "smolvlm"})
    snapshot(hub, GEMMA_4B)
    keep(tmp_path, file_name(GEMMA_4B))
    assert resolve_shape(GEMMA_4B).hidden == 48


def test_a_shipped_model_needs_no_measuring_when_its_files_are_there(hub: Path) -> None:
    """The hub's own config.json says more than the values that were measured."""
    snapshot(hub, GEMMA_4B)
    assert resolve_shape(GEMMA_4B) == known_shape(GEMMA_4B)


def test_a_measured_hub_id_is_known_without_its_files(tmp_path: Path, hub: Path) -> None:
    keep(tmp_path, file_name("me/mine"))
    assert resolve_shape("me/mine").hidden == 48


def test_the_cache_is_also_found_below_hf_home(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    snapshot(hub, "me/mine")
    keep(tmp_path, f"{digest(CONFIG)}.json")
    assert resolve_shape("me/mine").hidden == 48


def test_a_mirror_of_a_shipped_model_is_known(hub: Path) -> None:
    assert resolve_shape("unsloth/gemma-3-4b-it") == known_shape(GEMMA_4B)


@pytest.mark.parametrize(
    "model", ["/no/such/gemma-3-4b-it", "../x/gemma-3-4b-it", "./gemma-3-4b-it", "no such/gemma-3-4b-it", "a/b--c"]
)
def test_what_is_no_folder_and_no_hub_id_is_not_known_by_its_name(hub: Path, model: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve_shape(model)
    assert str(refusal.value) == (
        f"MODEL={plain_or_shown(model)}: no folder here and no hub id: give a folder, or owner/name as in "
        "google/gemma-3-4b-it"
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


def test_an_unknown_model_is_told_with_the_nearest_and_the_one_command(hub: Path) -> None:
    with pytest.raises(Unmeasured) as refusal:
        resolve_shape("google/gemma-3-4b-itt")
    assert str(refusal.value) == (
        "MODEL=google/gemma-3-4b-itt: not a folder, not in the Hugging Face cache, not among the shipped shapes, did "
        "you mean google/gemma-3-4b-it? where torch is installed, type make shape MODEL=google/gemma-3-4b-itt"
    )


@pytest.mark.parametrize(
    ("code", "wrote", "said"),
    [(0, True, ""), (78, False, "MODEL=mine cannot be taken apart"), (1, False, "its shape has not been measured yet")],
)
def test_a_model_that_nobody_has_measured_is_measured_where_torch_is(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, code: int, wrote: bool, said: str
) -> None:
    """By a program of its own, which the plan waits for; what that refuses the plan refuses."""
    folder = write_measured(tmp_path / "mine", CONFIG, hidden=48)
    text = (folder / SHAPE_FILE).read_text()
    (folder / SHAPE_FILE).unlink()
    writes = f"open({str(folder / SHAPE_FILE)!r}, 'w').write({text!r})" if wrote else "None"
    program = (
        f"import sys; {writes}; print('trainyard: MODEL=mine cannot be taken apart', file=sys.stderr); sys.exit({code})"
    )
    stub = tmp_path / "python"
    stub.write_text(f"#!{sys.executable}\n{program}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(shapes, "training_environment", lambda: True)
    monkeypatch.setattr(shapes, "training_command", lambda *words: f"{stub} -m trainer shape --model x")
    if wrote:
        assert resolve_shape(str(folder)).hidden == 48
        return
    with pytest.raises(ConfigError) as refusal:
        resolve_shape(str(folder))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(("text", "said"), [("{", "cannot be read as JSON"), ("[1]", "holds list, not a JSON object")])
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


def test_what_a_kept_file_says_is_read_back(tmp_path: Path) -> None:
    shape = known_shape("Qwen/Qwen2.5-VL-7B-Instruct")
    assert kept_shape(json.loads(text_of(shape, CONFIG)), CONFIG) == shape


def test_planning_imports_neither_torch_nor_anything_else_that_is_heavy() -> None:
    code = (
        "import sys, planner.choose, planner.table\n"
        "import trainer.architecture.shapes, planner.memory.estimate\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'huggingface_hub', 'numpy', 'yaml', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
