"""progress.json: what is written, what of it is believed, and what `status` and `list` make of it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training import train_forked

from launcher.progress import Job, RunStatus, duration, list_text, run_status, status_text
from launcher.records import Run
from trainer import supervise
from trainer.launch import Launch
from trainer.outcome import node_name
from trainer.progress_file import (
    MOST_BYTES,
    Progress,
    ProgressWriter,
    parse_progress,
    progress_text,
    read_progress,
    write_end,
    write_progress,
)

NOW = 1_800_000_000.0
WHOLE = Progress(
    phase="training", written_at=NOW - 7, step=120, of=1500, epoch=0.75, loss=0.3126, learning_rate=1.9e-3,
    token_accuracy=0.899, action_accuracy=0.5, step_at=NOW - 8, seconds_per_step=3.5,
)  # fmt: skip
RUNNING = Job(job_id="7", state="RUNNING", ended=False)
FAILED = Job(job_id="7", state="FAILED", ended=True)


def seen(folder: Path, job: Job = RUNNING) -> RunStatus:
    folder.mkdir(exist_ok=True)
    return run_status(Run(folder=folder, record={"job_ids": ["7"]}), [job])


def rows(folder: Path, job: Job = RUNNING, now: float = NOW) -> dict[str, str]:
    lines = status_text(seen(folder, job), "RUN=r", now).splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines) for value in [value.strip()]}


def test_what_is_written_is_read_back_whole(tmp_path: Path) -> None:
    write_progress(tmp_path, WHOLE)
    assert read_progress(tmp_path) == WHOLE
    assert os.listdir(tmp_path) == ["progress.json"]
    nan = replace(WHOLE, loss=float("nan"), said="x" * 5000)
    assert parse_progress(progress_text(nan)) == replace(WHOLE, loss=None, said="x" * 1000)
    huge = replace(WHOLE, loss=1e300, learning_rate=float("inf"))
    assert parse_progress(progress_text(huge)) == replace(WHOLE, loss=None, learning_rate=None)


@pytest.mark.parametrize(
    "said", ["\x01" * 1000, "\u6728" * 1000, "\U0001f600" * 1000, "abc " + "\u00fc" * 996, "x" * 9999]
)
def test_words_that_do_not_fit_are_cut_and_never_dropped(said: str) -> None:
    text = progress_text(replace(WHOLE, said=said))
    known = parse_progress(text)
    assert known and known == replace(WHOLE, said=known.said) and said.startswith(known.said)
    assert len(text) <= MOST_BYTES and (len(known.said) == 1000 or len(text) > MOST_BYTES - 40)


def test_numbers_of_a_record_that_lies_stay_on_a_line(tmp_path: Path) -> None:
    known = replace(WHOLE, of=10**12, loss=-1e11, learning_rate=1e11, seconds_per_step=1e11, epoch=1e11)
    write_progress(tmp_path, known)
    assert read_progress(tmp_path) == known
    assert rows(tmp_path)["step"] == "120 of 1000000000000, 8 s ago"
    assert max(map(len, status_text(seen(tmp_path, RUNNING), "RUN=r", NOW).splitlines())) < 200


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", '"training"', "{}", '{"phase": "training"}', "[" * 100_000,
        *(
            json.dumps({"phase": "training", "written_at": 1, **change})
            for change in (
                {"phase": "dancing"}, {"phase": ["training"]}, {"written_at": None}, {"written_at": "1"},
                {"written_at": True}, {"written_at": -1}, {"written_at": 1e300}, {"step": -1}, {"step": 1.5},
                {"step": True}, {"step": None}, {"step": "3"}, {"step": 4, "of": 3}, {"of": 10**13}, {"step_at": ""},
                {"step_at": 10**400}, {"loss": ""}, {"loss": False}, {"loss": [1]}, {"loss": float("inf")},
                {"loss": float("nan")}, {"token_accuracy": 1.1}, {"action_accuracy": -0.1}, {"seconds_per_step": -1},
                {"seconds_per_step": 1e12}, {"loss": 1e300},
                {"loss": -1e12}, {"epoch": 1e12}, {"learning_rate": {}}, {"epoch": "1"}, {"said": 3}, {"said": None},
                {"said": "x" * 1001},
            )
        ),
        '{"phase": "training", "written_at": 1, "loss": ' + "9" * 3000 + "}",
    ],
)  # fmt: skip
def test_what_training_did_not_write_is_not_believed(text: str, tmp_path: Path) -> None:
    assert parse_progress(text) is None
    (tmp_path / "progress.json").write_text(text)
    assert rows(tmp_path)["step"] == "none yet" and "phase" not in rows(tmp_path)
    assert list_text([seen(tmp_path)]).splitlines()[1].split() == [tmp_path.name, "7", "RUNNING", "-", "-", "no"]


def test_what_is_no_small_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text(progress_text(WHOLE) + " " * MOST_BYTES)
    assert read_progress(tmp_path) is None
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink("no", path)):
        path.unlink()
        make(path)
        assert read_progress(tmp_path) is None
        if path.is_dir():
            path.rmdir()
            path.touch()
    path.unlink()
    path.write_bytes(b"\xff" + progress_text(WHOLE).encode())
    assert read_progress(tmp_path) is None


def test_a_link_in_its_place_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "progress.json").symlink_to(tmp_path / "theirs")
    write_progress(tmp_path, WHOLE)
    assert (tmp_path / "theirs").read_text() == "kept" and read_progress(tmp_path) == WHOLE


def test_status_says_when_the_last_step_was_and_when_the_run_will_end(tmp_path: Path) -> None:
    write_progress(tmp_path, WHOLE)
    # 1380 steps of 3.5 s, 8 s of which have gone by.
    assert rows(tmp_path)["step"] == "120 of 1500, 8 s ago, about 1 h 20 min left"
    assert rows(tmp_path)["phase"] == (
        "training, loss 0.3126, token accuracy 89.9%, action accuracy 50.0%, lr 1.90e-03, seconds a step 3.5"
    )
    assert list_text([seen(tmp_path)]).splitlines()[1].split() == [
        tmp_path.name,
        "7",
        "RUNNING",
        "120/1500",
        "50.0%",
        "no",
    ]
    # The last step is long ago: it should be over, and nobody knows.
    assert rows(tmp_path, now=NOW + 5000)["step"] == "120 of 1500, 1 h 23 min ago"
    # Another machine's clock: a little ahead, and out of order.
    assert rows(tmp_path, now=NOW - 30)["step"] == "120 of 1500, 0 s ago, about 1 h 20 min left"
    assert rows(tmp_path, now=NOW - 3600)["step"] == "120 of 1500"


def test_a_run_that_does_not_run_has_no_end_in_sight_but_its_last_words(tmp_path: Path) -> None:
    write_progress(tmp_path, WHOLE)
    write_end(tmp_path, 75, "stopped at step 120", NOW, began=NOW - 60)
    stopped = replace(WHOLE, phase="stopped", said="stopped at step 120", written_at=NOW)
    assert read_progress(tmp_path) == stopped
    waiting = Job(job_id="8", state="PENDING", ended=False)
    for job in (FAILED, waiting):
        found = rows(tmp_path, job)
        assert (found["step"], found["said"]) == ("120 of 1500, 8 s ago", "stopped at step 120")
        assert "phase" not in found
    # The next attempt loads: where it is known, its phase counts, and what ended the one before is no news.
    write_progress(tmp_path, replace(stopped, phase="loading"))
    assert "said" not in rows(tmp_path) and rows(tmp_path)["phase"].startswith("loading, ")


@pytest.mark.parametrize(("code", "phase"), [(0, "finished"), (75, "stopped"), (78, "failed"), (1, "failed")])
def test_how_an_attempt_ended_is_written_where_there_is_a_folder(code: int, phase: str, tmp_path: Path) -> None:
    expected = Progress(phase=phase, written_at=NOW, said="why")
    assert write_end(tmp_path, code, "why", NOW, began=NOW - 1) == expected == read_progress(tmp_path)
    assert write_end(tmp_path / "none", code, "why", NOW, began=NOW - 1) == expected
    assert not (tmp_path / "none").exists()


def test_what_another_node_found_wrong_is_kept_for_as_long_as_the_attempt_lasts(tmp_path: Path) -> None:
    found = write_end(tmp_path, 1, "n2: no room", NOW + 5, began=NOW)
    assert write_end(tmp_path, 1, "the training failed", NOW + 6, began=NOW - 1) == found == read_progress(tmp_path)
    assert write_end(tmp_path, 1, "the training failed", NOW + 9, began=NOW + 8).said == "the training failed"


@pytest.mark.parametrize("first", [True, False])
def test_that_memory_ran_out_on_one_node_is_known_whichever_node_ends_first(first: bool, tmp_path: Path) -> None:
    for out_of_memory in (first, not first):
        said = "memory ran out" if out_of_memory else "the training failed"
        ended = write_end(tmp_path, 1, said, NOW + 5, began=NOW, out_of_memory=out_of_memory)
    assert (ended.out_of_memory, ended.said) == (True, "memory ran out")
    assert ended == read_progress(tmp_path)


def test_a_writer_writes_phases_at_once_and_the_rest_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the attempt before gives way bit by bit."""
    now = [NOW]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    said: list[str] = []
    write_progress(tmp_path, replace(WHOLE, phase="stopped", said="stopped at step 120"))
    writer = ProgressWriter(tmp_path, said.append)
    writer.phase("loading")
    assert read_progress(tmp_path) == replace(WHOLE, phase="loading", written_at=NOW)
    writer.phase("training", step=100)
    trained = replace(WHOLE, phase="training", written_at=NOW, step=100)
    assert read_progress(tmp_path) == trained
    for second, step in ((0.5, 101), (0.999, 102)):
        now[0] = NOW + second
        writer.note(step=step, step_at=now[0])
        writer.log(loss=0.25)
        assert read_progress(tmp_path) == trained
    now[0] = NOW + 1
    writer.log(token_accuracy=0.75)
    later = replace(trained, step=102, step_at=NOW + 0.999, loss=0.25, token_accuracy=0.75, written_at=NOW + 1)
    assert read_progress(tmp_path) == later
    writer.phase("training", action_accuracy=0.125)  # no new phase
    assert read_progress(tmp_path) == later
    writer.phase("saving")
    assert read_progress(tmp_path) == replace(later, phase="saving", action_accuracy=0.125)
    assert said == []


