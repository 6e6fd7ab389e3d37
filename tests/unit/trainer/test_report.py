"""The report page: what it shows is what the run left, whatever that is."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tomllib
from finished_run import ANSWERS, TRUTHS, history, write_run

pytest.importorskip("PIL")

from paths import ROOT
from PIL import Image
from specs import make_spec

from launcher.records import run_record
from planner.choose import choose
from planner.request.resolve import resolve
from trainer.commands import CHECKOUT
from trainer.config import TrainConfig
from trainer.data.bounds import BOUNDS
from trainer.data.grid import compose_grid
from trainer.evaluation.metrics import action_metrics
from trainer.outcome import ConfigError
from trainer.report.charts import draw, matrix, nice_ticks, short, smooth
from trainer.report.circumstances import folded
from trainer.report.page import build_report, main, report_line
from trainer.report.samples import PICTURE_BYTES, SAMPLES, choose_samples, picture_uri
from trainer.results.card import model_card
from trainer.results.trained import Usage

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced and keeps the text, the pictures and the attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.references: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(f"{text} " for text in self.texts).split())


def _frames(folder: Path, count: int = 4) -> list[str]:
    paths = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.new("RGB", (20, 12), (60 * index, 90, 200)).save(path)
        paths.append(str(path))
    return paths


def test_what_other_programs_read_keeps_its_names(tmp_path: Path) -> None:
    record = json.loads((write_run(tmp_path) / "metrics.json").read_text())
    assert list(record) == [
        "format", "config", "answer_field", "step", "before", "after", "generated_before", "generated_after", "train",
        "history", "data", "versions", "peak_memory", "provenance",
    ]  # fmt: skip
    assert list(record["after"]) == [
        "samples", "accuracy", "valid_json", "macro_f1", "majority", "majority_accuracy", "per_action", "confusion",
    ]  # fmt: skip
    assert list(record["after"]["per_action"]["up"]) == ["precision", "recall", "f1", "count"]
    assert record["format"] == 1


def _change_answer(run_dir: Path, **changes: Any) -> None:
    path = run_dir / "predictions.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **changes}), *rest]))


def test_headline_numbers_equal_the_metrics(tmp_path: Path) -> None:
    """Accuracy before and after, the baseline, F1, loss, time: as recorded, in words and numbers."""
    text = Page(build_report(write_run(tmp_path))).text
    assert "acme/tiny-vl , fine-tuned with QLoRA on 4-bit (NF4) weights, rank 64: 1,500 steps of 32 records on " in text
    assert (
        "Action accuracy 30.0% → 85.0% After training 17 of 20 held-out answers are right (95 % interval: 64.0 to "
        '94.8%), 45.0 points above always answering "up" (40.0%). '
        'base model, zero-shot 30.0% 14.5 to 51.9% always "up" 40.0% after training 85.0% 64.0 to 94.8% '
        "Few records were held out. With 20 answers the accuracy is known to within 64.0 to 94.8% only; smaller "
        "differences between runs mean nothing. With 100 answers it is known to 10 points or better. Hold out more "
        "records (an eval.jsonl beside train.jsonl , or more sessions). "
        "Macro F1 0.15 → 0.88 Readable answers 100.0% → 95.0% Loss 3 → 1.25 "
        "Training time 1 min 52 s Adapter of step 3 of 1,500 Records a second 0.5 Tokens a second 330 "
        "Peak memory (RSS) 1.50 GiB"
    ) in text
    assert "Data set sha256 abc123 Versions torch 2.13.0" in text
    assert "held out 2" not in text and "MFU" not in text


def test_pictures_are_shown_up_to_the_size_that_the_run_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BOUNDS, "megapixels", 1)
    run = write_run(tmp_path)
    record = json.loads((run / "metrics.json").read_text())
    record["config"]["max_image_megapixels"] = 200
    (run / "metrics.json").write_text(json.dumps(record))
    build_report(run)
    assert BOUNDS.megapixels == 200


def test_neither_page_nor_card_calls_plain_text_valid_json(tmp_path: Path) -> None:
    scores = dataclasses.asdict(action_metrics(TRUTHS, ANSWERS, in_json=False))
    data = {"sha256": "abc123", "split": "eval.jsonl", "train": 9, "eval": 20, "frames": 1}
    memory = {"bytes": 1, "of": "resident memory"}
    run = write_run(tmp_path, before=scores, after=scores, answer_field=None, data=data, peak_memory=memory)
    assert "Readable answers" not in Page(build_report(run)).text
    usage = Usage(
        device="cpu", quantization="nf4", answer_field=None, choices=None, answer_tokens=9, frames=1, context="",
        question=None,
    )  # fmt: skip
    card = model_card(json.loads((run / "metrics.json").read_text()), Path("runs/r1/adapter"), usage)
    assert f"| 85.0% (64.0 to 94.8%) | 85.0% (64.0 to 94.8%) | {scores['macro_f1']:.3f} | - |" in card


def test_evaluations_on_the_way_are_curves_that_begin_at_the_base_model(tmp_path: Path) -> None:
    evaluations = [
        {"step": step, "eval_loss": loss, "eval_action_accuracy": accuracy}
        for step, loss, accuracy in ((5, 2.0, 0.5), (10, 1.5, 0.75))
    ]
    page = build_report(write_run(tmp_path, history=[*history([3.0, 2.0]), *evaluations]))
    assert 'aria-label="Action accuracy, held out from 30% to 75%"' in page
    assert 'aria-label="Loss, training from 3 to 2, held out from 2 to 1.5"' in page
    assert "step 3 is kept" in page  # on the loss and the accuracy, which it was chosen by
    assert page.count('class="mark"') == 2 and page.count('class="band"') == 1


def test_scored_and_written_out_stand_side_by_side(tmp_path: Path) -> None:
    """The zero-shot score is the first row; valid answers are counted where they were written; both have tables."""
    generated = {
        "generated_before": dataclasses.asdict(action_metrics(TRUTHS[:10], [None] * 10)),
        "generated_after": dataclasses.asdict(action_metrics(TRUTHS[:10], [*TRUTHS[:9], None])),
    }
    run_dir = write_run(tmp_path, **generated)
    path = run_dir / "predictions.jsonl"
    entry = {"truth": "up", "prediction": "a", "probabilities": {"up": 0.2, "a": 0.5, "left": 0.3}}
    path.write_text(json.dumps(entry) + "\n")
    text = Page(build_report(run_dir)).text
    assert (
        "The model also wrote out 10 answers: 90.0% have the right one. base model, zero-shot 30.0% 14.5 to 51.9% "
        'always "up" 40.0% after training 85.0% 64.0 to 94.8% The 10 answers that were written out '
        "zero-shot, written out 0.0% 0.0 to 27.8% after training, written out 90.0% 59.6 to 98.2%"
    ) in text
    assert "Readable answers 0.0% → 90.0%" in text
    assert "truth up model a a 50%, left 30%, up 20%" in text
    table = text[text.rindex("Action Answers Precision") : text.rindex("Held-out answers")]
    assert table.split()[8:] == [
        *["up", "8", "100.0%", "100.0%", "0.00", "1.00"],
        *["a", "2", "100.0%", "50.0%", "0.00", "0.67"],
    ]


def test_action_table_equals_the_metrics(tmp_path: Path) -> None:
    """Precision, recall and F1 of every action, most frequent first."""
    text = Page(build_report(write_run(tmp_path))).text
    table = text[text.index("Action Answers Precision") : text.index("Held-out answers", text.index("F1 after"))]
    assert table.split() == [
        *["Action", "Answers", "Precision", "Recall", "F1", "before", "F1", "after"],
        *["up", "8", "88.9%", "100.0%", "0.00", "0.94"],
        *["a", "6", "100.0%", "83.3%", "0.46", "0.91"],
        *["left", "6", "100.0%", "66.7%", "0.00", "0.80"],
    ]


def test_matrix_has_every_answer_in_one_cell_and_row_totals(tmp_path: Path) -> None:
    """The true actions, then answers that are none of them, then unreadable ones, then the total."""
    text = Page(build_report(write_run(tmp_path))).text
    assert (
        "After training truth ↓ answer → up a left b (unreadable) all "
        "up 8 0 0 0 0 8 a 0 5 0 0 1 6 left 1 0 4 1 0 6 Action Answers Precision"
    ) in text


def test_matrix_of_very_many_actions_folds_the_rare_ones(tmp_path: Path) -> None:
    """Plain-text answers can make every record its own action; the page stays readable."""
    truths = [f"t{i:03}" for i in range(100)]
    run_dir = write_run(tmp_path, before=None, after=dataclasses.asdict(action_metrics(truths, truths)))
    text = Page(build_report(run_dir)).text
    _, drawn, rest = text.partition("After training, the 12 most frequent of 100 actions truth ↓ answer → t000")
    matrix, _, table = rest.partition("Action Answers Precision")
    assert drawn and "t011 any other all" in matrix and "t012" not in matrix
    assert "t039" in table and "t040" not in table and "60 rarer actions are not shown." in table


def test_page_is_well_formed_and_reaches_for_nothing(tmp_path: Path) -> None:
    """Balanced tags, one script, which the policy names by its digest, and no reference that is not a data URI."""
    html = build_report(write_run(tmp_path, images=_frames(tmp_path)))
    page = Page(html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"script-src &#39;sha256-{digest}&#39;" in html
        and "unsafe-inline" not in re.findall('script-src[^;"]*', html)[0]
    )
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"url\(|@import|https?:", html)


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of the clock or of a hash order is in the page."""
    run_dir = write_run(tmp_path, images=_frames(tmp_path))
    assert build_report(run_dir) == build_report(run_dir)


