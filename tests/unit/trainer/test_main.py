"""`python -m trainer` and `python -m local`: a table of verbs each."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from paths import ROOT
from screen import Terminal

import local.__main__
import trainer.__main__
from launcher.command import VERBS as VERBS_OF_ALL
from trainer.outcome import ConfigError, SickNode, node_name
from trainer.verbs import dispatch, exit_code

ROOMS = {"trainer": trainer.__main__, "local": local.__main__}
# What every scheduler has, and what this machine has beside it.
OF = {"trainer": trainer.__main__.VERBS, "local": {**VERBS_OF_ALL, **local.__main__.OWN}}
VERBS = [("trainer", verb) for verb in OF["trainer"]] + [("local", verb) for verb in local.__main__.OWN]
TAKE_VARIABLES = ("run", "docker-run", "find-batch-size")


def known(room: str) -> list[str]:
    return list(OF[room])


@pytest.mark.parametrize("room", ROOMS)
def test_help_lists_every_verb_with_one_line(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ROOMS[room].main(["--help"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == known(room)
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize(("room", "verb"), VERBS)
def test_every_verb_explains_itself(room: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = ROOMS[room].main([verb, "--help"])
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"usage: python -m {room} ")
    assert re.search(rf"[ |]{verb}\b", said.out.splitlines()[0])


@pytest.mark.parametrize(
    "words", [["infer", "--run", "nothing"], ["validate", "data", "--model", "no/such", "--data", "no"]], ids=" ".join
)
def test_at_a_terminal_a_verb_that_loads_torch_says_so_at_once(words: list[str]) -> None:
    terminal = Terminal()
    words = [sys.executable, "-m", "trainer", *words]
    done = subprocess.run(words, cwd=ROOT, stdout=terminal.slave, stderr=terminal.slave, check=False)
    piped = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    terminal.close()
    lines = terminal.printed()
    assert done.returncode == piped.returncode == 78 and lines[0] == "loading libraries ..."
    assert piped.stderr.splitlines() == list(filter(None, lines[1:]))


@pytest.mark.parametrize("words", [["validate", "model", "--help"], ["infer", "--help"], ["config", "--lr", "much"]])
def test_at_a_terminal_no_other_verb_says_that_it_loads(words: list[str]) -> None:
    terminal = Terminal()
    subprocess.run(
        [sys.executable, "-m", "trainer", *words], cwd=ROOT, stdout=terminal.slave, stderr=terminal.slave, check=False
    )  # fmt: skip
    terminal.close()
    assert terminal.printed() and "loading libraries ..." not in terminal.printed()


def test_help_of_no_verb_waits_for_torch() -> None:
    program = """
import sys; from trainer.__main__ import VERBS, main
for verb in VERBS:
    try: main([verb, "--help"])
    except SystemExit: pass
    assert "torch" not in sys.modules, verb
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("room", "verb"), [("trainer", "config"), ("local", "run")])
def test_a_room_is_started_as_a_program(room: str, verb: str) -> None:
    done = subprocess.run([sys.executable, "-m", room, verb, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {room} ")
    done = subprocess.run([sys.executable, "-m", room, "vreb"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (78, "")


@pytest.mark.parametrize(("room", "verb"), sorted(pair for pair in VERBS if pair[1] != "report"))
def test_every_verb_refuses_an_unknown_option_with_the_nearest(
    room: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "--gpsu" if verb in TAKE_VARIABLES else "--subst" if verb == "convert" else "--jsn"
    words = [verb, *(["all"] if verb == "validate" else []), option, "1"]
    assert ROOMS[room].main(words) == 78
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("trainyard: unknown ") and ("known are " in line or "lists all" in line)
    assert "did you mean" in line


def test_what_a_user_can_act_on_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    errors = (ConfigError("wrong"), SickNode("hangs"), OSError("full"), KeyboardInterrupt())

    def fail(words: list[str]) -> int:
        raise errors[int(words[0])]

    assert [exit_code(fail, [str(index)]) for index in range(len(errors))] == [78, 1, 1, 1]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"trainyard: {line}" for line in ("wrong", f"{node_name()}: hangs", "full", "interrupted")]


@pytest.mark.parametrize("wrapped", [False, True])
def test_lacking_memory_is_one_line_with_a_remedy(wrapped: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: list[str]) -> int:
        try:
            raise MemoryError("Tried to allocate 24.00 GiB.\nMore of it")
        except MemoryError as error:
            if wrapped:
                raise RuntimeError("cannot be loaded") from error
            raise

    assert exit_code(fail, []) == 1
    first = "RuntimeError: cannot be loaded" if wrapped else "MemoryError: Tried to allocate 24.00 GiB. More of it"
    assert capsys.readouterr().err == (
        f"trainyard: out of memory ({first}): it takes more memory than is free here; close what else runs, or say "
        "--device cpu to use this machine's own memory\n"
    )


def test_a_module_of_our_own_that_is_missing_is_no_missing_library() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'trainer\.lost'$"):
        dispatch("usage: python -m trainer VERB", {"find": "trainer.lost:main"}, ["find"])


@pytest.mark.parametrize(("room", "typed", "meant"), [("trainer", "mrege", "merge"), ("local", "rnu", "run")])
def test_an_unknown_verb_is_refused_with_the_nearest(
    room: str, typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ROOMS[room].main([typed]) == 78
    assert capsys.readouterr().err == (
        f"trainyard: unknown verb '{typed}', did you mean {meant}? known are {', '.join(known(room))}\n"
    )
    assert ROOMS[room].main([]) == 78


def test_a_reader_that_has_read_enough_ends_a_command_without_a_word() -> None:
    line = f"{sys.executable} -m trainer config --help | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("usage: python -m trainer config") and done.stderr == ""