def test_a_folder_that_cannot_be_written_to_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    writer = ProgressWriter(tmp_path / "file", said.append)
    writer.phase("loading")
    writer.phase("training")
    assert said == [f"{tmp_path}/file/progress.json cannot be written (File exists): status knows no step"]
    ProgressWriter(None, said.append).phase("loading")
    assert len(said) == 1


def test_a_run_of_an_earlier_version_is_known_by_its_newest_checkpoint(tmp_path: Path) -> None:
    for name in (
        "step-000250",
        "step-000500",
        "step-9",
        "broken-step-000900-ab",
        ".writing-000900-ab",
        "step-" + "9" * 50,
    ):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert rows(tmp_path)["step"] == "500 (that of its newest checkpoint: it wrote no progress.json)"
    assert list_text([seen(tmp_path)]).splitlines()[1].split()[3] == "500"


def test_durations_have_two_units_at_most() -> None:
    assert [duration(s) for s in (0, 59.9, 60, 3599, 3600, 4800, 86399, 86400, 270_000)] == [
        "0 s", "59 s", "1 min", "59 min", "1 h 0 min", "1 h 20 min", "23 h 59 min", "1 d 0 h", "3 d 3 h",
    ]  # fmt: skip


def test_nothing_torch_comes_with_the_reader() -> None:
    import subprocess
    import sys

    words = "import sys, trainer.progress_file, launcher.progress; print({'torch', 'logging'} & set(sys.modules))"
    done: Any = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_a_training_says_how_far_it_is_while_it_runs_and_goes_on_saying_so_when_it_is_resumed(
    tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    run = tmp_path / "run"
    found: list[Progress] = []

    def look(output: str) -> bool:
        there = (run / "progress.json").exists()
        progress = read_progress(run)
        assert progress or not there  # never half of it
        if progress and progress not in found:
            found.append(progress)
        return bool(found) and found[-1].step >= 6

    options = {"model": tiny_model, "data": walks, "max_steps": 12, "eval_steps": 4, "save_steps": 2}
    train_forked(tmp_path, kill_when=look, **options)
    phases = [progress.phase for progress in found]
    assert phases[:3] == ["loading", "evaluating", "training"] and "saving" in phases
    assert [progress.step for progress in found] == sorted(progress.step for progress in found)
    killed = read_progress(run)
    assert killed and (killed.of, killed.said) == (12, "")
    assert killed.seconds_per_step and killed.step_at and 0 < killed.seconds_per_step < 60
    assert 0 <= killed.written_at - killed.step_at < 120
    for share in (killed.token_accuracy, killed.action_accuracy):
        assert share is not None and 0 <= share <= 1

    found.clear()
    done = train_forked(tmp_path, kill_when=lambda output: look(output) and False, **options)
    steps = [line for line in done.log.splitlines() if re.search(r"\bstep +\d+/12  loss ", line)]
    assert steps and all(re.match(rf"\S+ \S+ {re.escape(node_name())} rank 0: step ", line) for line in steps)
    loading = next(progress for progress in found if progress.phase == "loading")
    assert loading == replace(killed, phase="loading", written_at=loading.written_at)
    assert (begun := next(p for p in found if p.written_at > loading.written_at)).step in (2, 4, 6) and begun.of == 12
    metrics = json.loads((run / "metrics.json").read_text())
    logged = [entry for entry in metrics["history"] if "loss" in entry][-1]
    ended = read_progress(run)
    assert ended == found[-1]
    assert ended and (ended.phase, ended.step, ended.of) == ("finished", 12, 12)
    assert (ended.loss, ended.learning_rate) == (logged["loss"], logged["learning_rate"])
    assert (ended.token_accuracy, ended.action_accuracy) == (
        logged["mean_token_accuracy"],
        metrics["after"]["accuracy"],
    )


def test_the_supervisor_writes_how_an_attempt_ended_and_what_a_pod_leaves_behind(tmp_path: Path) -> None:
    write_progress(tmp_path, WHOLE)
    launch = Launch(module="worker", settings={"output_dir": str(tmp_path)})
    left = tmp_path / "termination-log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervise, "TERMINATION_LOG", left)
        supervise.leave_word(launch, 75, "stopped at step 120", began=NOW)
        assert not left.exists()  # no pod
        patch.setenv("TRAINYARD_RUN_RECORD", "/etc/trainyard/run.json")
        supervise.leave_word(launch, 78, "no such model", began=NOW + 10**9)
    ended = read_progress(tmp_path)
    assert ended == replace(WHOLE, phase="failed", said="no such model", written_at=ended.written_at if ended else 0)
    assert parse_progress(left.read_text()) == ended
    assert len(left.read_bytes()) <= MOST_BYTES