def test_a_report_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    (run_dir / "report.html").mkdir()  # cannot be replaced by a file, as a full disk takes none
    said = report_line(run_dir)
    assert said.startswith("report:  not written (")
    found = re.search(rf"\); (\S*python -m trainer report {run_dir}) tries again$", said)
    assert found and not list(run_dir.glob(".report*"))
    (run_dir / "report.html").rmdir()
    done = subprocess.run(found[1], shell=True, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{run_dir}/report.html\n", 0), done.stderr
    (run_dir / "report.html").unlink()
    assert report_line(run_dir) == f"report:  {run_dir}/report.html"


def test_answers_are_escaped(tmp_path: Path) -> None:
    """An answer is shown as the text it is, even markup, control characters and half a surrogate pair."""
    hostile = "</pre><script>alert(1)</script>\x00\ud800\"'&"
    run_dir = write_run(tmp_path)
    _change_answer(run_dir, truth=hostile, prediction=hostile + "!", answer=hostile, images=[hostile])
    html = build_report(run_dir)
    page = Page(html)
    html.encode("utf-8")
    assert page.tags.count("script") == 1
    assert "</pre><script>alert(1)</script>\N{REPLACEMENT CHARACTER}?\"'&!" in page.text


def test_whatever_the_data_calls_an_action_is_shown_as_text(tmp_path: Path) -> None:
    """In the headline, the bars, the matrix and the table; in names and settings; names of Python's own included."""
    hostile = '"><script>\x07</script>\ud800'
    truths = [hostile] * 3 + ["items", "get", "", "{{ 7 * 7 }}"]
    scores = dataclasses.asdict(action_metrics(truths, [None] * 2 + truths[2:]))
    config = {**dataclasses.asdict(TrainConfig(model=hostile, data=hostile, output_dir="", run_id=hostile))}
    html = build_report(write_run(tmp_path, before=None, after=scores, generated_before=scores, config=config))
    page = Page(html)
    html.encode("utf-8")
    shown = '"><script>\N{REPLACEMENT CHARACTER}</script>?'
    assert page.tags.count("script") == 1 and f"Trainyard run {shown} {shown} , fine-tuned" in page.text
    table = page.text[page.text.index("Action Answers Precision") :]
    assert re.findall(r"(\S+) 1 100.0% 100.0% (\S+) 1.00", table)[:2] == [("items", "-"), ("get", "-")]
    assert f"{shown} 3 100.0% 33.3% - 0.50" in table and "(empty) 1 " in table and "{{ 7 * 7 }} 1 " in table


def test_samples_are_half_wrong_and_half_right_with_actions_by_turns() -> None:
    """Wrong ones come first; when one kind is scarce the other fills the page."""
    right = [{"truth": t, "prediction": t, "n": n} for n, t in enumerate("aaaaaaaab")]
    wrong = [{"truth": t, "prediction": None, "n": n} for n, t in enumerate("ccccccccd")]
    assert [(p["truth"], p["n"]) for p in choose_samples([*right, *wrong])] == [
        *[("c", 0), ("d", 8), ("c", 1), ("c", 2), ("c", 3), ("c", 4)],
        *[("a", 0), ("b", 8), ("a", 1), ("a", 2), ("a", 3), ("a", 4)],
    ]
    assert [p["prediction"] for p in choose_samples([*right, *wrong[:1]])] == [None, "a", "b", *"aaaaaaa"]
    assert choose_samples([*wrong, *wrong]) == choose_samples([*wrong, *wrong, *right][:18])


def test_four_frames_are_shown_as_the_grid_the_model_saw(tmp_path: Path) -> None:
    """The embedded PNG is trainer.grid's picture, enlarged by whole pixels."""
    paths = _frames(tmp_path)
    page = Page(build_report(write_run(tmp_path, images=paths)))
    pictures = [r for r in page.references if r.startswith("data:image/png;base64,")]
    assert len(pictures) == SAMPLES
    grid = compose_grid([Image.open(path) for path in paths])
    expected = grid.resize((480, 288), Image.Resampling.NEAREST)
    shown = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    assert (shown.format, shown.size) == ("PNG", (480, 288))
    assert shown.convert("RGB").tobytes() == expected.tobytes()


def test_pictures_that_compress_badly_are_made_smaller(tmp_path: Path) -> None:
    """Twelve photographs must not make a page that cannot be mailed."""
    path = tmp_path / "noise.png"
    Image.effect_noise((900, 600), 80).convert("RGB").save(path)
    uri = picture_uri([str(path)])
    assert uri is not None and len(uri) < PICTURE_BYTES * 4 / 3 + 100


@pytest.mark.parametrize("images", [[], ["/nowhere.png"], ["short"], ["text"], ["text"] * 3])
def test_a_picture_that_cannot_be_shown_is_said_to_be_missing(tmp_path: Path, images: list[str]) -> None:
    """Gone, truncated, no picture at all, or neither one nor four: a placeholder in its card."""
    whole = Path(_frames(tmp_path)[0]).read_bytes()
    (tmp_path / "short").write_bytes(whole[:40])
    (tmp_path / "text").write_text("no picture")
    page = Page(build_report(write_run(tmp_path, images=[str(tmp_path / name) for name in images])))
    assert page.text.count("picture not found") == SAMPLES and "data:image" not in str(page.references)


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    """No metrics and no predictions: every section says so."""
    (tmp_path / "x").mkdir()
    text = Page(build_report(tmp_path / "x")).text
    for said in (
        "Trainyard run x What was trained is not known",
        "Result Not scored",
        "Training No training steps were logged.",
        "Which actions No confusion matrix",
        "No answers to show",
        "This run has no adapter folder yet.",
        "Configuration The configuration was not recorded.",
    ):
        assert said in text


def test_files_cut_off_in_the_middle_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    """Half a line of predictions costs that line; half a metrics.json costs the metrics."""
    run_dir = write_run(tmp_path)
    with (run_dir / "predictions.jsonl").open("ab") as file:
        file.write(b'{"truth": "\xff", "prediction": "up"}\n{"truth": "up", "prediction": "up", "images": ["')
    text = Page(build_report(run_dir)).text
    assert "12 of 21 answers, the wrong ones first: 4 of all 21 are wrong" in text
    assert "truth \N{REPLACEMENT CHARACTER} model up" in text
    run_dir = write_run(tmp_path)
    for name in ("metrics.json", "predictions.jsonl"):
        path = run_dir / name
        path.write_text(path.read_text()[:-20])
    text = Page(build_report(run_dir)).text
    assert "12 of 19 answers, the wrong ones first: 2 of all 19 are wrong" in text and "Not scored" in text


def test_a_good_report_is_not_replaced_by_that_of_a_damaged_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = write_run(tmp_path)
    page = run_dir / "report.html"
    for words in ([str(run_dir)], ["--run", str(run_dir)]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"{page}\n"
    before, metrics = page.read_bytes(), run_dir / "metrics.json"
    metrics.write_text(metrics.read_text()[:-20])
    with pytest.raises(
        ConfigError, match=r"^report takes the folder of a finished run, with a whole metrics.json: for"
    ):
        main([str(run_dir)])
    assert page.read_bytes() == before


def test_a_report_that_cannot_be_made_yet_says_why(tmp_path: Path) -> None:
    unfinished = tmp_path / "runs" / "r"
    unfinished.mkdir(parents=True)
    (unfinished / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"r has no metrics.json: a run writes it at its end; make status says how"):
        main([str(unfinished)])
    with pytest.raises(ConfigError, match=r"none is no folder yet: make run DATA=\.\.\. trains, and makes it"):
        main([str(tmp_path / "none")])
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"/file is a file: report takes the folder of a run$"):
        main([str(tmp_path / "file")])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.json", '{"config": "x"}'),
        ("metrics.json", '{"history": [{"step": 1, "loss": "low"}]}'),
        ("metrics.json", '{"after": {"accuracy": 0.5, "samples": 2}}'),
        ("predictions.jsonl", '{"truth": "up", "prediction": "up", "images": 3}'),
    ],
)
def test_files_that_no_run_wrote_are_one_line(file: str, text: str, tmp_path: Path) -> None:
    (run_dir := tmp_path / "x").mkdir()
    write_run(run_dir)
    (run_dir / file).write_text(text)
    said = f"{run_dir}: metrics.json or predictions.jsonl is not what a run wrote ("
    with pytest.raises(ConfigError) as caught:
        main([str(run_dir)])
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert report_line(run_dir).startswith(f"report:  not written ({said}")
    assert not (run_dir / "report.html").exists()


