"""docs/exit-codes.md has the words and codes that the schedulers share, as launcher/states.py has them. `make golden`
writes the tables."""

from __future__ import annotations

import os
import re

import pytest
from paths import ROOT

from launcher.states import EVERY, EXIT_CODES, STATES, State, next_step

PAGE = ROOT / "docs" / "exit-codes.md"
MARK = "<!-- made from launcher/states.py by make golden: {} -->\n"
WORDS, AGAIN = "RUN=x", "make resume RUN=x"


def codes_table() -> str:
    rows = [("code", "means", "what to do", "Slurm", "Kubernetes", "this machine")]
    rows += [("---",) * 6]
    rows += [(str(c.code), c.means, c.next, c.slurm, c.k8s, c.local) for c in EXIT_CODES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def states_table() -> str:
    rows = [("word", "means", "said by", "next"), ("---",) * 4]
    rows += [(f"`{state.word}`", state.means, said_by(state), shown_next(state)) for state in STATES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def said_by(state: State) -> str:
    return "all" if state.said_by == EVERY else ", ".join(state.said_by)


def shown_next(state: State) -> str:
    text = state.next.format(words=WORDS, again=AGAIN)
    return re.sub(r"make \w+( [A-Z]+=[\w.]+)+", lambda found: f"`{found[0]}`", text)


@pytest.mark.parametrize(("name", "table"), [("codes", codes_table()), ("states", states_table())])
def test_the_page_has_the_tables_that_the_code_has(name: str, table: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, mark, rest = text.partition(MARK.format(name))
    assert mark
    made = f"{before}{mark}{table}\n\n{rest.partition(chr(10) * 2)[2]}"
    if os.environ.get("TRAINYARD_REWRITE_GOLDEN"):
        PAGE.write_text(made, encoding="utf-8")
        text = made
    assert text == made


def test_a_word_that_the_table_lacks_is_followed_or_read() -> None:
    """Slurm has such, and newer ones than this table."""
    live, ended = (next_step("NEW_WORD", 0, ended=ended, words=WORDS, again=AGAIN) for ended in (False, True))
    assert live == "make logs RUN=x (follows it; make cancel RUN=x ends it)"
    assert ended == "make logs RUN=x (what happened), then make resume RUN=x"


def test_a_live_job_is_not_told_what_follows_an_end() -> None:
    """Slurm's STOPPED is a job that somebody halted: resume refuses it."""
    live, ended = (next_step("STOPPED", 0, ended=ended, words=WORDS, again=AGAIN) for ended in (False, True))
    assert live == "make logs RUN=x (follows it; make cancel RUN=x ends it)"
    assert ended == "make resume RUN=x (goes on from its newest checkpoint)"


def test_a_wrong_request_is_never_resumed_whatever_the_word() -> None:
    for state in STATES:
        said = next_step(state.word, 78, ended=True, words=WORDS, again=AGAIN)
        assert said.endswith("then make submit with another")
    for words, begins in (("TO=local RUN=x", "make run"), ("TO=k8s RUN=x", "make submit TO=k8s")):
        assert next_step("FAILED", 78, ended=True, words=words, again=AGAIN).endswith(f"then {begins} with another")
