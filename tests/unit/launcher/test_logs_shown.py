"""A run's log on a terminal: libraries, records and whoever can write into the folder speak there."""

from __future__ import annotations

import io

import pytest

from launcher.logs import pass_on

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202egnp.b\x9b31m"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"plain\n\ttab\n", "plain\n\ttab\n"),
        ("F\u00fc\u00dfe \u65e5\u672c \u2501\n".encode(), "F\u00fc\u00dfe \u65e5\u672c \u2501\n"),
        (b"\x1b[1;31mred\x1b[0m\n", "red\n"),
        (b"1%\r50%\r\nend", "1%\n50%\nend"),
        (HOSTILE.encode(), "a\\x1b]0;owned\\x07\\x1b[2J\\u202egnp.b\\x9b31m"),
        (b"half \xc3", "half \\xc3"),
        (b"", ""),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(
    content: bytes, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pass_on(io.BufferedReader(io.BytesIO(content))) == len(content)  # type: ignore[type-var]
    assert capsys.readouterr().out == shown


def test_a_letter_that_two_blocks_share_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    content = b"x" * ((1 << 16) - 1) + "\u00fc\n".encode()
    pass_on(io.BytesIO(content))
    assert capsys.readouterr().out == content.decode()