def test_a_run_without_held_out_records_has_the_rest(tmp_path: Path) -> None:
    """before and after are null: no score, but the loss and the configuration."""
    run_dir = write_run(tmp_path, before=None, after=None)
    text = Page(build_report(run_dir)).text
    assert "Not scored: no held-out records were answered. Loss 3 → 1.25" in text and "lora_r 64" in text


def test_losses_that_are_not_numbers_leave_a_gap_and_are_told(tmp_path: Path) -> None:
    """NaN is the news of such a run, so it is neither drawn nor kept quiet."""
    run_dir = write_run(tmp_path, history=history([3.0, math.nan, math.inf, 1.0]))
    html = build_report(run_dir)
    assert "2 of 4 logged values are not finite numbers, first at step 10." in Page(html).text
    assert not re.search(r'd="[^"]*(nan|inf)', html)
    assert "of 1 logged values" in build_report(write_run(tmp_path, history=history([math.nan])))


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 3.08, 5, [0, 1, 2, 3, 4]),
        (0, 1.0, 4, [0, 0.25, 0.5, 0.75, 1]),
        (0, 2e-4, 4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(low: float, high: float, most: int, ticks: list[float]) -> None:
    """Axes end at or beyond their values, on numbers a person would choose."""
    assert nice_ticks(low, high, most) == ticks


@pytest.mark.parametrize(
    ("last", "ticks"),
    [
        (1, ["0", "1"]),
        (3, ["0", "1", "2", "3"]),
        (14, ["0", "5", "10"]),
        (1600, ["0", "500", "1,000", "1,500"]),
    ],
)  # fmt: skip
def test_steps_are_whole_and_no_tick_lies_beyond_the_last_one(last: int, ticks: list[str]) -> None:
    assert [label for _, label in drawn([(0, 1.0), (last, 2.0)])["x_ticks"]] == ticks


def test_a_curve_fills_its_square_and_is_broken_where_a_value_is_missing() -> None:
    """y runs down: 100 is the axis."""
    chart = drawn([(0, 4.0), (5, 2.0), (10, math.nan), (20, 1.0)])
    assert chart["lines"] == [("curve", 0, "M0 0h0L25 50M100 75h0")]
    assert chart["dots"] == [(0, 0, 0, "step 0: 4"), (0, 25, 50, "step 5: 2"), (0, 100, 75, "step 20: 1")]
    assert (chart["broken"], chart["mark"], chart["log"]) == ([10], None, False)


def test_two_curves_share_their_axes_and_the_kept_step_is_marked() -> None:
    chart = draw([("training", [(1, 8.0), (2, 4.0)], False), ("held out", [(2, 2.0), (4, 6.0)], False)], mark=2)
    assert chart["lines"] == [("curve", 0, "M25 0h0L50 50"), ("curve", 1, "M50 75h0L100 25")]
    assert chart["ends"] == [("training", "8", "4"), ("held out", "2", "6")]
    assert chart["mark"] == (50, "step 2 is kept")
    assert [label for _, _, _, label in chart["dots"]][-1] == "held out, step 4: 6"


@pytest.mark.parametrize(("kept", "marked"), [(0, True), (4, True), (5, False), (None, False), (True, False)])
def test_a_step_that_is_not_on_the_axis_is_not_marked(kept: int | None, marked: bool) -> None:
    assert bool(draw([("x", [(0, 1.0), (4, 2.0)], False)], mark=kept)["mark"]) is marked


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([10.0, 0.1], ["0.1", "1", "10"]),
        ([13.1, 0.003], ["1e-3", "0.01", "0.1", "1", "10", "100"]),
        ([1e8, 1e-8], ["1e-8", "1e-4", "1", "10,000", "1e8"]),
        ([10.0, 0.6], ["0", "2", "4", "6", "8", "10"]),  # not far apart
        ([10.0, 0.0], ["0", "2", "4", "6", "8", "10"]),  # has no logarithm
        ([math.nan], ["0", "1"]),
    ],
)
def test_an_axis_is_logarithmic_where_values_are_far_apart(values: list[float], ticks: list[str]) -> None:
    chart = draw([("loss", list(enumerate(values)), True)], log=True)
    assert [label for _, label in chart["y_ticks"]] == ticks
    heights = [y for y, _ in chart["y_ticks"]]
    assert heights == pytest.approx([100 - 100 * n / (len(ticks) - 1) for n in range(len(ticks))], abs=0.01)


