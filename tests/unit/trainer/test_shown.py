"""Text of records, folders and files at a terminal and in a card: nothing in it acts."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from finished_run import write_run

from launcher import cli
from launcher.progress import list_text, run_status, status_text
from launcher.records import Run
from trainer.outcome import ConfigError
from trainer.progress_file import Progress, write_progress
from trainer.results.card import model_card
from trainer.results.trained import Usage
from trainer.settings import say
from trainer.text import brief_example, format_table, markdown_cell, printable, printable_lines, shown, without_middle
from trainer.verbs import exit_code

# Sets the title, rings, clears, turns what follows around.
HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202egnp.b\r\x9b31m"
ESCAPED = "a\\x1b]0;owned\\x07\\x1b[2J\\u202egnp.b\\r\\x9b31m"


def acts(text: str) -> bool:
    return any(not c.isprintable() for c in text if c != "\n")


def test_what_a_terminal_would_act_on_is_written_as_an_escape() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("Füße 日本 🎮 a\\b") == "Füße 日本 🎮 a\\b"
    assert printable_lines(f"one\n{HOSTILE}\n\ttwo") == f"one\n{ESCAPED}\n\\ttwo"
    assert printable("\udc80") == "\\udc80"


def test_an_example_is_short_in_the_log_and_begins_and_ends_as_it_does() -> None:
    short = "masked (9 tokens): 'q'\ntrained (2 tokens): 'a'"
    assert brief_example(short) == short
    turns = [f"masked (900 tokens): '{'x' * 4000}{n}'\ntrained (2 tokens): 'answer {n}'" for n in range(15)]
    first, *others = brief_example("\n".join(turns)).split("\n")
    assert len(first) < 320 and first.startswith("masked (900 tokens): 'xxx") and first.endswith("xxx0'")
    assert [others[0], others[1], others[3]] == [
        "trained (2 tokens): 'answer 0'", "... 26 more parts ...", "trained (2 tokens): 'answer 14'",
    ]  # fmt: skip
    assert len(others) == 4


@pytest.mark.parametrize(
    ("length", "kept"), [(0, ""), (79, "a" * 79), (80, "a" * 80), (81, "a" * 77 + "..."), (500, "a" * 77 + "...")]
)
def test_what_is_quoted_has_eighty_characters_at_most(length: int, kept: str) -> None:
    assert shown("a" * length) == f"'{kept}'"


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [("abcdefgh", 8, "abcdefgh"), ("abcdefghi", 8, "abcd ... fghi"), ("abcdefghi", 7, "abc ... ghi"), ("", 2, "")],
)
def test_a_long_text_keeps_its_beginning_and_its_end(text: str, most: int, kept: str) -> None:
    assert without_middle(text, most) == kept


def test_tables_stay_aligned_and_quiet() -> None:
    assert format_table([("label", "n"), ("up\nx", "1"), (HOSTILE, "2")]) == "\n".join(
        ["label".ljust(len(ESCAPED)) + "  n", "up\\nx".ljust(len(ESCAPED)) + "  1", f"{ESCAPED}  2"]
    )


def test_status_list_and_complaints_show_names_and_last_words_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    write_progress(folder, Progress(phase="failed", written_at=1, said=HOSTILE))
    run = Run(folder=folder, record={"job_ids": []})
    seen = run_status(run, [])
    assert f"said   {ESCAPED}" in status_text(seen, "RUN=x").splitlines()
    for text in (status_text(seen, "RUN=x"), list_text([seen, HOSTILE])):
        assert not acts(text) and ESCAPED.split("\\r")[0] in text
    say([HOSTILE])
    cli.say(HOSTILE)

    def fails(_: list[str]) -> int:
        raise ConfigError(f"{HOSTILE}/empty.png is no image")

    assert exit_code(fails, []) == 78
    said = capsys.readouterr()
    assert said.out == "" and said.err.count(ESCAPED) == 3 and not acts(said.err)


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    """metrics.json of a run."""
    data = {"sha256": "abc123", "split": "eval.jsonl", "train": 9, "eval": 20, "frames": 1}
    run = write_run(tmp_path, data=data, peak_memory={"bytes": 1, "of": "resident memory"})
    return json.loads((run / "metrics.json").read_text())  # type: ignore[no-any-return]


HOSTILE_NAMES = ['x"); __import__("os").system("touch /tmp/owned"); ("', "x\n```\n# run me", "x'\\", HOSTILE, "日本"]


def card(entry: dict[str, Any], folder: str = "runs/r/adapter", **changes: Any) -> str:
    usage = Usage(
        device="cpu", quantization="nf4", answer_field=None, choices=None, answer_tokens=9, frames=1, context="",
        question=None,
    )  # fmt: skip
    return model_card({**entry, **changes}, Path(folder), usage)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_strings_and_comments_in_the_cards_code_and_nothing_else(name: str, entry: dict[str, Any]) -> None:
    """The model's folder stands in a comment, the card's own in a string."""
    for changes, plain in (
        ({"config": {**entry["config"], "model": f"/models/{name}"}}, {"config": {**entry["config"], "model": "/a/b"}}),
        ({"folder": f"runs/{name}/adapter"}, {}),
    ):
        text = card(entry, **changes)
        assert [line for line in text.splitlines() if acts(line)] == []
        assert text.count("\n```") == 2 and not acts(text)
        assert calls(text) == calls(card(entry, **plain))


def calls(text: str) -> list[str]:
    """What the card's code calls, in order."""
    code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)
    assert code
    return [ast.unparse(node.func) for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Call)]


def test_labels_stay_in_their_cells(entry: dict[str, Any]) -> None:
    from trainer.tracking.track import confusion_table  # above transformers and PEFT

    label = "up |\n\n# heading\n"
    text = card(entry, after={**entry["after"], "majority": label})
    assert "(up \\|\\n\\n# heading\\n) |" in text and "\n# heading" not in text
    rows = confusion_table({label: {label: 3}}).splitlines()
    assert rows == [f"| truth \\ answer | {markdown_cell(label)} |", "| --- | --- |", f"| {markdown_cell(label)} | 3 |"]
