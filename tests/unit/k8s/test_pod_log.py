"""Which lines of a pod's log are new when it is asked for again."""

from __future__ import annotations

from k8s.cluster.pod_log import Position, _after

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
