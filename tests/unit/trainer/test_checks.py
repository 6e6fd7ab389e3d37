"""`validate environment | model | pipeline | all`: what passes, what fails, and that no secret is printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from training import run_forked

from trainer.__main__ import main
from trainer.config import TrainConfig
from trainer.data import endings
from trainer.tools.checks import Check, format_checks
from trainer.tools.promises import weights_gib
from trainer.tools.validate import _of_data, processor


def validate(folder: Path, target: str, *argv: object, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    words = ["validate", target, *map(str, argv), "--device=cpu", "--json"]
    ended = run_forked(folder, main, words, environment=environ)
    report = json.loads(ended.output[ended.output.index("{\n") :])
    return ended.codes[0], {check["name"]: check for check in report["checks"]}


@pytest.mark.slow
def test_the_environment_is_as_pinned_and_tokens_are_seen_but_not_said(tmp_path: Path) -> None:
    argv = ("--model", "m", "--data", "d", "--output_dir", tmp_path / "runs")
    code, found = validate(tmp_path, "environment", *argv, HF_TOKEN="hf_canary", WANDB_API_KEY="")
    assert code == 0
    assert {name: check["status"] for name, check in found.items()} == {
        "libraries": "pass", "settings": "pass",
        "HF_TOKEN": "pass", "WANDB_API_KEY": "warn", ".env": "pass", "output": "pass",
        "TMPDIR": "pass", "GPUs": "pass",
    }  # fmt: skip
    assert re.fullmatch(r"Python 3\.\d+\.\d+, \d+ libraries as pinned", found["libraries"]["found"])
    assert "canary" not in (tmp_path / "rank0.log").read_text()
    _, found = validate(tmp_path / "again", "environment", *argv, HF_TOKEN="hf_xxxxxxxx", WANDB_API_KEY="your_key_here")
    assert [
        (found[name]["status"], found[name]["found"].partition(":")[0]) for name in ("HF_TOKEN", "WANDB_API_KEY")
    ] == [("warn", "holds a placeholder, which counts as not given")] * 2


@pytest.mark.slow
def test_a_model_is_looked_at_without_its_weights(tmp_path: Path, tiny_model: Path) -> None:
    layers = json.loads((tiny_model / "config.json").read_text())["text_config"]["num_hidden_layers"]
    code, found = validate(tmp_path, "model", "--model", tiny_model, "--data", "d", "--lora_r=8")
    assert code == 0
    assert found["family"]["found"] == "gemma3"
    assert found["LoRA"]["found"].startswith(f"{7 * layers} linears of the language model, ")
    argv = ("model", "--model", tiny_model, "--data", "d", "--lora_r=8", "--vision=lora")
    _, tuned = validate(tmp_path / "tower", *argv)
    assert tuned["LoRA"]["found"].startswith(f"{7 * layers + 6} linears of language model and tower, ")
    assert re.fullmatch(r"checkpoints and adapter take 0.00 of the [\d.]+ GiB free", found["space"]["found"])


@pytest.mark.slow
def test_settings_that_nobody_uses_are_said_with_what_is_usual(tmp_path: Path) -> None:
    argv = (
        "--model",
        "m",
        "--data",
        "d",
        "--output_dir",
        tmp_path,
        "--learning_rate=0.5",
        "--lora_r=16",
        "--lora_alpha=128",
        "--micro_batch_size=8",
    )
    code, found = validate(tmp_path, "environment", *argv)
    assert (code, found["settings"]["status"]) == (0, "warn")
    assert found["settings"]["found"] == (
        "learning_rate is 0.5, 1e-5 to 1e-3 is usual (critical); "
        "lora_alpha is 128, 1 to 2 x lora_r is usual (high); effective batch is 64, 8 to 32 is usual (medium)"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.slow
def test_a_disk_too_small_for_the_checkpoints_fails_with_what_they_take(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], check=True)
    try:
        code, found = validate(
            tmp_path, "model", "--model", tiny_model, "--data", "d", "--lora_r=64", "--output_dir", folder / "runs"
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert (code, found["space"]["status"]) == (78, "fail")
    assert re.fullmatch(
        rf"{folder}/runs has 0.00 GiB free, checkpoints and adapter take 0.0\d: another output_dir, .*",
        found["space"]["found"],
    )


def test_what_fails_says_what_to_do_and_ends_with_78() -> None:
    words = [sys.executable, "-m", "trainer", "validate", "model", "--model", "no/such", "--data", "d", "--json"]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/x"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    check, *others = json.loads(done.stdout)["checks"]
    assert (check["name"], check["status"]) == ("access", "fail")
    assert {(other["status"], other["found"]) for other in others} == {("skip", "not asked: access failed")}
    assert check["found"] == ("MODEL=no/such: is not in the hub cache (/x/hub), and HF_HUB_OFFLINE is set: download it")


@pytest.mark.slow
def test_all_ends_with_two_real_steps_and_leaves_nothing(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    argv = ("--model", tiny_model, "--data", walks, "--lora_r=8", "--output_dir", tmp_path / "runs")
    code, found = validate(tmp_path / "log", "all", *argv, TMPDIR=str(tmp_path))
    assert code == 0, found
    assert [name for name, check in found.items() if check["status"] == "pass"][-8:] == [
        "access", "family", "processor", "LoRA", "space", "data", "contract", "pipeline"
    ]  # fmt: skip
    (promises,) = re.findall(r"^(\d+) promises kept on the first record", found["contract"]["found"])
    assert int(promises) >= 15  # of the model and of its behaviour
    assert "checked on" not in found["contract"]["found"]
    assert re.fullmatch(r"2 steps, losses \d+\.\d{4}, \d+\.\d{4}, adapter saved; \d+ s", found["pipeline"]["found"])
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "code", "skipped", "last"),
    [
        (
            (), 0, {"access", "family", "processor", "LoRA", "space", "data", "contract", "pipeline"},
            "pipeline: make validate MODEL=google/gemma-3-4b-it DATA=records.jsonl asks all",
        ),
        (
            ("model",), 0, {"data", "contract", "pipeline"},
            "pipeline: make validate MODEL={} DATA=records.jsonl asks all",
        ),
        (("model", "data"), 78, {"contract", "pipeline"}, None),
    ],
)  # fmt: skip
def test_a_cause_is_said_once_and_what_needs_it_is_skipped(
    given: tuple[str, ...], code: int, skipped: set[str], last: str | None, tmp_path: Path, tiny_model: Path
) -> None:
    values = {"model": tiny_model, "data": "/no/where"}
    words = ["validate", "all", "--device=cpu", *(str(word) for name in given for word in (f"--{name}", values[name]))]
    ended = run_forked(tmp_path, main, words, environment={"TRAINYARD_TYPED": "make"})
    assert ended.codes == (code,)
    assert set(re.findall(r"^(\S+) +skip  not asked: ", ended.output, re.M)) == skipped
    assert ended.output.count("does not exist") == (code == 78)
    assert last is None or ended.output.splitlines()[-1] == last.format(tiny_model)


@pytest.mark.slow
def test_a_pipeline_that_breaks_says_why(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{not json}\n")
    code, found = validate(tmp_path / "log", "pipeline", "--model", tiny_model, "--data", tmp_path)
    assert (code, found["pipeline"]["status"]) == (78, "fail")
    said, _, log = found["pipeline"]["found"].removesuffix(")").partition(" (all of it: ")
    assert said.startswith(f"{tmp_path}/train.jsonl record 1 is not JSON")
    assert said in Path(log).read_text()
    Path(log).unlink()


def test_people_get_a_table_and_what_to_do() -> None:
    checks = [
        Check(name="a", status="pass", found="fine"),
        Check(name="long", status="warn", found="so so", do="make it better"),
    ]
    assert format_checks(checks) == "a     pass  fine\nlong  warn  so so\n\nlong: make it better"


def test_a_narrow_terminal_breaks_what_was_found_behind_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.tools.checks.size", lambda: (30, 24))
    assert format_checks([Check(name="a", status="pass", found="fine and so on and so on and on")]) == (
        "a  pass  fine and so on and so\n         on and on"
    )


@pytest.mark.parametrize(
    ("columns", "lines"), [(15, ["a  pass  fine", "         and so", "         on"]), (14, ["a  pass  fine and so on"])]
)
def test_a_terminal_that_is_half_taken_by_the_columns_breaks_nothing(
    columns: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tools.checks.size", lambda: (columns, 24))
    assert format_checks([Check(name="a", status="pass", found="fine and so on")]).splitlines() == lines


@pytest.mark.parametrize(
    ("end", "said"), [(None, "SimpleNamespace"), ("nothing ends an answer", "SimpleNamespace; nothing ends an answer")]
)
def test_a_processor_is_named_with_what_its_template_lacks(
    end: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    loaded = SimpleNamespace()
    model = SimpleNamespace(load_processor=lambda name: asked.append(name) or loaded)
    monkeypatch.setitem(sys.modules, "trainer.model.base", model)
    monkeypatch.setattr(endings, "describe_end", lambda given: asked.append(given) or end)
    assert processor(TrainConfig(model="some/model", data="-", output_dir="-", run_id="-")) == said
    assert asked == ["some/model", loaded]


def test_the_command_that_says_more_about_the_data_has_what_was_asked_for() -> None:
    config = TrainConfig(
        model="demo/model", data="my own/x", output_dir="runs", run_id="v", device="cpu", columns="question=ask"
    )
    words = shlex.split(_of_data(config))[1:]
    assert words == [
        *("-m", "trainer", "validate", "data"),
        *("--model", "demo/model", "--data", "my own/x", "--columns", "question=ask"),
    ]


@pytest.mark.parametrize(
    ("device", "quantization", "packed_bytes", "width"),
    [("cuda", "nf4", 0.5625, 2), ("cuda", "none", 2, 2), ("cpu", "nf4", 0.5625, 4), ("cpu", "none", 4, 4)],
)
def test_the_weights_take_what_their_linears_and_all_others_take(
    device: Literal["cuda", "cpu"], quantization: Literal["nf4", "none"], packed_bytes: float, width: int
) -> None:
    """Gemma 3 4B: 4,300,079,472 weights, of which 3,208,642,560 are in linears of the language model."""
    linears, others = 3_208_642_560, 4_300_079_472 - 3_208_642_560
    config = TrainConfig(
        model="google/gemma-3-4b-it", data="-", output_dir="-", run_id="-", device=device, quantization=quantization
    )
    assert weights_gib(config) == pytest.approx((linears * packed_bytes + others * width) / 2**30, rel=1e-9)