def test_a_share_has_its_interval_as_a_band() -> None:
    """0 of 10 is 0 to 27.8 %, 10 of 10 is 72.2 to 100 %."""
    band = draw([("held out", [(0, 0.0), (1, 1.0)], False)], top=1, answers=10)["band"]
    assert band == "M0 72.25L100 0L100 27.75L0 100Z"


def test_smoothing_moves_nothing_sideways() -> None:
    """A straight line stays itself; a running mean of the past would lag behind it."""
    line = [3.0 * i for i in range(90)]
    assert smooth(line) == pytest.approx(line)


def test_numbers_are_short() -> None:
    """Three digits, an exponent only where it helps, and never a crash on NaN."""
    values = (0, 0.0002, 0.037, 3.08123, 1234.5, 1e9, math.nan)
    assert [short(v) for v in values] == ["0", "2e-4", "0.037", "3.08", "1,234", "1e9", "nan"]


def drawn(points: list[tuple[int, float]]) -> Any:
    return draw([("loss", points, False)])


def test_answers_beyond_the_allowed_have_columns_that_say_so(tmp_path: Path) -> None:
    """`b` was allowed and `jump` was not; neither is ever the truth."""
    confusion = {"up": {"up": 1, "a": 0, "b": 2, "jump": 1}, "a": {"up": 0, "a": 3, "b": 0, "jump": 0}}
    table = matrix(confusion, ["a", "up"], allowed=["up", "a", "b"])
    assert table["columns"] == [("a", True), ("up", True), ("b", True), ("jump", False)]
    assert table["rows"] == [
        ("a", [(3, True), (0, False), (0, False), (0, False)], 3),
        ("up", [(0, False), (1, True), (2, False), (1, False)], 4),
    ]


