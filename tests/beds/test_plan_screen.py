"""`plan` on a real terminal: as wide as that is, in bold where there is colour, and the same bytes everywhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import ROOT
from screen import Terminal

PLAN = ("-m", "slurm", "plan", "--site", "none")
ASKED = ("--gpus", "2", "--vram", "24")
BOLD = b"\x1b[1mchosen multi_gpu, without activation checkpointing\x1b[0m"


def shown(columns: int, *asked: str, **environ: str) -> Terminal:
    terminal = Terminal(columns=columns, rows=50)
    own = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**own, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environ}
    subprocess.run(
        [sys.executable, *PLAN, *(asked or ASKED)],
        cwd=ROOT,
        stdout=terminal.slave,
        stderr=terminal.slave,
        env=environment,
        check=True,
    )
    terminal.close()
    return terminal


@pytest.mark.parametrize(("columns", "verdicts"), [(80, 3), (200, 5)])
def test_a_terminal_gets_what_it_has_room_for_and_the_decision_last_and_bold(columns: int, verdicts: int) -> None:
    terminal = shown(columns)
    lines = [line for line in terminal.lines() if line]
    assert max(map(len, terminal.printed())) <= columns
    (verdict,) = (line for line in lines if line.startswith("verdict"))
    assert verdict.count("fits, slower") + verdict.count("chosen") == verdicts
    assert BOLD in terminal.raw
    assert lines[-1] == f"       [{36 * chr(0x2588)}{chr(0x2591)}{3 * chr(0xB7)}] 24 GiB"


def test_a_narrow_terminal_is_kept_to() -> None:
    terminal = shown(40, "--gpu-type", "rtx3070")
    assert max(map(len, terminal.printed())) <= 40
    lines = [line for line in terminal.lines() if line]
    place = next(number for number, line in enumerate(lines) if line.startswith("GiB a GPU"))
    assert lines[place : place + 4 : 3] == ["GiB a GPU               single_gpu", "batch x accumulation         4 x 2"]
    assert lines[place + 1] == "                          _low_mem"
    assert lines[-1] == f"       [{18 * chr(0x2588)}{2 * chr(0xB7)}] 8 GiB"


def test_no_colour_and_no_blocks_where_they_are_not_wanted() -> None:
    terminal = shown(80, NO_COLOR="1", LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert b"\x1b" not in terminal.raw
    assert terminal.raw.isascii() and b"[####################################-...] 24 GiB" in terminal.raw


def test_a_pipe_and_a_dumb_terminal_get_the_same_bytes() -> None:
    piped = subprocess.run([sys.executable, *PLAN, *ASKED], cwd=ROOT, capture_output=True, check=True).stdout
    assert shown(60, TERM="dumb").raw.replace(b"\r\n", b"\n") == piped
    assert max(map(len, piped.decode("ascii").splitlines())) <= 110
