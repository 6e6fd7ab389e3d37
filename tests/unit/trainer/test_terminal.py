"""What stands at a terminal while a training runs, read off an emulator behind a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from paths import ROOT
from screen import Terminal
from training import train_forked
from wandb_server import Service

STEP_LINE = re.compile(r"step +(\d+)/(\d+)  loss [\d.]+  token accuracy +[\d.]+%  lr [\d.e-]+  left [\d.]+ min")
EVALUATION_LINE = re.compile(
    r"step +(\d+)/(\d+)  held-out loss [\d.]+  accuracy [\d.]+%  (?:best so far|best: step (\d+))"
)
BAR = re.compile(r"step +(\d+)/(\d+) ━*─* left [\d.]+ min  loss [\d.]+  token acc\. +\d+%  [\d.]+ samples/s")
MANY = """
import os, subprocess, sys, warnings
from trainer.terminal import LAST_ROW, say
print("before", flush=True)
with LAST_ROW.counting(40, "counting", drawn=True) as count:
    for n in range(40):
        print("line", n, flush=True)
        if n == 10:
            os.write(1, b"by a library in C\\n")
            os.write(2, b"half ")
        if n == 11:
            subprocess.run(["sh", "-c", "echo by another process; echo and to stderr >&2"])
            warnings.warn("a warning")
        if n == 20:
            with LAST_ROW.counting(2, "inside", drawn=True) as more:
                more(1)
                more(1)
        count(1)
with LAST_ROW.counting(0, "nothing", drawn=True):
    pass
