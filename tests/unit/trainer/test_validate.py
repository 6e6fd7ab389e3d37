"""The check of a whole data set: what is left out and why, what is counted, and what the plan takes from it."""

from __future__ import annotations

import html
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from training import run_forked, train_forked

from planner.request.resolve import resolve
from trainer import __version__
from trainer.__main__ import main
from trainer.commands import command
from trainer.config import TrainConfig
from trainer.data.inspection import Inspection, inspect_dataset
from trainer.data.lengths import (
    Lengths,
    data_digest,
    lengths_path,
    percentiles,
    processor_digest,
    read_lengths,
    sample_pictures,
    write_lengths,
)
from trainer.data.records import load_dataset
from trainer.outcome import ConfigError
from trainer.report.data_page import _shares, _spread
from trainer.tools.data_report import build_report, measured, render, unscored
from trainer.training.first_checks import drop_unfit
from trainer.training.kept_inspection import InspectionResult

WHOLE = "; answer_field: none learns and scores answers as whole texts"
UP, DOWN = '{"button": "up"}', '{"button": "down"}'


def row(image: str | None, question: str, output: str = UP, **beside: Any) -> dict[str, Any]:
    return {"image": image, "context": "", "question": question, "output": output, **beside}


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Every fault once, beside four good records."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    for name, size in (("a.png", (96, 64)), ("copy.png", (96, 64)), ("b.png", (64, 64))):
        Image.new("RGB", size, "blue").save(folder / name)
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    frames = {k: v for k, v in row(None, "grid").items() if k != "image"}
    train = [
        row("a.png", "one", session="s1"), row("a.png", "two", DOWN, session="s1"), row(None, "three"),
        row("copy.png", "one", DOWN),  # the first one's pixels and words, another answer
        row("empty.png", "q"), row("cut.png", "q"),
        {**frames, "frames": ["a.png", "a.png", "b.png", "a.png"]},
        row("a.png", "what does <start_of_turn> mean?"), row("a.png", "a <image_soft_token>", DOWN),
        row(None, "q<end_of_turn>"), row("a.png", "<bos>"), row("b.png", "q", "up"), row("a.png", "why? " * 90),
        row("b.png", "leaked"),
    ]  # fmt: skip
    for name, rows in (("train", train), ("eval", [row("b.png", "leaked"), row("b.png", "other")])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return folder


@pytest.fixture
def inspected(faulty: Path, tiny_model: Path) -> Inspection:
    from transformers import AutoProcessor

    return inspect_dataset(load_dataset(str(faulty)), AutoProcessor.from_pretrained(tiny_model), max_length=200)


def test_every_fault_is_named_and_left_out(inspected: Inspection, faulty: Path) -> None:
    longest = max(checked.tokens for checked in inspected.checked["train"])
    cut = next(c.detail for c in inspected.checked["train"] if "cut.png" in c.detail)
    assert cut.startswith(f"{faulty}/cut.png")
    assert inspected.left_out() == [
        f"1 of 14 train records left out: a picture does not open (train.jsonl line 5; the first: {faulty}/empty.png "
        "is no image (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM or AVIF), 0 bytes)",
        f"1 of 14 train records left out: a picture does not open (train.jsonl line 6; the first: {cut})",
        f"1 of 14 train records left out: frames of different sizes (train.jsonl line 7; the first: {faulty}/a.png)",
        "4 of 14 train records left out: the text holds a marker of the model's own (train.jsonl line 8, train.jsonl "
        "line 9, train.jsonl line 10 and 1 more; the first: <start_of_turn>)",
        "1 of 14 train records left out: the answer is no JSON object, as most are (train.jsonl line 12; the first: "
        f"up{WHOLE})",
        f"1 of 14 train records left out: longer than max_length (200 tokens; MAX_LENGTH={longest} keeps them; "
        "train.jsonl line 13)",
        "1 of 14 train records left out: also among the held-out records (train.jsonl line 14)",
    ]
    kept = inspected.kept()
    assert [r.prompt for r in kept.train] == ["one", "two", "three", "one"]
    assert [r.prompt for r in kept.eval] == ["leaked", "other"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else for a moment")
def test_a_picture_that_may_not_be_read_is_left_out(tiny_model: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model)
    # Not below pytest's own folder, which is closed to others anyway.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Image.new("RGB", (64, 64)).save(closed := Path(folder, "closed.png"))
        closed.chmod(0o600)
        rows = [row(None, "one"), row(None, "two"), row(str(closed), "three")]
        Path(folder, "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
        os.seteuid(65534)
        try:
            inspection = inspect_dataset(load_dataset(folder, eval_fraction=0), processor, max_length=200)
        finally:
            os.seteuid(0)
    assert inspection.left_out() == [
        "1 of 3 train records left out: a picture does not open (train.jsonl line 3; the first: "
        f"{closed}: Permission denied)"
    ]


def test_an_answer_too_deep_to_read_is_left_out(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoProcessor

    rows = [row(None, "one"), row(None, "two"), row(None, "three", '{"a":' + "[" * 5000)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    processor = AutoProcessor.from_pretrained(tiny_model)
    inspection = inspect_dataset(
        load_dataset(str(tmp_path), eval_fraction=0, text_only=True), processor, max_length=200
    )
    assert inspection.left_out() == [
        "1 of 3 train records left out: the answer is no JSON object, as most are (train.jsonl line 3; the first: "
        '{"a":' + "[" * 55 + f"{WHOLE})"
    ]


@pytest.mark.parametrize(
    ("train", "held_out", "shown"),
    [(100, 50, (9, 3)), (13, 0, (12, 0)), (17, 1, (11, 1)), (4, 30, (4, 8)), (2, 3, (2, 3))],
)
def test_the_page_shows_twelve_records_where_there_are_so_many(
    train: int, held_out: int, shown: tuple[int, int]
) -> None:
    shares = _shares(train, held_out)
    assert (shares["train"], shares["eval"]) == shown
    chosen = _spread(range(train), shares["train"])  # type: ignore[arg-type]
    assert (len(set(chosen)), len(chosen)) == (shown[0], shown[0])


def test_answers_as_whole_texts_leave_none_out(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoProcessor

    rows = [row(None, "one"), row(None, "two", DOWN), row(None, "three", "plain words")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    config = TrainConfig(
        model=str(tiny_model), data=str(tmp_path), output_dir=str(tmp_path), run_id="r", text_only=True,
        eval_fraction=0, max_length=200, answer_field="none",
    )  # fmt: skip
    found = load_dataset(str(tmp_path), eval_fraction=0, text_only=True)
    inspection = inspect_dataset(
        found, AutoProcessor.from_pretrained(tiny_model), max_length=200, answer_field=config.answer_field
    )
    report = build_report(config, inspection)
    assert (report["left_out"], report["answer_field"]) == ([], None)
    assert report["sides"]["train"]["labels"] == {UP: 1, DOWN: 1, "plain words": 1}


def test_what_is_left_out_of_the_held_out_records_leaks_nothing(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoProcessor

    sides = {"train": [row(None, "one"), row(None, "two")], "eval": [row(None, "one", "up"), row(None, "three")]}
    for name, rows in sides.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    processor = AutoProcessor.from_pretrained(tiny_model)
    inspection = inspect_dataset(load_dataset(str(tmp_path), text_only=True), processor, max_length=200)
    assert inspection.left_out() == [
        "1 of 2 eval records left out: the answer is no JSON object, as most are (eval.jsonl line 1; the first: "
        f"up{WHOLE})"
    ]


def test_duplicates_are_found_by_what_the_model_sees(inspected: Inspection) -> None:
    assert (inspected.duplicates("train"), inspected.duplicates("eval")) == ((1, 1), (0, 0))


def settings(data: Path) -> TrainConfig:
    return TrainConfig(model="m", data=str(data), output_dir="-", run_id="-")


def test_labels_are_counted_on_what_is_kept_with_the_majority(inspected: Inspection, faulty: Path) -> None:
    report = build_report(settings(faulty), inspected)
    train = report["sides"]["train"]
    assert (train["labels"], train["majority_share"]) == ({"up": 2, "down": 2}, 0.5)
    assert report["sides"]["eval"]["labels"] == {"up": 2}
    assert report["picture_sizes"] == {"96x64": 2, "64x64": 1}
    assert (train["records"], train["kept"], train["sessions"], train["text_only"]) == (14, 4, 1, 2)
    lines = render(report).splitlines()
    assert lines[0] == f"data    {faulty} (eval.jsonl)"
    assert "up      2 (50.0%)  2 (100.0%)" in lines


@pytest.mark.parametrize(
    ("field", "actions", "notes"),
    [
        ("button", "auto", []),
        (
            "button",
            "down,upp",
            ["2 of 2 held-out answers have actions that cannot be chosen: up (see answer_field and actions)"],
        ),
        ("why", "auto", ["actions cannot be scored: 0 different actions in the training answers, not 2 to 64"]),
    ],
)
def test_what_cannot_be_scored_is_told_before_a_run(
    field: str, actions: str, notes: list[str], inspected: Inspection, tiny_model: Path
) -> None:
    from transformers import AutoProcessor

    assert unscored(AutoProcessor.from_pretrained(tiny_model), inspected, field, actions) == notes


def test_actions_that_a_run_would_refuse_are_refused_by_the_look_at_the_data(
    inspected: Inspection, tiny_model: Path
) -> None:
    from transformers import AutoProcessor

    with pytest.raises(ConfigError, match=r"^actions=foo,bar: no training answer has any of them; they have down, up$"):
        unscored(AutoProcessor.from_pretrained(tiny_model), inspected, "button", "foo,bar")


def test_nothing_left_to_train_on_is_refused(faulty: Path, tiny_model: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model)
    with pytest.raises(
        ConfigError, match=r"^0 of 14 train records would be left: .*longer than max_length \(16 tokens"
    ):
        inspect_dataset(load_dataset(str(faulty)), processor, max_length=16).kept()


def test_a_record_on_which_the_tokenizer_gives_up_is_left_out_and_a_run_of_these_alone_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    """tokenizers ends an expression that would match for ever by a panic of Rust's, which is no Exception."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model)
    processor.tokenizer.backend_tokenizer.pre_tokenizer = Split(Regex("(b+)+$"), "isolated")
    endless = row(None, f"{'b' * 60}!")
    for good, said in ((row(None, "q"), "1 of 2"), (endless, "2 of 2")):
        (tmp_path / "d.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(endless)}\n")
        dataset = load_dataset(str(tmp_path / "d.jsonl"), eval_fraction=0, text_only=True)
        inspected = inspect_dataset(dataset, processor, max_length=200)
        (line,) = inspected.left_out()
        assert line.startswith(f"{said} train records left out: the processor refuses it (d.jsonl line ")
        assert "Onig" in line
    with pytest.raises(ConfigError, match=r"^0 of 2 train records would be left: 2 of 2"):
        inspected.kept()


def validate(tmp_path: Path, *argv: str) -> tuple[int, str]:
    ended = run_forked(tmp_path, main, ["validate", "data", *argv])
    return ended.codes[0], ended.output


@pytest.mark.slow
def test_the_command_ends_with_0_or_strictly_with_78(faulty: Path, tiny_model: Path, tmp_path: Path) -> None:
    argv = ("--model", str(tiny_model), "--data", str(faulty), "--max_length=200")
    code, output = validate(tmp_path / "a", *argv, "--json")
    report = json.loads(output[output.index("{\n") :])
    assert code == 0
    assert report["lengths_file"] == str(faulty / "lengths.json")
    assert len(report["left_out"]) == 7
    page = (faulty / "data.html").read_text()
    assert report["page"] == str(faulty / "data.html")
    assert all(html.escape(line, quote=False)[:60] in page for line in report["left_out"])
    assert (page.count("<article>"), page.count('src="data:image/')) == (6, 5)
    assert "trained (" in page and "masked (" in page
    code, output = validate(tmp_path / "b", *argv, "--strict")
    assert code == 78
    assert output.splitlines()[-1].startswith("trainyard: strict: 1 of 14 train records left out: a picture")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], f"validate what? environment, model, data, pipeline, all: {command('trainer', 'validate', 'all')}"),
        (["modell"], "unknown 'modell', did you mean model? known are environment, model, data, pipeline, all"),
        (["data", "--data", "x"], "lacking --model: for example --model google/gemma-3-4b-it"),
        (["data", "--modell", "x"],
         "unknown '--modell', did you mean model? python -m trainer config --help lists all"),
        (["data", "model"], "unexpected 'model': options are written --name value or --name=value"),
        (["data", "--max_length", "0"], "--max_length=0: takes a whole number from 16 to 1048576"),
        (["data", "--model", "m", "--data", "/no/where"],
         "--data=/no/where: does not exist: give a file of JSON records, or a folder with train.jsonl"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line_and_78(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *argv]) == 78
    assert capsys.readouterr().err == f"trainyard: {message}\n"


def test_five_sizes_of_pictures_are_listed_and_the_others_counted(inspected: Inspection, faulty: Path) -> None:
    report = build_report(settings(faulty), inspected)
    for count, more in ((5, ""), (6, " and 1 other sizes"), (9, " and 4 other sizes")):
        sizes = {f"{n}x{n}": 2 for n in range(count)}
        listed = "0x0 (2), 1x1 (2), 2x2 (2), 3x3 (2), 4x4 (2)"
        assert render({**report, "picture_sizes": sizes}).splitlines()[1] == f"images  {listed}{more}"


def test_percentiles_are_values_that_occur() -> None:
    assert percentiles([5]) == {"p50": 5, "p90": 5, "p95": 5, "p99": 5, "p100": 5}
    assert percentiles(range(1, 201)) == {"p50": 100, "p90": 180, "p95": 190, "p99": 198, "p100": 200}


GEMMA = "google/gemma-3-4b-it"


def keep_lengths(data: Path, longest: int, *, model: str = GEMMA, learn: str = "all") -> Lengths:
    lengths = Lengths(
        model=model, data_sha256=data_digest(str(data)), records=2, tokens={"p100": longest},
        supervised={"p100": 40}, learn=learn, pictures=2, trainyard=__version__, processor_sha256=None,
        picture_bytes={},
    )  # fmt: skip
    assert write_lengths(str(data), lengths) == lengths_path(str(data))
    return lengths


@pytest.mark.parametrize(
    ("given", "longest", "planned"),
    [
        ({}, 905, (912, "measured", 40, 2)),
        ({}, 3000, (1024, "MAX_LENGTH", 40, 2)),
        ({"MAX_LENGTH": "512"}, 905, (512, "MAX_LENGTH", 40, 2)),
        ({"MAX_LENGTH": "4096"}, 3000, (3000, "measured", 40, 2)),
    ],
)
def test_the_plan_is_made_for_the_measured_lengths(
    records: Path, given: dict[str, str], longest: int, planned: tuple[int, str, int, int]
) -> None:
    keep_lengths(records, longest)
    spec = resolve({"DATA": str(records), **given}, project_dir=Path("/"), environ={}, run_suffix="x")
    assert (
        spec.training.max_length,
        spec.sources.length_source,
        spec.records.supervised_tokens,
        spec.records.images_per_sample,
    ) == planned


def test_lengths_of_the_last_answers_are_not_taken_for_all(tmp_path: Path, records: Path) -> None:
    given, last = {"DATA": str(records), "CONFIG_FILE": "train.yaml"}, tmp_path / "train.yaml"
    for learn, kept, source in (
        ("all", "last", "MAX_LENGTH"),
        ("last", "last", "measured"),
        ("last", "all", "measured"),
    ):
        last.write_text(f"learn: {learn}\n")
        keep_lengths(records, 905, learn=kept)
        spec = resolve(given, project_dir=tmp_path, environ={}, run_suffix="x")
        assert (spec.sources.length_source, spec.records.supervised_tokens == 40) == (source, source == "measured")


def test_lengths_of_records_without_pictures_are_taken(records: Path) -> None:
    data = str(records / "train.jsonl")
    text = replace(keep_lengths(records / "train.jsonl", 905), pictures=0)
    write_lengths(data, text)
    assert read_lengths(data, GEMMA) == text
    write_lengths(data, replace(text, pictures=-1))
    assert read_lengths(data, GEMMA) is None


def test_lengths_of_other_data_or_another_model_are_not_taken(records: Path) -> None:
    lengths = keep_lengths(records / "train.jsonl", 905)
    data = str(records / "train.jsonl")
    assert lengths_path(data) == records / "train.jsonl.lengths.json"
    assert read_lengths(data, GEMMA) == lengths
    assert read_lengths(data, "google/gemma-3-12b-it") is None
    with (records / "train.jsonl").open("a") as file:
        file.write("\n")
    assert read_lengths(data, GEMMA) is None
    lengths_path(data).write_text("{}")
    assert read_lengths(data, GEMMA) is None


def test_lengths_hold_for_the_processor_the_pictures_and_the_trainyard_they_were_measured_with(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model, pictures = str(records / "train.jsonl"), tmp_path / "vlm", [tmp_path / f"{n}.png" for n in range(200)]
    model.mkdir()
    (model / "preprocessor_config.json").write_text('{"max_pixels": 100}')
    for picture in pictures:
        picture.write_bytes(b"small")
    kept = replace(
        keep_lengths(Path(data), 905, model="vlm"), processor_sha256=processor_digest(model),
        picture_bytes=sample_pictures(pictures),
    )  # fmt: skip
    write_lengths(data, kept)
    assert 50 <= len(kept.picture_bytes) <= 64
    assert read_lengths(data, "vlm", tmp_path) == kept
    assert read_lengths(data, "vlm", Path("/nowhere")) == kept, "a folder that is not here says nothing"
    (model / "preprocessor_config.json").write_text('{"max_pixels": 900}')
    assert read_lengths(data, "vlm", tmp_path) is None
    (model / "preprocessor_config.json").write_text('{"max_pixels": 100}')
    for picture in pictures[::3]:
        picture.unlink()
    assert read_lengths(data, "vlm", tmp_path) == kept, "pictures that are not here say nothing"
    for picture in pictures:
        picture.write_bytes(b"larger")
    assert read_lengths(data, "vlm", tmp_path) is None
    for picture in pictures:
        picture.write_bytes(b"small")
    assert read_lengths(data, "vlm", tmp_path) == kept
    monkeypatch.setattr("trainer.data.lengths.__version__", "0.0.9")
    assert read_lengths(data, "vlm", tmp_path) is None


def test_measured_lengths_count_the_too_long_records_as_well(inspected: Inspection, faulty: Path) -> None:
    found = measured(settings(faulty), inspected)
    assert found.tokens["p100"] > inspected.max_length
    assert (found.records, found.pictures, found.model) == (9, 1, "m")
    assert set(found.picture_bytes) == {f"{faulty}/{name}.png" for name in ("a", "b", "copy", "cut", "empty")}


def test_the_plan_says_when_its_length_was_measured(records: Path) -> None:
    from planner.choose import choose
    from planner.table import plan_table

    def first_line() -> str:
        plan = choose(resolve({"DATA": str(records)}, project_dir=Path("/"), environ={}, run_suffix="x"))
        return " ".join(plan_table(plan).split("\nmemory")[0].split())

    assert "1024 tokens a sample, on 1 GPU" in first_line()
    keep_lengths(records, 905)
    assert "912 tokens a sample (measured), on 1 GPU" in first_line()


@pytest.mark.slow
def test_the_trainer_leaves_out_the_same_records_and_shows_three_examples(
    tmp_path: Path, faulty: Path, tiny_model: Path, inspected: Inspection
) -> None:
    ended = train_forked(tmp_path, model=tiny_model, data=faulty, max_length=200, max_steps=1)
    assert ended.codes == (0,), ended.output
    lines = ended.output.splitlines()
    assert [line for line in lines if "left out" in line] == [f"data: {s}" for s in inspected.left_out()]
    assert [line for line in lines if line.startswith("example ")] == ["example 1", "example 2", "example 3"]
    shown = lines.index("example 1")
    assert lines[shown + 1].startswith("masked (") and lines[shown + 2].startswith("trained (")
    (whole,) = [line.partition(": ")[2] for line in lines if line.startswith("the whole examples: ")]
    assert Path(whole).read_text().startswith("\n".join(lines[shown : shown + 3]) + "\n\nexample 2\n")


@pytest.mark.slow
def test_a_strict_run_ends_with_78_on_every_rank(tmp_path: Path, faulty: Path, tiny_model: Path) -> None:
    ended = train_forked(tmp_path, model=tiny_model, data=faulty, max_length=200, strict=True, world_size=2)
    assert ended.codes == (78, 78), ended.output
    (said,) = [line for line in ended.output.splitlines() if line.startswith("trainyard: ")]
    assert said.startswith("trainyard: strict: 1 of 14 train records left out: a picture does not open (")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_only_the_first_rank_looks_at_the_records(faulty: Path) -> None:
    """Another rank takes what it is told, and needs no processor for it."""
    dataset = load_dataset(str(faulty))
    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-")
    told = InspectionResult({"train": set(), "eval": set()}, {"train": {0, 2}, "eval": set()}, ["2 of 11"], [70] * 9)
    other = SimpleNamespace(rank0_only=lambda work: told)
    said: list[str] = []
    kept, lengths = drop_unfit(None, dataset, config, other, said.append)
    assert kept.train == tuple(r for i, r in enumerate(dataset.train) if i not in (0, 2))
    assert (kept.eval, said, lengths) == (dataset.eval, ["data: 2 of 11"], [70] * 9)
