"""Models that cannot be trained: one line and 78 from every verb, never a traceback; a sick machine stays one."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
from paths import ROOT
from tiny_families import write_tiny_mllama
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from training import run_forked

from trainer.architecture.shapes import resolve_shape
from trainer.files import MIB
from trainer.model.refusal import LONGEST, TRACEBACK_ENV, refusing, what_to_install
from trainer.outcome import ConfigError, SickNode
from trainer.train import main as train
from trainer.verbs import exit_code

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize(
    ("more", "method"),
    [
        ({"quantization_config": BNB}, "bitsandbytes"),  # unsloth/*-bnb-4bit
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "says its config.json"),  # mlx-community
        ({"text_config": {"hidden_size": 64, "quantization_config": {"quant_method": "awq"}}}, "awq"),
    ],
)
def test_the_plan_refuses_weights_that_are_quantized_already(tmp_path: Path, more: Any, method: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": {}, **more}))
    with pytest.raises(ConfigError) as refused:
        resolve_shape(str(tmp_path))
    assert str(refused.value) == (
        f"MODEL={tmp_path}: its weights are quantized already ({method}): give the 16-bit model that they were made "
        "from; QUANTIZATION=nf4 makes 4 bits of it as it loads"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("vision_config"), "KeyError: 'vision_config'"),
        (AttributeError("X has no attribute y\nsecond line"), "AttributeError: X has no attribute y"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("\n\n  Unrecognized model. It should have a key."), "Unrecognized model"),
        (TypeError("x" * 500), f"TypeError: {'x' * (LONGEST - 3)}..."),
        (ValueError("x" * LONGEST), "x" * LONGEST),
        (ValueError("x" * (LONGEST + 1)), f"{'x' * (LONGEST - 3)}..."),
    ],
)
def test_what_a_library_raises_is_one_line(error: Exception, said: str) -> None:
    with pytest.raises(ConfigError) as refused, refusing("some/model", "loaded", "take another"):
        raise error
    assert str(refused.value) == f"MODEL=some/model: cannot be loaded ({said}): take another"


def test_a_tokenizer_that_would_match_for_ever_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tokenizers ends that by a panic of Rust's, which is no Exception; other BaseExceptions pass."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Split(Regex("(a+)+$"), "isolated")
    found = pytest.raises(ConfigError, match=r"PanicException: Onig: .* over\): take another")
    with found, refusing("some/model", "loaded", "take another"):
        tokenizer.encode("a" * 60 + "!")
    assert exit_code(lambda _: len(tokenizer.encode("a" * 60 + "!")), []) == 78
    said = capsys.readouterr().err
    assert said.startswith("trainyard: a library gave up on a file of the model or the data: Onig: ")
    assert said.count("\n") == 1 and "Traceback" not in said
    monkeypatch.setattr("trainer.train.resolve_settings", lambda *_: tokenizer.encode("a" * 60 + "!"))
    monkeypatch.setattr("trainer.train.in_rank", bool)
    monkeypatch.setattr("trainer.train.log.begin", bool)
    assert train([]) == 78
    said = capsys.readouterr().err
    assert "a library gave up on a file of the model or the data: Onig: " in said and said.count("\n") == 1
    with pytest.raises(SystemExit), refusing("some/model", "loaded", "take another"):
        raise SystemExit


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory that a process may gain")
def test_a_number_in_config_json_that_stands_for_all_memory_or_for_ever_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million layers took hours of `make plan`, and a billion all memory before the first of them was built."""
    from trainer.model import base, size_limits

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 16}

    def skeleton(layers: int) -> Any:
        config = {"model_type": "qwen3", "num_hidden_layers": layers, **sizes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return base.take_apart(str(tmp_path), base.load_model_config(str(tmp_path)))[0]

    assert len(skeleton(2).model.layers) == 2
    monkeypatch.setattr(size_limits, "MOST_MODULES", 300)
    with pytest.raises(ConfigError, match=r"cannot be taken apart \(its config\.json asks for more than 300 modules\)"):
        skeleton(50)
    monkeypatch.setattr(size_limits, "CONFIG_BYTES", MIB)
    with pytest.raises(ConfigError, match=r"a number in its config\.json stands for more than .* GiB of memory"):
        skeleton(2 * 10**7)  # a list so long that it never fits what earlier tests have left free
    monkeypatch.setattr(size_limits, "CONFIG_BYTES", 64 * MIB)
    monkeypatch.setattr(size_limits, "CONFIG_CPU_S", 0.2)
    with pytest.raises(ConfigError, match=r"a number in its config\.json stands for more than 0\.2 s of work"):
        skeleton(10**6)
    assert len(skeleton(3).model.layers) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory that a process may gain")
def test_a_number_in_processor_config_json_that_stands_for_all_memory_is_one_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A processor writes a text with a mark for each token of a picture as soon as it is made."""
    from trainer.model import base

    shutil.copytree(tiny_model, folder := tmp_path / "model")
    said = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**said, "image_seq_length": 10**11}))
    with pytest.raises(
        ConfigError, match=r"a number in its processor_config\.json stands for more than 4 GiB of memory"
    ):
        base.load_processor(str(folder))


def test_a_library_that_is_not_there_is_named() -> None:
    text = "\nXProcessor requires the Decord library but it was not found. Check out the instructions on the\npage"
    with pytest.raises(ConfigError) as refused, refusing("some/model", "loaded", "take another"):
        raise ImportError(text)
    assert str(refused.value) == (
        "MODEL=some/model: cannot be loaded (XProcessor requires the Decord library but it was not found): "
        "it needs decord, which is not among what Trainyard installs, or take another model"
    )


def caused(error: Exception) -> Exception:
    made = RuntimeError("the weights could not be had")
    made.__cause__ = error
    return made


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), OSError(28, "No space left on device"),
        OSError(5, "Input/output error"), OSError("We couldn't connect to 'https://huggingface.co'"),
        RuntimeError("I/O error: Input/output error (os error 5)"), ConnectionResetError("reset by peer"),
        caused(TimeoutError("read timed out")), httpx.ReadError("cut off"), caused(httpx.ReadError("cut off")),
        ConfigError("as it was"), SickNode("as it was"),
    ],
    ids=lambda error: repr(error)[:40],
)  # fmt: skip
def test_the_machines_faults_and_our_own_words_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as kept, refusing("some/model", "loaded", "take another"):
        raise error
    assert kept.value is error


def test_the_traceback_is_there_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (False, True):
        if asked:
            monkeypatch.setenv(TRACEBACK_ENV, "1")
        with pytest.raises(ConfigError), refusing("some/model", "loaded", "take another"):
            raise KeyError("vision_config")
        printed = capsys.readouterr().err
        assert ("Traceback" in printed and "KeyError: 'vision_config'" in printed) == asked


def quantized(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": BNB}))


def of_encoder_and_decoder(folder: Path) -> None:
    from transformers import BartConfig

    BartConfig().save_pretrained(folder)


def without_text(folder: Path) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(folder)


def that_fills_gaps(folder: Path) -> None:
    from transformers import BertConfig

    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(folder)


def of_a_type_that_fills_gaps(folder: Path) -> None:
    from transformers import RoFormerConfig

    RoFormerConfig().save_pretrained(folder)


def of_a_type_of_its_own(folder: Path) -> None:
    path = folder / "config.json"
    code = {"AutoConfig": "configuration_house.HouseConfig"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "house_chat", "auto_map": code}))


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def of_another_processor(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": name}))

    return write


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def of_another_shape(folder: Path) -> None:
    path = folder / "config.json"
    entry = json.loads(path.read_text())
    entry["text_config"]["intermediate_size"] += 64
    path.write_text(json.dumps(entry))


def blind(folder: Path) -> None:
    """It does not look at its pictures, and has no method that the contract could ask for their features."""
    shutil.rmtree(folder)
    write_tiny_mllama(folder, gate=0.0)


(PIN,) = re.findall(r'"(torchvision==[\d.]+)"', (ROOT / "pyproject.toml").read_text())
ALL = ("train", "data", "model", "layers", "shape", "profile-memory", "infer", "merge")
WITHOUT_PROCESSOR = ("layers", "shape")
WEIGHTS = ("train", "model", "profile-memory", "infer", "merge")
# What each is refused by, the others end with 0.
CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "quantized": (quantized, ALL, "its weights are quantized already (bitsandbytes)"),
    "encoder": (of_encoder_and_decoder, ALL, "bart"),
    "no text": (without_text, ALL, "vit"),
    "fills gaps": (that_fills_gaps, ALL, "BertForMaskedLM writes no text"),
    "may fill gaps": (of_a_type_that_fills_gaps, ALL, "roformer reads a text in both directions"),
    "its own code": (of_a_type_of_its_own, ALL, "its own Python files (auto_map) are not run"),
    "no template": (without_template, tuple({*ALL} - {"layers"}), "has no chat template"),
    "no torchvision": (
        of_another_processor("PixtralProcessor"),
        tuple({*ALL} - {*WITHOUT_PROCESSOR}),
        "requires the Torchvision",
    ),
    "no such processor": (
        of_another_processor("Gemma3nProcessor"),
        tuple({*ALL} - {*WITHOUT_PROCESSOR}),
        "cannot be loaded (",
    ),
    "cut off": (cut_off, WEIGHTS, "cannot be loaded (SafetensorError: "),
    "another shape": (of_another_shape, WEIGHTS, "MODEL="),
    "blind": (
        blind,
        ("train", "model", "shape", "profile-memory", "merge"),
        "",
    ),  # its run held nothing out to merge on
}


def ask_all(cases: dict[str, str], data: str, out: str) -> None:
    """Every verb of every model, in this process: {case: {verb: [code, what was printed]}} into `out`."""
    from local.__main__ import main as local
    from trainer.__main__ import main

    found: dict[str, dict[str, Any]] = {}
    settings = ["--data", data, "--device", "cpu", "--micro_batch_size", "2", "--lora_r", "4", "--lora_alpha", "8"]
    steps = ["--max_steps", "2", "--eval_samples", "2", "--score_samples", "2", "--max_length", "2048"]
    picture = str(next(Path(data, "frames").glob("*.png")))
    for case, model in cases.items():
        run = Path(model).parent
        verbs: dict[str, Callable[[], int]] = {
            "train": lambda model=model, run=run: train(
                ["--model", model, *settings, *steps, "--output_dir", f"{run}/trained", "--run_id", "t"]
            ),
            "data": lambda model=model: main(["validate", "data", "--model", model, *settings, *steps]),
            "model": lambda model=model: main(["validate", "model", "--model", model, *settings, *steps]),
            "layers": lambda model=model: main(["layers", "--model", model]),
            "shape": lambda model=model: main(["shape", "--model", model]),
            "profile-memory": lambda model=model: local(["profile-memory", "--model", model, *settings, *steps]),
            "infer": lambda model=model: main(["infer", "--run", model, picture]),
            "merge": lambda run=run: main(["merge", "--run", str(run)]),
        }
        found[case] = {}
        for verb, ask in verbs.items():
            printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)  # as a terminal is one
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
                try:
                    code = ask()
                except BaseException as error:
                    code = -1
                    print(f"Traceback: {type(error).__name__}: {error}")
            printed.seek(0)
            found[case][verb] = [code, printed.read()]
            print(case, verb, code, file=sys.stderr, flush=True)
    Path(out).write_text(json.dumps(found))


@pytest.mark.slow
def test_every_verb_refuses_it_in_one_line(tiny_qwen: Path, walks: Path, tmp_path: Path) -> None:
    from trainer.results.trained import Usage, write_usage

    usage = Usage(
        device="cpu", quantization="none", answer_field="button", choices=None, answer_tokens=4, frames=1, context="",
        question="?", system="",
    )  # fmt: skip
    models = {}
    for case, (change, _, _) in CASES.items():
        run = tmp_path / case.replace(" ", "-")
        model = run / "adapter"  # where a run has what infer and merge ask for
        shutil.copytree(tiny_qwen, model)
        change(model)
        write_usage(model, usage)
        (run / "metrics.json").write_text(json.dumps({"config": {}, "data": {}}))
        models[case] = str(model)
    ended = run_forked(tmp_path / "log", ask_all, models, str(walks), str(tmp_path / "found.json"))
    assert ended.codes == (0,), ended.output
    found = json.loads((tmp_path / "found.json").read_text())
    for case, (_, refused, said) in CASES.items():
        for verb, (code, printed) in found[case].items():
            assert "Traceback" not in printed and "ran out" not in printed, (case, verb, printed)
            assert code == (78 if verb in refused else 0), (case, verb, printed)
            last = printed.strip().splitlines()[-1] if code else ""
            if code and verb != "model":  # whose answer is a table
                # A rank's line begins with its time and place.
                assert re.match(r"(\S+ \S+ \S+ rank 0: )?trainyard: ", last) and said in last, (case, verb, printed)
            elif code:
                assert said in printed and models[case] in printed, (case, verb, printed)


@pytest.mark.parametrize(
    ("said", "build", "what"),
    [
        ("Llama4ImageProcessor requires the Torchvision library but it", "+cpu",
         f"it needs torchvision: pip install {PIN}+cpu --index-url https://download.pytorch.org/whl/cpu"),
        ("PixtralProcessor requires the Torchvision library but it", "", f"it needs torchvision: pip install {PIN}"),
        ("No module named 'num2words'", "", "it needs num2words: pip install num2words=="),
        ("No module named 'decord.bridge'", "", "it needs decord, which is not among what Trainyard installs"),
        ("No module named 'cv2'", "", "it needs cv2, which is not among what Trainyard installs"),
        ("cannot import name 'x'", "", "it needs a library that is not among Trainyard's"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_is_named_with_its_pin(
    said: str, build: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: f"2.13.0{build}")
    assert what_to_install(ImportError(said)).startswith(what)
