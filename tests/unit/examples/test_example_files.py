"""The files in examples/ are what their pages say."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from trainer.data.records import load_dataset
from trainer.data.turns import Turn
from trainer.settings import resolve_settings

EXAMPLES = ROOT / "examples"
RECORDS = EXAMPLES / "records"


def turns(name: str) -> list[tuple[tuple[Turn, ...], str]]:
    found = load_dataset(str(RECORDS / name), text_only=name == "text.jsonl")
    return [(record.turns, record.answer) for record in found.train]


@pytest.mark.parametrize("name", ["messages.jsonl", "messages-parts.jsonl", "conversations.jsonl"])
def test_the_forms_say_the_same(name: str) -> None:
    assert turns(name) == turns("flat.jsonl")
    assert len(turns(name)) == 2


def test_several_answers_are_all_learned() -> None:
    ((said, answer),) = turns("several-answers.jsonl")
    assert [turn.parts for turn in said if turn.learned] == [('{"button": "down"}',)]
    assert answer == '{"button": "right"}'


def test_a_record_without_a_picture_is_text() -> None:
    ((said, _),) = turns("text.jsonl")
    assert [part for turn in said for part in turn.parts if not isinstance(part, str)] == []


def test_the_page_names_every_file() -> None:
    named = re.findall(r"\]\(([\w-]+\.jsonl)\)", (RECORDS / "README.md").read_text())
    table = (RECORDS.parent.parent / "docs" / "your-data.md").read_text()
    named += re.findall(r"\]\(\.\./examples/records/([\w-]+\.jsonl)\)", table)
    assert sorted(named) == sorted(path.name for path in RECORDS.glob("*.jsonl"))


def test_the_settings_are_known_and_taken() -> None:
    path = str(EXAMPLES / "train.yaml")
    settings = resolve_settings(["--config", path], {})
    assert {name: settings.values[name] for name, source in settings.sources.items() if source == path} == {
        "eval_steps": 100, "early_stopping_patience": 4, "eval_samples": 32, "learn": "all", "strict": True,
    }  # fmt: skip
    assert settings.notices == ()
