"""A run's log lines: with time, host and who speaks in a file, plain at a terminal and outside a run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import datetime

import pytest
from paths import ROOT
from screen import Terminal

from trainer.log import bare

SPEAK = """
from trainer import log, terminal
if WHO:
    log.begin(WHO)
terminal.say("one\\n  two\\n\\nthree \\x1b[2J")
log.complain("no such\\nmodel \\x07")
"""
PLAIN = ["one", "  two", "", "three \\x1b[2J", "trainyard: no such\\nmodel \\x07"]


def speak(who: str) -> list[str]:
    """What a process prints into a pipe before it is killed, when Python writes out nothing that is left."""
    done = subprocess.run(
        [sys.executable, "-c", f"WHO = {who!r}\n{SPEAK}\nimport os; os._exit(0)"],
        cwd=ROOT, env={**os.environ, "SLURMD_NODENAME": "n1", "TZ": "Asia/Kolkata", "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.parametrize("who", ["rank 0", "rank 13", "supervisor"])
def test_every_line_in_a_file_says_when_where_and_who(who: str) -> None:
    lines = speak(who)
    found = [re.fullmatch(rf"(\S+ \S+\+0530) n1 {who}:(?: (.*))?", line) for line in lines]
    assert [match and (match[2] or "") for match in found] == PLAIN
    for match in found:
        assert match and abs(datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S%z").timestamp() - time.time()) < 60
    assert bare("\n".join(lines)).split("\n") == PLAIN
    assert bare("\n".join(PLAIN)).split("\n") == PLAIN


def test_what_is_no_run_prints_plainly() -> None:
    assert speak("") == PLAIN


def test_a_terminal_has_lines_alone() -> None:
    terminal = Terminal()
    done = subprocess.run(
        [sys.executable, "-c", f"WHO = 'rank 0'\n{SPEAK}"], cwd=ROOT, env={**os.environ, "TERM": "xterm"},
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, check=False,
    )  # fmt: skip
    terminal.close()
    lines = [line.rstrip() for line in terminal.lines()]
    assert done.returncode == 0 and [line for line in lines if line] == [line for line in PLAIN if line]


def test_a_log_on_a_full_disk_ends_nothing() -> None:
    script = f"import logging, os\nlogging.raiseExceptions = False\nWHO = 'rank 0'\n{SPEAK}\nos._exit(7)"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 7
    assert bare(done.stderr) == PLAIN[-1] + "\n"
