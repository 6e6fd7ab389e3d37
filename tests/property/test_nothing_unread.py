"""What a record holds beside what is read is counted or refused; what cannot be read is left out and counted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from trainer.data.records import Dataset, load_dataset
from trainer.data.unread import _is_quiet
from trainer.outcome import ConfigError

PNG = bytes.fromhex("89504e470d0a1a0a")
NAMES = (
    "image_path", "img", "video", "clips", "bbox", "audio", "reward", "hint", "Label", "screen shot", "metadata", "id",
    "weight", "loss", "tools", "thought", "ünïcode", "role", "content", "text", "image ", "objects", "answers",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, "", [], {}, 0, 1.5, True, "words", "a.png", "no.png", "v.mp4", ["a.png"], {"path": "a.png"}, [[1, 2, 3, 4]],
    "data:image/png;base64,iVBORw0KGgo", "https://x.org/a.png", {"deep": {"er": "a.png"}},
)  # fmt: skip
MARKERS = (
    "", "<image>", "<video>", "<|image|>", "<img>a.png</img>", "<box>(1,2),(3,4)</box>", "{{image}}", "<audio>",
    "![x](a.png)", "<|vision_start|>", "a < b", "<b>bold</b>",
)  # fmt: skip
FORMS = ("flat", "alpaca", "query", "prefix", "messages", "parts", "conversations")
EMPTY: tuple[Any, ...] = (None, "", [], {})


def draw(chance: random.Random) -> tuple[dict[str, Any], list[str]]:
    """(a record, the names of what it holds beside the form)"""
    marker, form = chance.choice(MARKERS), chance.choice(FORMS)
    asked, answer = f"{marker} which?", chance.choice(("up", "down", "", 7, None, {"a": 1}, "<box>(1,2),(3,4)</box>"))
    more = {chance.choice(NAMES): chance.choice(VALUES) for _ in range(chance.randrange(3))}
    picture = chance.choice(({}, {"image": "a.png"}, {"images": ["a.png", "a.png"]}, {"image": None}, {"image": 3}))
    if form in ("flat", "alpaca", "query", "prefix"):
        question, said = {"flat": ("question", "output"), "alpaca": ("instruction", "output"),
                          "query": ("query", "response"), "prefix": ("prefix", "suffix")}[form]  # fmt: skip
        return {**more, **picture, question: asked, said: answer}, [*more]
    content: Any = asked
    if form == "parts":
        content = [{"type": chance.choice(("text", "image", "video", "image_url")), "text": asked, **more}]
        more = {}
    keys = ("from", "value") if form == "conversations" else ("role", "content")
    turns = [{keys[0]: "user", keys[1]: content, **chance.choice((more, {}))}, {keys[0]: "assistant", keys[1]: answer}]
    return {form if form == "conversations" else "messages": turns, **picture, **more}, [*more]


def texts(dataset: Dataset) -> set[str]:
    return {record.prompt for record in (*dataset.train, *dataset.eval)}


@pytest.mark.parametrize("seed", range(3))
def test_no_record_is_trained_on_with_something_unread_that_is_not_counted(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "d.jsonl"
    outcomes = {"refused": 0, "left out": 0, "counted": 0, "whole": 0}
    for _ in range(100):
        record, names = draw(chance)
        good = {"image": "a.png", "question": "and?", "output": "left"}
        path.write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
        try:
            dataset = load_dataset(str(path), eval_fraction=0)
        except ConfigError as error:
            assert "not read, so the model would not see it" in str(error), (record, str(error))
            outcomes["refused"] += 1
            continue
        if dataset.unusable:
            assert (len(dataset.train), len(dataset.left_out)) == (1, 1), record
            outcomes["left out"] += 1
            continue
        kept = dataset.train[1]
        # The answer is what the record says, and no picture of another key was passed over.
        assert kept.answer in json.dumps(record), record
        said = " ".join(dataset.notes)
        for name in names:
            value = record.get(name, EMPTY[0])
            if value in EMPTY or _is_quiet(name) or name in ("weight", "loss", "image "):
                continue
            assert name in said, (record, dataset.notes)
        outcomes["counted" if names else "whole"] += 1
    assert min(outcomes.values()) > 1, outcomes