say("words " * 20)
print("after", flush=True)
"""


def child(terminal: Terminal, *words: str, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "TERM": "xterm-256color", **environ},
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [24, 5])
def test_lines_of_everybody_stay_whole_above_the_last_row_which_is_given_back(rows: int) -> None:
    terminal = Terminal(rows=rows)
    assert child(terminal, "-c", MANY).wait(60) == 0
    terminal.close()
    said = [line for line in terminal.lines() if line]
    numbers = [f"line {n}" for n in range(40)]
    assert [line for line in said if re.fullmatch(r"(half )?line \d+", line)] == [
        "half " + line if line == "line 11" else line for line in numbers
    ]
    for line in ("before", "by a library in C", "by another process", "and to stderr", "after"):
        assert said.count(line) == 1
    assert [line for line in said if "a warning" in line]
    assert said[-3:] == [" ".join(["words"] * 13), "  " + " ".join(["words"] * 7), "after"]
    assert not [line for line in said if any(word in line for word in ("counting", "inside", "nothing"))]
    drawn = [row for row in terminal.last_rows if row.startswith("counting ")]
    assert drawn[0].endswith(" 0/40") and drawn[-1].endswith(" 40/40") and max(map(len, drawn)) < 80
    assert [row[-3:] for row in terminal.last_rows if row.startswith("inside ")] == ["0/2", "1/2", "2/2"]
    assert terminal.screen.margins is None


def test_the_emulator_sees_rows_whole_however_the_kernel_cuts_them() -> None:
    terminal = Terminal(columns=40, rows=4)
    terminal.close()
    for count in range(3):
        for byte in f"\x1b7\x1b[4;1H{'x' * 10 * count:<20} {count}/2\x1b[K\x1b8".encode():
            terminal.feed(bytes([byte]))
    assert terminal.last_rows == [f"{'x' * 10 * count:<20} {count}/2" for count in range(3)]


def test_a_process_that_is_killed_leaves_a_terminal_that_its_parent_can_put_right() -> None:
    terminal = Terminal()
    killed = "import os; from trainer.terminal import LAST_ROW; LAST_ROW.show('working', 0.5); os.kill(os.getpid(), 9)"
    assert child(terminal, "-c", killed).wait(60) == -9
    assert child(terminal, "-c", "from trainer.terminal import give_back; give_back(); print('over')").wait(60) == 0
    terminal.close()
    assert terminal.screen.margins is None
    assert [line for line in terminal.lines() if line] == ["over"]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (100, "step 3/30 ━━━━──────────────────────────────────── left 0.4 min  loss 0.310  58 samples/s"),
        (60, "step 3/30 ━────────────── left 0.4 min  loss 0.310  58 samples/s"),
        (45, "step 3/30 ━────────── left 0.4 min  loss 0.310"),
        (24, "step 3/30 left 0.4 min"),
    ],
)
def test_a_narrow_row_keeps_the_bar_and_the_most_important_words(columns: int, row: str) -> None:
    terminal = Terminal(columns=columns)
    script = "LAST_ROW.show('step 3/30', 0.1, 'left 0.4 min', 'loss 0.310', '58 samples/s'); print('x')"
    assert child(terminal, "-c", f"from trainer.terminal import LAST_ROW; {script}").wait(60) == 0
    terminal.close()
    shown = next(found for found in terminal.last_rows if found.startswith("step"))
    assert (re.sub("[━─]+", "", shown), len(shown) < columns) == (re.sub("[━─]+", "", row), True)
    assert ("━" in shown) == ("━" in row)


def test_the_last_row_follows_a_window_that_changes_its_size() -> None:
    terminal = Terminal()
    script = "import sys\nfrom trainer.terminal import LAST_ROW\nfor n, _ in enumerate(sys.stdin):\n"
    script += "    LAST_ROW.show('n', n / 9, str(n)); [print('line', n, m, flush=True) for m in range(20)]\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "TERM": "xterm"}, text=True,
        stdin=subprocess.PIPE, stdout=terminal.slave, stderr=terminal.slave,
    )  # fmt: skip
    assert process.stdin
    sizes = [(80, 24), (100, 30), (60, 10)]
    for number, (columns, rows) in enumerate(sizes):
        terminal.resize(columns, rows)
        process.stdin.write("\n")
        process.stdin.flush()
        deadline = time.monotonic() + 20
        above: list[str] = []
        while f"line {number} 19" not in above and time.monotonic() < deadline:
            time.sleep(0.01)
            *above, last = (line.rstrip() for line in terminal.screen.display)
        assert f"line {number} 19" in above
        assert last.startswith("n ") and last.endswith(f" {number}") and len(last) == columns - 1
    process.stdin.close()
    process.wait(20)
    terminal.close()


def test_a_row_that_is_taken_again_and_again_covers_no_line() -> None:
    script = "from trainer.terminal import LAST_ROW\nfor n in range(60):\n    print('line', n, flush=True)\n"
    script += "    if n % 3: LAST_ROW.show('row')\n    if n % 4 == 3: LAST_ROW.clear()\n"
    terminal = Terminal()
    assert child(terminal, "-c", script).wait(60) == 0
    terminal.close()
    assert [line for line in terminal.lines() if line] == [f"line {n}" for n in range(60)]


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_without_a_cursor_gets_lines_alone(environ: dict[str, str]) -> None:
    terminal = Terminal()
    assert child(terminal, "-c", MANY, **environ).wait(60) == 0
    terminal.close()
    assert b"\x1b" not in terminal.raw and b"line 39\r\n" in terminal.raw


def test_a_second_ctrl_c_is_told_to_the_person_who_can_press_it() -> None:
    terminal = Terminal()
    asked = "from trainer.supervise import asked_to_stop; print(asked_to_stop(2)); print(asked_to_stop(15))"
    assert child(terminal, "-c", asked).wait(60) == 0
    terminal.close()
    assert list(filter(None, terminal.lines())) == [
        "asked to stop by SIGINT; a second Ctrl-C kills it",
        "asked to stop by SIGTERM",
    ]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(("told", "width"), [(60, 60), (0, 80)])  # some terminals tell no size
def test_make_help_fits_its_terminal(told: int, width: int) -> None:
    terminal = Terminal(columns=width)
    termios.tcsetwinsize(terminal.slave, (24 * bool(told), told))
    done = subprocess.run(["make", "help"], cwd=ROOT, stdout=terminal.slave, stderr=terminal.slave, check=False)
    terminal.close()
    said = terminal.printed()
    assert done.returncode == 0 and width - 10 < max(map(len, said)) <= width
    assert sum(line.startswith("  make ") for line in said) > 30


def test_piped_there_are_lines_alone() -> None:
    done = subprocess.run([sys.executable, "-c", MANY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr and "counting" not in done.stdout + done.stderr
    assert done.stdout.endswith("words \nafter\n")


@pytest.mark.slow
def test_two_processes_and_wandb_leave_every_line_whole_above_one_bar(
    tmp_path: Path, tiny_model: Path, walks: Path, service: Service
) -> None:
    terminal = Terminal()
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, world_size=2, micro_batch_size=2, max_steps=30, eval_steps=10,
        environment={**service.environment, "TERM": "xterm-256color"}, terminal=terminal.path,
    )  # fmt: skip
    terminal.close()
    said = terminal.lines()
    (tmp_path / "said").write_text("\n".join(said))
    assert ended.codes == (0, 0), said
    assert [int(m[1]) for m in map(STEP_LINE.fullmatch, said) if m] == list(range(1, 31))
    evaluations = [m for m in map(EVALUATION_LINE.fullmatch, said) if m]
    assert [int(m[1]) for m in evaluations] == [10, 20, 30]
    assert evaluations[0][3] is None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best = [int(m[1]) for m in evaluations if m[3] is None][-1]
    assert metrics["step"] == best
    assert sum(line.startswith("W&B: http") for line in said) == 1
    assert "loading the model ..." in said
    assert {int(m[1]) for m in map(BAR.fullmatch, terminal.last_rows) if m} >= {1, 15, 29}
    for what in ("scoring", "answering", "held-out loss"):
        assert any(row.startswith(f"{what} ━") for row in terminal.last_rows), what
        assert not any(line.startswith(f"{what} ") for line in said)
    # Before the row is taken, and after it is given back, a printed line may end in it.
    bars = [row for row in terminal.last_rows if re.search("[━─]", row)]
    assert max(map(len, bars)) < 80, max(bars, key=len)
    assert terminal.screen.margins is None
    # Beside the examples, whose texts are the model's, and the paths, all is made for the width.
    ours = re.compile(r"step |before|after|data:|actions|  (?!/)")
    assert [line for line in terminal.printed() if ours.match(line) and len(line) > 80] == []


@pytest.mark.slow
def test_a_run_on_this_machine_shows_its_bar_through_supervisor_and_launcher(
    checkout: Path, tiny_model: Path, walks: Path
) -> None:
    words = f"--device cpu --model {tiny_model} --data {walks} --output runs --run r --effective-batch 4 --max-steps 12"
    (checkout / "train.yaml").write_text("logging_steps: 5\neval_steps: 6\neval_samples: 4\nscore_samples: 8\n")
    terminal = Terminal()
    process = subprocess.Popen(
        [sys.executable, "-m", "local", "run", *words.split(), "--config-file", "train.yaml"], cwd=checkout,
        env={**os.environ, "TERM": "xterm-256color", "WANDB_MODE": "disabled"},
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
    )  # fmt: skip
    code = process.wait(400)
    terminal.close()
    said = terminal.lines()
    assert code == 0, said
    assert [int(m[1]) for m in map(STEP_LINE.fullmatch, said) if m] == [1, 5, 10, 12]
    assert [int(m[1]) for m in map(EVALUATION_LINE.fullmatch, said) if m] == [6, 12]
    order = [said.index(line) for line in ("loading libraries ...", "loading the model ...")]
    assert order == sorted(order)
    assert {int(m[1]) for m in map(BAR.fullmatch, terminal.last_rows) if m} >= {1, 6, 11}
    assert terminal.screen.margins is None
