"""What a record holds beside what is read is counted or refused; what cannot be read is left out and counted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from trainer.data.names import is_quiet
from trainer.data.records import load_dataset
from trainer.outcome import ConfigError

PNG = bytes.fromhex("89504e470d0a1a0a")
NAMES = (
    "image_path", "img", "video", "clips", "bbox", "audio", "reward", "hint", "Label", "screen shot", "metadata", "id",
    "weight", "loss", "tools", "thought", "ünïcode", "role", "content", "text", "image ", "objects", "answers",
    "loss_weight", "Sample_Weight", "loss_mask", "trainable", "train", "training", "tool_calls", "frames_dir", "",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, "", [], {}, 0, 1.5, True, "words", "a.png", "no.png", "v.mp4", ["a.png"], {"path": "a.png"}, [[1, 2, 3, 4]],
    "data:image/png;base64,iVBORw0KGgo", "https://x.org/a.png", {"deep": {"er": "a.png"}}, False, 0.5, 1, [0, 1], -1,
    [[["a.png"]]], [{"function": {"name": "press"}}], "0", "x" * 500, float("nan"),
)  # fmt: skip
MARKERS = (
    "", "<image>", "<video>", "<|image|>", "<img>a.png</img>", "<box>(1,2),(3,4)</box>", "{{image}}", "<audio>",
    "![x](a.png)", "<|vision_start|>", "a < b", "<b>bold</b>",
)  # fmt: skip
FORMS = ("flat", "alpaca", "query", "prefix", "messages", "parts", "conversations", "episode")
SWITCHES = {"loss_weight", "sample_weight", "loss_mask", "trainable"}
"""Keys that say how much is learned, to other trainers."""
EMPTY: tuple[Any, ...] = (None, "", [], {})


def draw(chance: random.Random) -> tuple[dict[str, Any], list[str]]:
    """(a record, the names of what it holds beside the form)"""
    marker, form = chance.choice(MARKERS), chance.choice(FORMS)
    asked, answer = f"{marker} which?", chance.choice(("up", "down", "", 7, None, {"a": 1}, "<box>(1,2),(3,4)</box>"))
    more = {_name(chance): chance.choice(VALUES) for _ in range(chance.randrange(4))}
    picture = chance.choice(({}, {"image": "a.png"}, {"images": ["a.png", "a.png"]}, {"image": None}, {"image": 3}))
    if form in ("flat", "alpaca", "query", "prefix"):
        question, said = {"flat": ("question", "output"), "alpaca": ("instruction", "output"),
                          "query": ("query", "response"), "prefix": ("prefix", "suffix")}[form]  # fmt: skip
        return {**more, **picture, question: asked, said: answer}, [*more]
    content: Any = asked
    if form == "parts":
        content = [{"type": chance.choice(("text", "image", "video", "image_url")), "text": asked, **more}]
        more = {}
    if form == "episode":
        turns = [{"role": role, "content": text, **chance.choice((more, {}, {}))} for role, text in (
            ("system", f"play {marker}"), ("user", asked), ("assistant", "left"), ("user", "and?"),
            ("assistant", answer), *chance.choice(((), (("user", f"{marker} now?"),))))]  # fmt: skip
        return {"messages": turns, **picture}, [*more] if any(turn.keys() & more.keys() for turn in turns) else []
    keys = ("from", "value") if form == "conversations" else ("role", "content")
    turns = [{keys[0]: "user", keys[1]: content, **chance.choice((more, {}))}, {keys[0]: "assistant", keys[1]: answer}]
    return {form if form == "conversations" else "messages": turns, **picture, **more}, [*more]


def _name(chance: random.Random) -> str:
    """A known one, or one that nobody has thought of."""
    made = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz_ABC") for _ in range(chance.randrange(1, 9)))
    return chance.choice((*NAMES, made, made))


def values_of(record: Any, name: str) -> list[Any]:
    """All that stands under `name` in a record, its turns and their parts."""
    inside = record.values() if isinstance(record, dict) else record if isinstance(record, list) else ()
    here = [record[name]] if isinstance(record, dict) and name in record else []
    return [*here, *(found for each in inside for found in values_of(each, name))]


def means_nothing(name: str, value: Any) -> bool:
    """Whether a key may go by without a word: it is empty, says who or where from, or is read."""
    if value in EMPTY or is_quiet(name):
        return True
    if name in ("weight", "loss", "train", "training"):
        return value in (0, 1) or isinstance(value, bool)
    return name in ("text", "image", "images", "frames", "role", "content")


@pytest.mark.parametrize("seed", range(3))
def test_no_record_is_trained_on_with_something_unread_that_is_not_counted(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "d.jsonl"
    outcomes = {"refused": 0, "left out": 0, "counted": 0, "whole": 0}
    for _ in range(150):
        record, names = draw(chance)
        good = {"image": "a.png", "question": "and?", "output": "left"}
        path.write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
        try:
            dataset = load_dataset(str(path), eval_fraction=0)
        except ConfigError as error:
            assert "not read, " in str(error), (record, str(error))
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
            for value in values_of(record, name):
                assert means_nothing(name, value) or name in said or "other keys" in said, (record, dataset.notes)
                assert name.lower() not in SWITCHES or value in (1, *EMPTY), record
        outcomes["counted" if names else "whole"] += 1
    assert min(outcomes.values()) > 1, outcomes
