"""Folders that people give as MODEL though nothing can be trained from them: one line says what they are instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from specs import write_measured

from trainer.architecture.folder import COPIED, NO_TEMPLATE, check_weights
from trainer.architecture.shapes import resolve_shape
from trainer.files import read_json
from trainer.node import model_folder
from trainer.outcome import ConfigError

CONFIG = {"model_type": "gemma3", "text_config": {"hidden_size": 48}}
INDEX, POINTER = "model.safetensors.index.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
NEITHER = f"the folder has neither model.safetensors nor {INDEX}: pass one with the weights"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        work()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("adapter_config.json", '{"base_model_name_or_path": "google/gemma-3-4b-it"}',
         "the folder holds an adapter, not a model: give MODEL='google/gemma-3-4b-it', and init_adapter with this "
         "folder to go on from it"),
        ("adapter_config.json", "[]",
         "the folder holds an adapter, not a model: give as MODEL the base that it was made for, and init_adapter with "
         "this folder to go on from it"),
        ("gemma-3-4b-it-Q4_K_M.gguf", "GGUF",
         "the folder holds GGUF files, which cannot be trained: give the 16-bit model that they were made from"),
        ("README.md", "", "the folder has no config.json: pass a model's folder"),
    ],
)  # fmt: skip
def test_a_folder_without_a_model_says_what_it_holds(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    assert refusal(lambda: resolve_shape(str(tmp_path))) == f"MODEL={tmp_path}: {said}"


def test_a_measured_folder_whose_tokenizer_has_no_chat_template_is_not_planned(tmp_path: Path) -> None:
    """The plan of a folder that was measured needs no torch, and refuses what the run would."""
    folder = write_measured(tmp_path, CONFIG, hidden=48)
    assert resolve_shape(str(folder)).hidden == 48  # as copied to a login node: without its tokenizer
    tokenizer = folder / "tokenizer_config.json"
    for text in ("{}", '{"chat_template": ""}'):
        tokenizer.write_text(text)
        assert refusal(lambda: resolve_shape(str(folder))) == f"MODEL={folder}: {NO_TEMPLATE}: {COPIED}"
    tokenizer.write_text('{"chat_template": "{{ messages }}"}')
    assert resolve_shape(str(folder)).hidden == 48


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", "{{ messages }}"),
        ("chat_template.json", '{"chat_template": "{{ messages }}"}'),
        ("processor_config.json", '{"chat_template": "{{ messages }}"}'),
        ("tekken.json", "{}"),
    ],
)
def test_a_chat_template_is_found_wherever_transformers_writes_it(tmp_path: Path, name: str, text: str) -> None:
    folder = write_measured(tmp_path, CONFIG, hidden=48)
    (folder / "tokenizer.json").write_text("{}")
    (folder / name).write_text(text)
    assert resolve_shape(str(folder)).hidden == 48


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'\xef\xbb\xbf{"chat_template": "x"}',
         "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)"),
        (b"[]", "it holds list, not a JSON object"),
    ],
    ids=["half", "BOM", "list"],
)  # fmt: skip
def test_a_file_of_the_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    folder = write_measured(tmp_path, CONFIG, hidden=48)
    (folder / "tokenizer_config.json").write_bytes(content)
    said = f"MODEL={folder}: tokenizer_config.json cannot be read ({why}): download it again"
    assert refusal(lambda: resolve_shape(str(folder))) == said


def index(folder: Path) -> None:
    weights = {"a": ONE, "b": TWO, "c": TWO}
    (folder / INDEX).write_text(json.dumps({"weight_map": weights}))


def test_whole_weights_pass(tmp_path: Path) -> None:
    index(tmp_path)
    for name in (ONE, TWO):
        (tmp_path / name).write_bytes(b"\x08")
    check_weights("m", tmp_path)
    (tmp_path / "consolidated.safetensors").write_bytes(POINTER)  # the same weights again, as Mistral gives them
    check_weights("m", tmp_path)
    (tmp_path / TWO).rename(tmp_path / "model.safetensors")  # one file has all of them: the index is not read
    check_weights("m", tmp_path)


def test_weights_in_a_folder_below_pass(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "sub/x.safetensors"}}')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.safetensors").write_bytes(b"\x08")
    check_weights("m", tmp_path)


def test_weights_that_config_json_names_are_left_to_whoever_loads_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"transformers_weights": "other.safetensors"}')
    check_weights("m", tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({ONE: b"\x08"}, f"lacks '{TWO}', which model.safetensors.index.json lists: download it again"),
        ({"other.safetensors": b"\x08"},
         f"lacks '{ONE}' and 1 more, which model.safetensors.index.json lists: download it again"),
        ({ONE: b"\x08", TWO: POINTER},
         f"'{TWO}' is what git leaves in place of a large file: type git lfs pull in the folder"),
        ({INDEX: b"{"}, f"{INDEX} cannot be read as a list of files: download it again"),
        ({}, f"lacks '{ONE}' and 1 more, which model.safetensors.index.json lists: download it again"),
    ],
)  # fmt: skip
def test_weights_that_are_not_whole_are_refused_before_anything_is_submitted(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    index(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert refusal(lambda: check_weights("m", tmp_path)) == f"MODEL=m: {said}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model-00001-of-00002.bin",
         "its weights are pickles (*.bin), which are programs and are not loaded: give a copy with *.safetensors: "
         "save_pretrained of transformers writes one"),
        ("training_args.bin", NEITHER),
        ("consolidated.safetensors", NEITHER),
        ("adapter_model.safetensors", NEITHER),
    ],
)  # fmt: skip
def test_weights_under_a_name_that_is_not_loaded_are_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"\x08")
    assert refusal(lambda: check_weights("m", tmp_path)) == f"MODEL=m: {said}"


def test_a_link_whose_file_was_not_copied_is_no_weight(tmp_path: Path) -> None:
    """A snapshot of the hub's cache, copied without the blobs that it links to."""
    index(tmp_path)
    (tmp_path / ONE).write_bytes(b"\x08")
    (tmp_path / TWO).symlink_to("../../blobs/none")
    assert f"lacks '{TWO}'" in refusal(lambda: check_weights("m", tmp_path))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bart", "is_encoder_decoder": True},
         "bart reads in an encoder and answers in a decoder, and Trainyard trains models that do both in one: give "
         "another, as google/gemma-3-4b-it is"),
        ({"model_type": "\x1b[31m", "is_encoder_decoder": True},
         "it reads in an encoder and answers in a decoder, and Trainyard trains models that do both in one: give "
         "another, as google/gemma-3-4b-it is"),
        *(({"model_type": "any", "architectures": [name, "AnyForCausalLM"]},
           f"{name} writes no text (it classifies, fills gaps, or moves a robot): give a model that answers in words, "
           "as google/gemma-3-4b-it does") for name in ("AnyForMaskedLM", "AnyForSequenceClassification")),
    ],
)  # fmt: skip
def test_a_model_that_writes_no_text_is_refused_by_its_config_json_without_torch(
    tmp_path: Path, config: dict[str, object], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refusal(lambda: resolve_shape(str(tmp_path), measure=False)) == f"MODEL={tmp_path}: {said}"


@pytest.mark.parametrize("named", [["AnyForCausalLM"], ["AnyForMaskedLMs"], [7], "AnyForMaskedLM", [], None])
def test_what_its_config_json_does_not_tell_is_left_to_whoever_measures(tmp_path: Path, named: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": named, "is_encoder_decoder": False}))
    assert "its shape has not been measured yet" in refusal(lambda: resolve_shape(str(tmp_path), measure=False))


def test_an_index_of_weights_is_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start looks at the folder several times, and the index of a large model has megabytes."""
    read: list[Path] = []
    monkeypatch.setattr(model_folder, "read_json", lambda path: read.append(path) or read_json(path))
    index(tmp_path)
    assert [model_folder.wrong_file(tmp_path) for _ in range(3)] == [""] * 3
    assert read == [tmp_path / INDEX]
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "../x.safetensors"}}')
    wrong = f"{INDEX} names files outside of the folder"
    assert [model_folder.wrong_file(tmp_path) for _ in range(2)] == [wrong] * 2
    assert len(read) == 2
    (tmp_path / INDEX).unlink()
    (tmp_path / INDEX).symlink_to("nowhere")
    assert model_folder.wrong_file(tmp_path) == ""
