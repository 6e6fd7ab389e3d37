"""Which lines of a pod's log are new when it is asked for again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from programs import make_program

from k8s.cluster.kubectl import Kubectl
from k8s.cluster.pod_log import Position, _after, follow

ONE, SAME, SAME_TOO = (f"2030-01-01T00:00:{second}Z {text}\n".encode() for second, text in (
    ("01.5", "one"), ("02.25", "same"), ("02.250000000", "same, written otherwise"),
))  # fmt: skip
NEXT = b"2030-01-01T00:00:02.250000001Z next\n"
LATER = b"2030-01-01T00:00:03Z later\n"
BROKEN = b"unexpected EOF\n"


def new(position: Position, *lines: bytes) -> list[bool]:
    return [*map(_after(position), lines)]


def test_lines_of_one_moment_are_told_apart_by_their_number() -> None:
    position = Position()
    assert new(position, ONE, SAME, SAME) == [True, True, True]
    assert position == Position(
        second="2030-01-01T00:00:02Z", moment=(b"2030-01-01T00:00:02", b"250000000"), lines=2
    )  # fmt: skip
    # Asked since that second, the server repeats all of it: two lines of the moment were printed, the third was not.
    assert new(position, SAME, SAME, SAME_TOO, NEXT) == [False, False, True, True]
    assert position == Position(
        second="2030-01-01T00:00:02Z", moment=(b"2030-01-01T00:00:02", b"250000001"), lines=1
    )  # fmt: skip
    assert new(position, SAME, SAME, SAME_TOO, NEXT, LATER) == [False, False, False, False, True]
    assert position == Position(second="2030-01-01T00:00:03Z", moment=(b"2030-01-01T00:00:03", b"000000000"), lines=1)


def test_a_line_that_is_cut_into_the_next_answer_does_not_move_the_position() -> None:
    position = Position()
    assert new(position, SAME, BROKEN, SAME) == [True, True, True]
    assert new(position, SAME, SAME, BROKEN, SAME) == [False, False, True, True]
    assert position.lines == 3


def test_an_offset_of_the_nodes_clock_is_asked_for_as_it_was_written() -> None:
    position = Position()
    assert new(position, b"2030-01-01T02:00:01.5+02:00 one\n") == [True]
    assert position.second == "2030-01-01T02:00:01+02:00"


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ('Error from server (Forbidden): pods "p" is forbidden: no logs for you',
         'trainyard: kubectl logs: Error from server (Forbidden): pods "p" is forbidden: no logs for you\n'),
        ("W1130 23:00:00.000000 7 warnings.go:70] old\nError from server (Forbidden): forbidden",
         "trainyard: kubectl logs: Error from server (Forbidden): forbidden\n"),
    ],
)  # fmt: skip
def test_what_kubectl_complains_of_is_said_and_who_may_not_see_a_log_does_not_ask_again(
    complaint: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "complaint").write_text(f"{complaint}\n")
    make_program(str(tmp_path), "kubectl", f"echo asked >> '{tmp_path}/asked'; cat '{tmp_path}/complaint' >&2; exit 1")
    kubectl = Kubectl(environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    follow(kubectl, {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    assert capsys.readouterr().err == said
    assert (tmp_path / "asked").read_text() == "asked\n"
