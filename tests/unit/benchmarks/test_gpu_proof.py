"""The proof for a first GPU, rehearsed: every row is carried out at toy size on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from programs import make

from benchmarks.gpu_proof import wheels
from benchmarks.gpu_proof.__main__ import _machine, refuse_others
from benchmarks.gpu_proof.page import write_page
from benchmarks.gpu_proof.rows import FIT, FULL_SECONDS, ROWS, Row
from benchmarks.gpu_proof.schedule import Running, _may_begin
from trainer.outcome import ConfigError


def started(folder: Path, code: str, *, most_seconds: float = 60) -> Running:
    log, result = folder / "row.log", folder / "row.json"
    words = [sys.executable, "-c", code, str(result)]
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True)
    return Running(
        row=Row(name="row", module="none"), process=process, result=result, log=log, began=time.monotonic(),
        most_seconds=most_seconds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import sys; open(sys.argv[1], 'w').write('{\"found\": {\"seen\": 3}}')", {"found": {"seen": 3}}),
        (
            "import sys; open(sys.argv[1], 'w').write('{\"found\": {\"seen\": 3}}'); raise ValueError('no more')",
            {"found": {"seen": 3}, "failed": "ValueError: no more"},
        ),
        ("raise MemoryError('none is left')", {"failed": "MemoryError: none is left"}),
        ("import os; os.abort()", {"failed": "it said nothing"}),
    ],
)
def test_what_came_of_a_row(tmp_path: Path, code: str, found: dict[str, Any]) -> None:
    running = started(tmp_path, code)
    running.process.wait(60)
    ended = running.ended(time.monotonic(), time.monotonic() + 60)
    assert ended is not None and ended.pop("seconds_taken") >= 0
    assert ended == found


def test_a_row_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    running = started(tmp_path, code, most_seconds=0.5)
    assert running.ended(running.began + 0.4, running.began + 60) is None
    assert running.ended(running.began + 0.6, running.began + 60) == {
        "failed": "not done after 1 s", "seconds_taken": 0.6
    }  # fmt: skip
    assert running.process.returncode == -9


def test_timed_rows_have_the_card_to_themselves() -> None:
    timed, small, large = (Row(name=f"{gib}", module="", gib=gib) for gib in (0, 16, 80))
    assert all(_may_begin(row, [], 120, 5) for row in (timed, small, large))
    assert _may_begin(small, [large, small], 120, 5)
    assert not _may_begin(small, [large, small, small], 120, 5)  # no room
    assert not _may_begin(small, [small] * 5, 120, 5)
    assert not _may_begin(timed, [small], 120, 5) and not _may_begin(small, [timed], 120, 5)


def test_the_rows_differ_and_cover_cards_of_8_to_80_gib() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    cards = [row.settings["card_gib"] for row in FIT]
    assert len(cards) >= 12 and (min(cards), max(cards)) == (8, 80)
    assert all(row in ROWS for row in FIT) and FULL_SECONDS == 480


def test_a_page_says_what_failed_and_what_was_not_begun(tmp_path: Path) -> None:
    about = {"rehearsal": True, "when": "now", "python": "3", "versions": {"torch": "2"}}
    rows = {"a | b": {"module": "fit", "failed": "no\nroom", "seconds_taken": 1}}
    write_page(tmp_path / "page.md", {"about": about, "asked": ["a | b", "late"], "rows": rows})
    page = (tmp_path / "page.md").read_text()
    assert "No figure here is a GPU's" in page
    assert page.endswith("| a \\| b | no\\nroom |\n\nNot begun, for lack of time: late.\n")


def test_rows_of_a_rehearsal_or_another_card_never_stand_beside_ours() -> None:
    about = {"rehearsal": False, "when": "now", "gpu": "H200", "cuda": "13", "versions": {"torch": "2"}}
    refuse_others({**about, "when": "then"}, about)
    for change in ({"rehearsal": True}, {"gpu": "H100"}, {"versions": {"torch": "3"}}):
        with pytest.raises(ConfigError, match=f"made with {next(iter(change))}="):
            refuse_others({**about, **change}, about)


@pytest.mark.slow
def test_going_on_with_no_row_left_writes_the_page_of_those_that_are_there(tmp_path: Path) -> None:
    name, row = "pinned memory", {"module": "pinned", "found": {}, "seconds_taken": 1}
    earlier = {"about": _machine(True), "rows": {name: row}}
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    words = ["--rehearse", "--only", name, "--go-on", f"{tmp_path}/earlier.json", "--out", f"{tmp_path}/out"]
    subprocess.run([sys.executable, "-m", "benchmarks.gpu_proof", *words], cwd=ROOT, check=True)
    assert json.loads((tmp_path / "out" / "gpu_proof.json").read_text())["rows"] == {name: row}
    assert (tmp_path / "out" / "gpu_proof.md").read_text().startswith("# A rehearsal\n")


def test_the_wheels_are_this_projects_pins() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{pin}"' in project for pin in wheels.pins((*wheels.PINNED, *wheels.BUILT)))


def test_no_other_command_takes_rehearse() -> None:
    done = make(ROOT, "plan", "REHEARSE=1")
    assert done.returncode == 2
    assert "REHEARSE=1: only make gpu-proof takes it: leave REHEARSE out" in done.stderr


@pytest.mark.slow
def test_a_row_of_every_kind_can_be_carried_out(tmp_path: Path) -> None:
    """Two of the plans under a card's limit stand for all. ZeRO-3 does not start in one process without a GPU, and a
    run that is stopped and goes on has its own tests (test_resume.py)."""
    plans = ("8 GiB, 330 tokens", "24 GiB, 330 tokens, tower adapted")
    left_out = ("speed at 900 tokens", "SIGTERM and going on")
    names = [*plans, *(row.name for row in ROWS if row not in FIT and row.name not in left_out)]
    only = [word for name in names for word in ("--only", name)]
    words = ["benchmarks.gpu_proof", "--rehearse", "--out", str(tmp_path), *only]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    report = json.loads((tmp_path / "gpu_proof.json").read_text())
    failed = {name: row["failed"] for name, row in report["rows"].items() if "failed" in row}
    assert (failed, done.returncode) == ({}, 0)
    assert set(report["rows"]) == set(names)
    found = {name: row["found"] for name, row in report["rows"].items()}
    assert all(found[name]["fits"] for name in plans)
    assert found["features kept and read back"]["equal"]
    page = (tmp_path / "gpu_proof.md").read_text()
    assert page.startswith("# A rehearsal\n") and "## Failed" not in page and "Not begun" not in page