def test_actions_stand_in_one_order_everywhere(tmp_path: Path) -> None:
    """That of the scores which count, also where answers were written out for a part of the records."""
    written = dataclasses.asdict(action_metrics(["left", "left", "a", "up"], ["left", "left", "a", "up"]))
    text = Page(build_report(write_run(tmp_path, generated_after=written))).text
    part = text[text.index("Which actions, written out") :]
    assert "answer → up a left all" in part and re.search(r"up 1 .* a 1 .* left 2 ", part[part.index("F1 after") :])


def test_the_question_stands_once_where_all_records_ask_the_same(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    path = run_dir / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "prompt": "Which <b>?"}) + "\n" for line in lines))
    text = Page(build_report(run_dir)).text
    assert "Every record asks: Which <b>?" in text and text.count("Which <b>?") == 1
    path.write_text("".join(json.dumps({**line, "prompt": f"Door {n}?"}) + "\n" for n, line in enumerate(lines)))
    page = Page(build_report(run_dir))
    assert "Every record asks" not in page.text and page.text.count("Door 13?") == 2  # its card, its row
    assert [page.text.count(f"Door {n}?") >= 1 for n in range(20)] == [True] * 20


def test_every_held_out_answer_is_a_row_and_filters_need_no_script(tmp_path: Path) -> None:
    html = build_report(write_run(tmp_path))
    rows = re.findall(r'<tr class="(right|wrong)"><td>(\d+)</td>', html)
    assert [int(number) for _, number in rows] == list(range(1, 21))
    assert [kind for kind, _ in rows].count("wrong") == 3
    assert re.findall(r'<label for="show-(\w+)">([^<]*)</label>', html) == [
        ("all", "All (20)"), ("wrong", "Wrong (3)"), ("right", "Right (17)"),
    ]  # fmt: skip


