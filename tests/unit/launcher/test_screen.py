"""What a plan is drawn for: a terminal as it is, or paper."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from screen import Terminal

from launcher.cli import LEAST_COLUMNS
from planner.table import PAPER, Screen

ASKS = "import sys; from launcher.cli import screen; print(screen(), end='', file=sys.stderr)"
SMALL = LEAST_COLUMNS - 10


@pytest.mark.parametrize(
    ("columns", "environ", "found"),
    [
        (97, {"TERM": "xterm"}, Screen(width=97, colour=True, blocks=True)),
        (97, {"TERM": "xterm", "NO_COLOR": ""}, Screen(width=97, colour=False, blocks=True)),
        (97, {"TERM": "xterm", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, Screen(width=97, colour=True)),
        (SMALL, {"TERM": "xterm"}, Screen(width=LEAST_COLUMNS, colour=True, blocks=True)),
        (0, {"TERM": "xterm"}, Screen(width=PAPER.width, colour=True, blocks=True)),
        (97, {"TERM": "dumb"}, PAPER),
        (97, {}, PAPER),
    ],
)
def test_a_terminal_is_drawn_for_as_it_is(columns: int, environ: dict[str, str], found: Screen) -> None:
    terminal = Terminal(columns)
    around = {name: text for name, text in os.environ.items() if name not in ("TERM", "NO_COLOR", "LANG", "LC_CTYPE")}
    with open(terminal.path, "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", ASKS], stdout=out, stderr=subprocess.PIPE, text=True, check=True,
            env={**around, "PYTHONUTF8": "1", "LC_ALL": "C", **environ},
        )  # fmt: skip
    terminal.close()
    assert done.stderr == repr(found)


def test_a_pipe_is_paper() -> None:
    done = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True)
    assert done.stderr == repr(PAPER)
