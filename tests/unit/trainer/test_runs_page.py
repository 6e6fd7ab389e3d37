"""The page of all runs: a row a run, the best first; a folder that nobody understands is a row, and harms no other."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from finished_run import TRUTHS, history, write_run
from plans import make_plan

from launcher.records import run_record, write_record
from trainer.config import TrainConfig
from trainer.evaluation.metrics import action_metrics
from trainer.outcome import ConfigError
from trainer.progress_file import Progress, write_progress
from trainer.report.page import main
from trainer.report.runs import BROKEN, pages_line, read_row, read_rows, write_pages


def finished(output: Path, run_id: str, *, right: int = 17, sweep: str | None = None, **settings: Any) -> Path:
    """A run of 20 held-out answers, `right` of them right."""
    folder = output / run_id
    folder.mkdir(parents=True)
    write_record(folder, run_record(make_plan(run_id=run_id, sweep=sweep)))
    config = TrainConfig(model="acme/tiny-vl", data="d", output_dir=str(folder), run_id=run_id, **settings)
    on_the_way = [{"step": step, "eval_loss": 2 / step, "eval_action_accuracy": 0.1} for step in (5, 10)]
    scores = action_metrics(TRUTHS, [*TRUTHS[:right], *[None] * (20 - right)])
    write_run(
        folder, config=dataclasses.asdict(config), after=dataclasses.asdict(scores), step=10,
        provenance={"ended": "2026-11-29 23:26 UTC"},
        history=[*history([3.0, 2.0]), *on_the_way],
    )  # fmt: skip
    (folder / "report.html").write_text("x")
    return folder


def rows_of(page: Path) -> list[str]:
    """The text of each row of its table."""
    body = re.findall(r"<tbody>(.*)</tbody>", page.read_text(encoding="utf-8"), re.S)
    rows = re.findall(r"<tr.*?</tr>", body[0], re.S) if body else []
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in rows]


def test_the_best_run_comes_first_with_its_interval_and_what_it_was_trained_with(tmp_path: Path) -> None:
    finished(tmp_path, "low", right=10, learning_rate=1e-4)
    finished(tmp_path, "high", right=20, learning_rate=2e-3)
    unfinished = tmp_path / "young"
    unfinished.mkdir()
    write_record(unfinished, run_record(make_plan(run_id="young")))
    write_progress(unfinished, Progress(phase="training", written_at=1.0, step=5, of=1500, action_accuracy=0.75))
    (tmp_path / "queued").mkdir()
    write_record(tmp_path / "queued", run_record(make_plan(run_id="queued")))
    (tmp_path / "no run").mkdir()
    assert write_pages(tmp_path) == [tmp_path / "index.html"]
    rows = rows_of(tmp_path / "index.html")
    assert [row.split()[0] for row in rows] == ["high", "young", "low", "queued"]
    assert rows[0].startswith(
        "high 2026-11-29 23:26 UTC finished 100.0% 83.9 to 100.0% (20 answers) acme/tiny-vl d 0.002 "
        "0.2 10 of 1,500 1 min 52 s"
    )
    assert "young training 75.0% so far" in rows[1] and "5 of 1,500" in rows[1]
    assert rows[3].startswith("queued not begun - google/gemma-3-4b-it data - - - -")
    text = (tmp_path / "index.html").read_text()
    assert '<a href="high/report.html">' in text and 'href="young' not in text
    assert 'aria-label="loss, training from 3 to 2, held out from 0.4 to 0.2"' in text
    assert 'aria-label="accuracy, held out from 30% to 10%"' in text


def test_only_settings_that_differ_are_columns(tmp_path: Path) -> None:
    finished(tmp_path, "a", learning_rate=1e-4, seed=3)
    finished(tmp_path, "b", learning_rate=2e-4, seed=3)
    write_pages(tmp_path)
    text = (tmp_path / "index.html").read_text()
    headings = re.findall(r'<th scope="col">([^<]*)</th>', text)
    assert headings[2:5] == ["accuracy", "learning_rate", "on the way"]
    text_of_rows = sorted(rows_of(tmp_path / "index.html"))
    assert [value in row for value, row in zip(("0.0001", "0.0002"), text_of_rows, strict=True)] == [True, True]
    assert "different sets of records" not in text


def test_runs_on_other_records_are_said_not_to_compare(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    other = finished(tmp_path, "b") / "metrics.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "data": {"sha256": "other"}}))
    write_pages(tmp_path)
    assert "2 different sets of records: only runs on the same set compare" in (tmp_path / "index.html").read_text()


def test_a_sweep_has_a_page_of_its_members(tmp_path: Path) -> None:
    for index, right in enumerate((10, 18)):
        finished(tmp_path, f"tries-{index}", right=right, sweep="tries", lora_r=32 * (1 + index))
    finished(tmp_path, "other")
    assert write_pages(tmp_path) == [tmp_path / "index.html", tmp_path / "tries" / "sweep.html"]
    page = tmp_path / "tries" / "sweep.html"
    assert [row.split()[0] for row in rows_of(page)] == ["tries-1", "tries-0"]
    assert 'href="../tries-1/report.html"' in page.read_text() and len(rows_of(page)) == 2
    assert '<a href="tries/sweep.html">' in (tmp_path / "index.html").read_text()


DAMAGE = (
    ("run.json", "{"),
    ("run.json", "[]"),
    ("run.json", '{"spec": {"run_id": "x"}, "plan": {}}'),
    ("run.json", '{"spec": {"run_id": "bad", "sweep": ".."}, "plan": {}}'),
    ("run.json", '{"spec": {"run_id": "bad", "sweep": ["bad"]}, "plan": {}}'),
    ("run.json", "[" * 100_000),
    ("metrics.json", "{}"),
    ("metrics.json", ""),
    ("metrics.json", '{"after": {"accuracy": 1e400}, "before": null, "step": 1, "config": {"max_steps": 1}}'),
    ("metrics.json", '{"after": {"accuracy": "x"}, "before": null, "step": 1, "config": {"max_steps": 1}}'),
    ("metrics.json", '{"after": null, "before": null, "step": 1, "config": {"max_steps": 1}, "history": 7}'),
)


@pytest.mark.parametrize(("name", "text"), DAMAGE)
def test_a_damaged_run_is_a_row_and_harms_no_other(name: str, text: str, tmp_path: Path) -> None:
    finished(tmp_path, "good")
    finished(tmp_path, "bad")
    (tmp_path / "bad" / name).write_text(text)
    write_pages(tmp_path)
    good, bad = rows_of(tmp_path / "index.html")
    assert good.startswith("good 2026-11-29") and bad.startswith(f"bad {BROKEN} ")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    finished(tmp_path, "good")
    folder = finished(tmp_path, "bad")
    (folder / "metrics.json").unlink()
    os.mkfifo(folder / "metrics.json")
    assert {row.run_id: row.state for row in read_rows(tmp_path)[0]} == {"good": "finished", "bad": BROKEN}


def test_a_page_that_is_a_pipe_does_not_hold_the_end_of_a_run(tmp_path: Path) -> None:
    """Training writes the page last: it would wait, with all its GPUs, for somebody who writes into the pipe."""
    finished(tmp_path, "good")
    os.mkfifo(tmp_path / "index.html")
    assert re.match(r"all runs: no page was written \(.*/index\.html is another page", pages_line(tmp_path / "good"))


def test_names_and_values_are_shown_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)<"
    folder = finished(tmp_path, "r")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["provenance"]["ended"] = hostile
    (folder / "metrics.json").write_text(json.dumps(metrics))
    folder.rename(tmp_path / hostile)
    finished(tmp_path, "other")
    write_pages(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.count("<script>") == 1 and "&lt;script&gt;alert(1)&lt;" in text
    record = json.loads((tmp_path / hostile / "run.json").read_text())
    record["spec"]["run_id"] = hostile
    (tmp_path / hostile / "run.json").write_text(json.dumps(record))
    write_pages(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.count("<script>") == 1 and f'href="{"%3Cscript%3Ealert%281%29%3C"}/report.html"' in text


def test_a_page_of_somebody_elses_stays(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    (tmp_path / "index.html").write_text("<h1>My site</h1>")
    with pytest.raises(ConfigError, match=r"index\.html is another page: move it away"):
        write_pages(tmp_path)
    assert pages_line(tmp_path / "a").startswith("all runs: no page was written (")
    assert (tmp_path / "index.html").read_text() == "<h1>My site</h1>"
    (tmp_path / "index.html").unlink()
    assert pages_line(tmp_path / "a") == f"all runs: {tmp_path}/index.html"
    assert pages_line(tmp_path / "a") == f"all runs: {tmp_path}/index.html"  # ours is replaced


def test_a_folder_of_a_sweep_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    output, away = tmp_path / "runs", tmp_path / "away"
    away.mkdir()
    finished(output, "tries-0", sweep="tries")
    (output / "tries").symlink_to(away)
    with pytest.raises(ConfigError, match="is a symbolic link: remove it"):
        write_pages(output)
    assert list(away.iterdir()) == []


def test_a_run_that_nobody_planned_writes_no_page_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert pages_line(write_run(tmp_path / "r")) == ""
    assert not (tmp_path / "index.html").exists()


def test_report_takes_a_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path, "a")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/index.html\n"


def test_a_row_says_why_a_run_failed(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    record = run_record(make_plan(run_id="r"))
    record["plan"]["launch_argv"] = ["--learning_rate", "0.0002", "--output_dir", "x"]
    write_record(folder, record)
    write_progress(folder, Progress(phase="failed", written_at=1.0, said="CUDA out of memory"))
    row = read_row(folder)
    assert (row.state, row.note, row.accuracy) == ("failed", "CUDA out of memory", None)
    assert row.settings["learning_rate"] == "0.0002" and "output_dir" not in row.settings