def test_the_report_says_when_where_and_from_what_and_how_to_train_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "it's r1"
    run_dir.mkdir()
    provenance = {
        "began": "2026-11-29 20:11 UTC", "ended": "2026-11-29 23:26 UTC", "host": "n1", "hardware": "2 x NVIDIA A100",
        "git": {"commit": "0123456789abcdef", "dirty": True}, "wandb": "https://wandb.ai/team/p/runs/r1",
    }  # fmt: skip
    write_run(run_dir, provenance=provenance)
    plan = {
        "launch_argv": shlex.split("accelerate launch --num_machines 1 --output_dir o --run_id r1 --seed 0"),
        "env": {"A": "b c"},
    }
    (run_dir / "run.json").write_text(json.dumps({"plan": plan}))
    page = Page(build_report(run_dir))
    assert (
        "began 2026-11-29 20:11 UTC ended 2026-11-29 23:26 UTC on n1, 2 x NVIDIA A100 "
        "code commit 0123456789ab, with changes that are not committed "
        "W&B https://wandb.ai/team/p/runs/r1"
    ) in page.text
    assert {"https://wandb.ai/team/p/runs/r1", "../index.html"} <= set(page.references)
    again = page.text[page.text.index("Train it again") :]
    assert f"cd {CHECKOUT} && \\ env 'A=b c' " in again
    again = again.replace(" \\ ", " ")  # a line goes on behind it
    assert (
        "-m accelerate.commands.launch --num_machines 1 --output_dir" in again and "--seed 0 The same settings" in again
    )
    words = shlex.split(again[again.index("accelerate.commands") : again.index(" The same settings")])
    assert words[3:7] == ["--output_dir", f"{run_dir}-again", "--run_id", "it's r1-again"]


