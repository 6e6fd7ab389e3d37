"""Small files that stand for much: each is refused in one line, soon, and one damaged record harms no other."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm_verbs as verbs
from finished_run import write_run
from paths import ROOT
from PIL import Image
from plans import make_plan
from programs import slurm

from launcher.grid import read_result, read_sweep
from launcher.records import run_record, write_record
from trainer.architecture.hub import cached_config
from trainer.data import endings, examples, template
from trainer.data.json_text import read_line
from trainer.data.lengths import processor_digest
from trainer.data.records import load_dataset
from trainer.data.sources import data_files
from trainer.data.turns import FormError
from trainer.files import MIB, MOST_DEPTH, MOST_MIB, bounded_lines, parse_json, read_json
from trainer.node.preflight import check_model
from trainer.node.stop import count_attempt
from trainer.outcome import ConfigError
from trainer.progress_file import read_progress
from trainer.report.page import main as report
from trainer.report.runs import read_rows
from trainer.results.adapter_file import check_adapter
from trainer.training.checkpoint import check_manifest
from trainer.yaml_file import read_yaml

LETTERS = "abcdefghij"
DEEP = "[" * 200_000
FAMILIES = {
    "aliases": ("a: &a [x,x,x,x,x,x,x,x,x]\n", "{now}: &{now} [{nine}]\n", "stands for more than 5000 values"),
    "mappings": ("a: &a {x: 1}\n", "{now}: &{now} {{<<: [{nine}]}}\n", "stands for more than 5000 values"),
    "keys": ("a: &a {x: 1}\n", "{now}: &{now} {{k: *{before}, l: *{before}, m: *{before}}}\n", "more than 5000 values"),
}
BOMBS = {
    name: (first + "".join(
        more.format(now=now, before=before, nine=",".join([f"*{before}"] * 9))
        for before, now in itertools.pairwise(LETTERS)
    ), said)
    for name, (first, more, said) in FAMILIES.items()
} | {
    "itself": ("a: &a [*a]\n", f"nests deeper than {MOST_DEPTH} levels"),
    "chain": ("a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(500)), "nests deeper"),
    "deep": (f"a: {'[' * 30_000}", f"nests deeper than {MOST_DEPTH} levels"),
    "long": (f"a: {'x' * 70_000}\n", "is longer than 65536 characters"),
    "wide": (f"a: [{'x,' * 5_500}]\n", "stands for more than 5000 values"),
}  # fmt: skip


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("name", BOMBS)
def test_a_yaml_bomb_is_refused_at_once(name: str, typed: bool, tmp_path: Path) -> None:
    text, said = BOMBS[name]
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"^bomb.yaml: .*{said}"):
        read_yaml(tmp_path / "bomb.yaml", "bomb.yaml", takes="x", typed=typed)


def test_what_people_write_with_anchors_is_read(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("a: &a {min: 1, max: 2}\nb: *a\nc: {<<: *a, max: 3}\nd: [[1, [2]], *a]\n")
    one = {"min": 1, "max": 2}
    found = read_yaml(tmp_path / "sweep.yaml", "sweep.yaml", takes="x", typed=True)
    assert found == {"a": one, "b": one, "c": {"min": 1, "max": 3}, "d": [[1, [2]], one]}


@pytest.mark.parametrize(
    "words", [["--config-file", "bomb.yaml"], ["--site", "bomb.yaml"], ["--sweep", "bomb.yaml", "--trials", "2"]]
)
def test_wherever_a_yaml_file_is_named_a_bomb_is_one_line(words: list[str], checkout: Path) -> None:
    (checkout / "bomb.yaml").write_text(BOMBS["aliases"][0])
    done = slurm("plan", *words, cwd=checkout, WANDB_API_KEY="x" * 40)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1), done.stderr
    assert "bomb.yaml: is not YAML: it stands for more than 5000 values" in done.stderr


@pytest.mark.parametrize("made", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config-file", "odd"], "CONFIG_FILE=odd: cannot be read (a pipe or a device, and no file)"),
        (["--site", "odd"], "SITE=odd: cannot be read (a pipe or a device, and no file)"),
        (["--model", "./model"], "model/config.json cannot be read as JSON ("),
    ],
)
def test_what_is_no_file_is_not_waited_for(
    words: list[str], said: str, made: Callable[[Path], None], checkout: Path
) -> None:
    (checkout / "model").mkdir()
    made(checkout / ("model/config.json" if "--model" in words else "odd"))
    done = slurm("plan", *words, cwd=checkout, WANDB_API_KEY="x" * 40)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_log_that_is_no_file_is_not_waited_for(make: Callable[[Path], None], earlier: bool, tmp_path: Path) -> None:
    odd = tmp_path / "odd.log"
    make(odd)
    program = (
        "import sys; from pathlib import Path; from launcher.logs import follow; from launcher.progress import Job\n"
        "odd, other = map(Path, sys.argv[1:3]); job = Job(job_id='7', state='RUNNING', ended=False)\n"
        "follow(other, lambda: job, before=[odd]) if sys.argv[3] == 'True' else follow(odd, lambda: job)"
    )
    words = [sys.executable, "-c", program, str(odd), str(tmp_path / "other.log"), str(earlier)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert done.stdout == "" and f"ConfigError: {odd} cannot be read (" in done.stderr


def test_data_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"^DATA={path}: cannot be read \\(a pipe or a device, and no file\\)"):
            data_files(str(path))
    os.close(held)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("tokenizer.json", os.mkfifo, "tokenizer.json is no file"),
        ("chat_template.jinja", os.mkfifo, "chat_template.jinja is no file"),
        ("additional_chat_templates/tools.jinja", os.mkfifo, "tools.jinja is no file"),
        ("model.safetensors", os.mkfifo, "model.safetensors is no file"),
        ("tokenizer.model", lambda path: os.symlink("/dev/zero", path), "tokenizer.model is no file"),
        ("config.json", os.mkdir, "config.json is no file"),
        ("notes.txt", os.mkfifo, "notes.txt is no file"),
        ("notes", os.mkfifo, "notes is no file"),
        ("vocab.json", lambda path: _sparse(path, 257 * MIB), "vocab.json is longer than 256 MiB"),
        *(
            (
                "generation_config.json",
                lambda path, name=name: Path(path).write_text(json.dumps({name: [7] * 30_000})),
                "generation_config.json is longer than 64 KiB",
            )
            for name in ("suppress_tokens", "eos_token_id", "bad_words_ids")
        ),
        (
            "config.json",
            lambda path: Path(path).write_text(json.dumps({str(n): n for n in range(300_000)})),
            "config.json is longer than 4096 KiB",
        ),
        *(
            (
                "config.json",
                lambda path, to=to: Path(path).write_text(json.dumps({"transformers_weights": to})),
                "config.json names files outside of the folder",
            )
            for to in ("../b/model.safetensors", "/home/ada/model.safetensors")
        ),
        *(
            (
                "model.safetensors.index.json",
                lambda path, to=to: Path(path).write_text(json.dumps({"weight_map": {"w": to}})),
                "model.safetensors.index.json names files outside of the folder",
            )
            for to in ("../b/model.safetensors", "/home/ada/model.safetensors", "a/../../b.safetensors")
        ),
    ],
)
def test_what_a_models_folder_holds_is_looked_at_before_a_library_reads_it(
    name: str, make: Callable[[str], object], said: str, tmp_path: Path
) -> None:
    """An adapter's folder likewise: a library waits for a pipe, and follows an index into other folders."""
    for harmless in ("additional_chat_templates", "logs.txt", "tokenizer"):
        (tmp_path / harmless).mkdir()
    _sparse(str(tmp_path / "records.json"), 257 * MIB)  # which no library opens
    for whole, text in (
        ("model.safetensors.index.json", '{"weight_map": {"w": "model.safetensors"}}'),
        ("x.json", "["),
    ):
        (tmp_path / whole).write_text(text)
    (tmp_path / "lost.json").symlink_to("nowhere")
    assert check_model(str(tmp_path)) == f"{tmp_path} is here or can be had"
    (tmp_path / name).unlink(missing_ok=True)
    make(str(tmp_path / name))
    with pytest.raises(ConfigError, match=f"{re.escape(said)}: download it again"):
        check_model(str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_adapter(tmp_path)


@pytest.mark.parametrize("weights", [True, False])
def test_a_hub_cache_that_others_may_write_is_looked_at_likewise(
    weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--org--shared" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--shared" / "refs").mkdir()
    (tmp_path / "models--org--shared" / "refs" / "main").write_text("abc")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    assert check_model("org/shared", weights=weights) == "org/shared is here or can be had"
    os.mkfifo(snapshot / "tokenizer.json")
    said = f"in the hub cache tokenizer.json is no file: remove {snapshot}, and download it again"
    with pytest.raises(ConfigError, match=f"^MODEL=org/shared: {re.escape(said)}$"):
        check_model("org/shared", weights=weights)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../../../mine.safetensors"}}')
    with pytest.raises(ConfigError, match=r"names files outside of the folder: remove"):
        check_model("org/shared", weights=weights)


def _sparse(path: str, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def test_the_files_by_which_a_kept_shape_or_length_is_found_are_not_waited_for(tmp_path: Path) -> None:
    """A login node reads a model's own files and the hub's cache, which a group may share."""
    (model := tmp_path / "model").mkdir()
    before = processor_digest(model)
    os.mkfifo(model / "tokenizer.json")
    os.symlink("/dev/zero", model / "chat_template.jinja")
    assert processor_digest(model) == before
    (refs := tmp_path / "models--a--b" / "refs").mkdir(parents=True)
    os.mkfifo(refs / "main")
    assert cached_config("a/b", {"HF_HUB_CACHE": str(tmp_path)}) is None


@pytest.mark.slow
def test_a_line_without_an_end_is_named_by_its_number(tmp_path: Path) -> None:
    with (tmp_path / "d.jsonl").open("wb") as file:
        file.write(b'{"messages": []}\n')
        file.truncate(3 * MOST_MIB * MIB)
        file.seek(0, os.SEEK_END)
        file.write(b"\n[]\n")
    said = r"0 of 3 records would be left: .* of turns \(d.jsonl line 1;.* is longer than 64 MiB, .* \(d.jsonl line 2\)"
    with pytest.raises(ConfigError, match=said):
        load_dataset(str(tmp_path / "d.jsonl"))
    with (tmp_path / "d.jsonl").open("rb") as file:
        first, second, third = map(len, bounded_lines(file))
    assert (first, second, third) == (17, MOST_MIB * MIB + 1, 3)
    with pytest.raises(FormError, match=f"^ is longer than {MOST_MIB} MiB"):
        read_line(bytes(MOST_MIB * MIB + 1))


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, f"{'[' * 900}{']' * 900}", "[[" * 50 + "]]" * 50])
def test_json_that_nests_too_deep_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=f"it nests deeper than {MOST_DEPTH} levels"):
        parse_json(text)
    deepest: Any = json.loads("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert parse_json(json.dumps(deepest)) == deepest


@pytest.mark.parametrize(
    "damage",
    ["deep", "900 deep", "long", "pipe", "zero", "folder", "record pipe", "record zero", "trial pipe", "trial folder"],
)
def test_one_damaged_run_does_not_hide_the_others(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run_id in ("good", "bad"):
        folder = tmp_path / "runs" / run_id
        (folder / "logs").mkdir(parents=True)
        write_record(folder, run_record(make_plan(run_id=run_id)))
    bad = tmp_path / "runs" / "bad"
    if "deep" in damage:
        text = DEEP if damage == "deep" else "[" * 900 + "]" * 900
        record = json.loads((bad / "run.json").read_text())
        (bad / "run.json").write_text(text if damage == "deep" else json.dumps(record)[:-1] + f', "more": {text}}}')
        (bad / "metrics.json").write_text(text)
    if damage == "long":
        for name in ("run.json", "metrics.json"):
            with (bad / name).open("ab") as file:
                file.truncate(3 * 1024 * MIB)
    if damage.startswith("record"):
        (bad / "run.json").unlink()
    name = {"record": "run.json", "trial": "trial.json"}.get(damage.partition(" ")[0], "progress.json")
    progress, damage = bad / name, damage.removeprefix("record ").removeprefix("trial ")
    ways: dict[str, Any] = {"pipe": os.mkfifo, "zero": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}
    ways.get(damage, Path.touch)(progress)
    verbs.list_runs({}, {}, tmp_path)
    rows = {line.split()[0]: line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows == {
        "good": "-",
        "bad": "BROKEN" if damage in ("deep", "900 deep", "long") or progress.name == "run.json" else "-",
    }
    verbs.status({"RUN": "good"}, {}, tmp_path)
    assert capsys.readouterr().out.startswith("run    good\n")
    assert read_progress(bad) is None
    if "deep" in damage:
        with pytest.raises(ConfigError, match=f"run.json is not JSON \\(it nests deeper than {MOST_DEPTH} levels\\)"):
            verbs.status({"RUN": "bad"}, {}, tmp_path)


@pytest.mark.slow
def test_the_longest_record_is_64_mib(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_bytes(b"[" + b" " * (MOST_MIB * MIB - 2) + b"]")
    assert read_json(tmp_path / "metrics.json") == []
    (tmp_path / "metrics.json").write_bytes(b"[" + b" " * (MOST_MIB * MIB - 1) + b"]")
    with pytest.raises(ValueError, match=f"^it is longer than {MOST_MIB} MiB$"):
        read_json(tmp_path / "metrics.json")
    assert read_result(tmp_path) is None


def test_other_records_that_nest_too_deep_are_damaged_like_any(tmp_path: Path) -> None:
    for name in ("metrics.json", "sweep.json", "attempts.json", "manifest.json"):
        (tmp_path / name).write_text(DEEP)
    assert read_result(tmp_path) is None
    assert count_attempt(tmp_path, 1) == 0
    assert check_manifest(tmp_path).startswith("manifest.json cannot be read: it nests deeper than")
    with pytest.raises(ConfigError, match=r"is not what was written \(it nests deeper than"):
        read_sweep(tmp_path)


@pytest.mark.parametrize(
    "text", ["{{ 'x' * 4000000000 }}", "{{ 'x' | center(3000000000) }}", "{{ '%3000000000d' % 1 }}"]
)
def test_a_template_that_wants_all_memory_is_named(text: str) -> None:
    import resource

    from jinja2.sandbox import ImmutableSandboxedEnvironment

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrlimit(resource.RLIMIT_AS)
    said = r"^the model's chat template wants more than 2 GiB for one record: look into"
    with pytest.raises(ConfigError, match=said), template.bounded():
        ImmutableSandboxedEnvironment().from_string(text).render()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[0] < 200_000  # KiB
    assert resource.getrlimit(resource.RLIMIT_AS) == before[1]


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.slow
def test_a_chat_template_without_an_end_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data.inspection import inspect_dataset
    from trainer.data.records import Dataset, load_dataset
    from trainer.model.base import load_processor

    monkeypatch.setattr(template, "TEMPLATE_S", 0.3)
    processor = load_processor(str(tiny_model))
    data = tiny_model.parent / "one.jsonl"
    data.write_text('{"image": null, "context": "", "question": "?", "output": "up"}\n' * 2)
    dataset: Dataset = load_dataset(str(data), text_only=True)
    assert inspect_dataset(dataset, processor, max_length=512)
    processor.chat_template = ENDLESS
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"^the model's chat template took more than 0.3 s for one record, and may"):
        inspect_dataset(dataset, processor, max_length=512)
    with pytest.raises(ConfigError, match="chat template took more than"):
        examples.encode(processor, dataset.train[0])
    with pytest.raises(ConfigError, match="chat template took more than"):
        endings.describe_end(processor)
    assert time.monotonic() - began < 20

    class Slow:
        def apply_chat_template(self, *_: object, **__: object) -> str:
            time.sleep(0.2)  # some seven times in one call
            return "x"

    monkeypatch.setattr(template, "TEMPLATE_S", 3.0)
    for slow in (Slow(), Slow(), Slow()):  # each has its time anew
        assert endings.render_answer(slow, [], "") == ("x", "")


@pytest.mark.parametrize("name", ["metrics.json", "predictions.jsonl", "run.json"])
def test_a_report_waits_for_no_pipe(name: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    write_run(run)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    if name == "metrics.json":
        with pytest.raises(ConfigError, match="report takes the folder of a finished run"):
            report([str(run)])
    else:
        assert report([str(run)]) == 0
    assert [row.state for row in read_rows(run.parent)[0]] == (["BROKEN"] if name == "run.json" else [])


@pytest.mark.parametrize(
    ("begin", "more", "end"),
    [("<", "image_", ""), ("[", "img_", ""), ("<image ", "9", ""), ("", "![", "]("), ("", "<video>", "</video>")],
)
def test_a_word_without_an_end_is_soon_seen_to_be_no_place_of_a_picture(
    begin: str, more: str, end: str, tmp_path: Path
) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    record = {"image": "a.png", "question": begin + more * 16_000 + end, "output": "up"}
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    began = time.process_time()
    assert len(load_dataset(str(tmp_path / "d.jsonl"), eval_fraction=0).train) == 1
    assert time.process_time() - began < 2
