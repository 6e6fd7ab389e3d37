"""`python -m trainer`: one table of verbs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from trainer.__main__ import VERBS, exit_code, main
from trainer.outcome import ConfigError, SickNode, node_name

TAKE_VARIABLES = ("run", "ready", "docker-run", "sweep", "sweep-ready", "find-batch-size")


def test_help_lists_every_verb_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(VERBS)
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m trainer ")
    assert re.search(rf"[ |]{verb}\b", done.stdout.splitlines()[0])


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"report", "demo"}))
def test_every_verb_refuses_an_unknown_option_with_the_nearest(verb: str) -> None:
    option = "--gpsu" if verb in TAKE_VARIABLES else "--jsn"
    words = [verb, *(["all"] if verb == "validate" else []), option, "1"]
    done = subprocess.run([sys.executable, "-m", "trainer", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    line = done.stderr.splitlines()[-1]
    assert line.startswith("trainyard: unknown ") and "known are " in line
    assert "did you mean" in line


def test_what_a_user_can_act_on_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    errors = (ConfigError("wrong"), SickNode("hangs"), OSError("full"), KeyboardInterrupt())

    def fail(words: list[str]) -> int:
        raise errors[int(words[0])]

    assert [exit_code(fail, [str(index)]) for index in range(len(errors))] == [78, 1, 1, 1]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"trainyard: {line}" for line in ("wrong", f"{node_name()}: hangs", "full", "interrupted")]


def test_an_unknown_verb_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mrege"]) == 78
    assert capsys.readouterr().err == (
        f"trainyard: unknown verb 'mrege', did you mean merge? known are {', '.join(VERBS)}\n"
    )
    assert main([]) == 78