def test_a_long_command_is_one_of_the_shells_on_lines_that_can_be_read() -> None:
    parts = ["echo", *(shlex.join(["--name", f"it's {number}"]) for number in range(12))]
    text = folded(parts)
    assert max(map(len, text.split("\n"))) <= 102 and len(text.split("\n")) == 3
    said = [
        subprocess.run(["sh", "-c", line], capture_output=True, text=True).stdout for line in (text, " ".join(parts))
    ]
    assert said[0] == said[1] != ""


def test_a_run_of_several_machines_is_submitted_again(tmp_path: Path) -> None:
    spec = make_spec(
        nodes=2, gpus=4, vram_gib=40, data="/data/a b.jsonl", run_id="r1", name="r1", lora_r=16, lora_alpha=32,
        environment=(("NCCL_DEBUG", "INFO"),), account="team",
    )  # fmt: skip
    run_dir = tmp_path / "r1"
    run_dir.mkdir()
    write_run(run_dir)
    (run_dir / "run.json").write_text(json.dumps(run_record(choose(spec))))
    text = Page(build_report(run_dir)).text
    line = text[text.index("make submit ") : text.index(" The same settings")]
    verb, *words = shlex.split(line)[1:]
    given = dict(word.split("=", 1) for word in words)
    assert (verb, given.pop("RUN")) == ("submit", "r1-again")
    asked = resolve({**given, "RUN": "r1"}, project_dir=CHECKOUT, environ={})
    changed = {name for name, value in asked.values().items() if value != spec.values()[name]}
    assert changed <= {"project_dir", "name", "vram_source", "cpus", "mem_gib"}


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", 7])
def test_what_is_no_web_address_is_no_link(tmp_path: Path, link: object) -> None:
    page = Page(build_report(write_run(tmp_path, provenance={"wandb": link})))
    assert f"W&B {link}" in page.text and str(link) not in page.references


@pytest.mark.parametrize(
    "plan", [None, [], {}, {"launch_argv": "x"}, {"launch_argv": [1], "env": {}}, {"launch_argv": []}]
)
def test_a_record_that_does_not_say_how_it_was_launched_offers_no_command(tmp_path: Path, plan: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"plan": plan}))
    assert "Train it again" not in build_report(write_run(tmp_path))


def test_no_command_of_another_users_record_is_offered_to_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["accelerate", "launch", "--num_machines", "1", "/tmp/theirs.py"]
    (tmp_path / "run.json").write_text(json.dumps({"plan": {"launch_argv": words, "env": {"LD_PRELOAD": "/x.so"}}}))
    write_run(tmp_path)
    assert "theirs.py" in build_report(tmp_path)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert "theirs.py" not in build_report(tmp_path)


def test_what_is_typed_to_use_the_adapter_stands_there_quoted(tmp_path: Path) -> None:
    run_dir = tmp_path / "a b"
    (run_dir / "adapter").mkdir(parents=True)
    text = Page(build_report(write_run(run_dir, images=["x y.png"]))).text
    assert f"python -m trainer infer --run '{run_dir}' \\ 'x y.png' Answers with JSON" in text
    assert re.search(rf"Use the adapter cd {CHECKOUT} && \S*python -m trainer infer", text)
    assert f'adapter = "{run_dir}/adapter" base = AutoModelForImageTextToText.from_pretrained("acme/tiny-vl",' in text


def test_a_pictures_name_is_no_option_of_the_command_that_is_to_be_typed(tmp_path: Path) -> None:
    """Whoever writes predictions.jsonl would choose the model that is asked."""
    (tmp_path / "adapter").mkdir()
    text = Page(build_report(write_run(tmp_path, images=["--base=/tmp/theirs", "x.png"]))).text
    assert f"python -m trainer infer --run {tmp_path} \\ x.png Answers with JSON" in text


def test_what_a_page_is_made_of_is_installed_with_the_package() -> None:
    """The image has the package as pip installs it: a file that is not named stays away."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        named = tomllib.load(file)["tool"]["setuptools"]["package-data"]["trainer.report"]
    folder = ROOT / "trainer" / "report"
    shipped = {path.name for pattern in named for path in folder.glob(pattern)}
    assert {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"} == shipped
