"""The names that other trainers give a record's columns; `columns` and `session_key` for all other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.columns import parse_columns
from trainer.data.forms import read_form
from trainer.data.records import load_dataset
from trainer.data.turns import FormError, Picture, Turn
from trainer.outcome import ConfigError
from trainer.settings import resolve_settings

A = Picture(paths=("a.png",))


def user(*parts: str | Picture) -> Turn:
    return Turn(role="user", parts=parts)


def said(text: str) -> Turn:
    return Turn(role="assistant", parts=(text,), learned=True)


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("entry", "turns"),
    [
        ({"instruction": "do", "input": "this", "output": "up"}, (user("do\n\nthis"),)),
        ({"instruction": "do", "input": "", "output": "up", "images": ["a.png"]}, (user(A, "do"),)),
        ({"instruction": "<image>do", "output": "up", "images": ["a.png"], "system": "s"},
         (Turn(role="system", parts=("s",)), user(A, "do"))),
        ({"input": "this", "output": "up"}, (user("this"),)),
        ({"query": "q", "response": "up", "image": "a.png"}, (user(A, "q"),)),
        ({"query": "q", "response": "up", "history": [["a", "b"]]}, (user("a"), said("b"), user("q"))),
        ({"instruction": "q", "input": "", "output": "up", "history": []}, (user("q"),)),
        ({"prefix": "q", "suffix": "up", "image": "a.png"}, (user(A, "q"),)),
        ({"prompt": "q", "completion": "up"}, (user("q"),)),
        ({"prompt": [turn("user", "q")], "completion": "up"}, (user("q"),)),
        ({"prompt": [turn("user", "q")], "completion": turn("assistant", "up")}, (user("q"),)),
        ({"prompt": [turn("user", "q")], "completion": [turn("assistant", "up")], "images": ["a.png"]},
         (user(A, "q"),)),
        ({"question": "q", "answer": "up", "context": None}, (user("q"),)),
        ({"question": "q", "output": "up"}, (user("q"),)),
        ({"messages": [turn("developer", "s"), turn("user", "q"), turn("user", "r"), turn("assistant", "up")]},
         (Turn(role="system", parts=("s",)), user("q\n\nr"))),
        ({"messages": [turn("user", "What is this?"), turn("user", [{"type": "image", "image": "a.png"}]),
                       turn("assistant", "up")]}, (user("What is this?", A),)),
        ({"conversations": [turn("user", "<image>q"), turn("assistant", "up")], "image": "a.png"}, (user(A, "q"),)),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "up"}]}, (user("q"),)),
        ({"messages": json.dumps([turn("USER", "q"), turn("Assistant", "up")])}, (user("q"),)),
        ({"messages": None, "question": "q", "output": "up"}, (user("q"),)),
        ({"messages": [turn("user", [{"type": "input_image", "image_url": "a.png"},
                                     {"type": "input_text", "text": "q"}]),
                       turn("assistant", [{"type": "output_text", "text": "up"}])]}, (user(A, "q"),)),
        ({"messages": [turn("user", [{"image": "a.png"}, {"text": "q"}]), turn("assistant", "up")]}, (user(A, "q"),)),
        ({"image": {"<image_00>": "a.png", "<image_01>": "b.png"},
          "conversations": [turn("user", "<image_00>then<image_01>"), turn("assistant", "up")]},
         (user(A, "then", Picture(paths=("b.png",))),)),
    ],
)  # fmt: skip
def test_the_columns_of_other_trainers_are_known(entry: Any, turns: tuple[Turn, ...]) -> None:
    form = read_form(entry)
    assert form.turns == (*turns, said("up"))
    assert [name for name, value in form.unread if value not in ("", [])] == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question": "q", "prompt": "p", "answer": "a"},
         ": question and prompt may each be the question: columns: question=question says which one is"),
        ({"question": "q", "answer": "a", "response": "b"},
         ": response and answer may each be the answer: columns: answer=response says which one is"),
        ({"query": "q", "result": "a"}, " lacks output (it has 'query, result'); columns: answer=result would read it"),
        ({"Question": "q", "Answer": "a", "Image": "a.png"}, " lacks question and output (it has 'Question, Answer, "
         "Image'); columns: question=Question,answer=Answer,image=Image would read it"),
        ({"image": "a.png", "caption": "c"}, " lacks question and output (it has 'image, caption'); columns: "
         "answer=caption learns that"),
        ({" question": "q", "output": "a"}, " lacks question (it has ' question, output')"),
        ({"image": "a.png", "a": "1", "b": "2", "c": "3"}, " lacks question and output (it has 'image, a, b, c')"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, " lacks output (it has 'prompt, chosen, rejected'); columns: "
         "answer=chosen learns chosen, and not which of the two is better"),
    ],
)  # fmt: skip
def test_a_record_that_may_mean_two_things_is_named(entry: Any, message: str) -> None:
    with pytest.raises(FormError) as caught:
        read_form(entry)
    assert str(caught.value) == message


def write(folder: Path, *rows: Any) -> str:
    (folder / "a.png").write_bytes(bytes.fromhex("89504e470d0a1a0a"))
    (folder / "d.json").write_text(json.dumps(rows))
    return str(folder / "d.json")


def test_the_setting_names_any_columns(tmp_path: Path) -> None:
    rows = [{"ask": "q", "label": "up", "photo": "a.png", "output": "x"}, {"other": 1}]
    dataset = load_dataset(write(tmp_path, *rows), columns="question=ask, answer=label,image=photo", eval_fraction=0)
    (record,) = dataset.train
    assert (record.prompt, record.answer, record.images[0].name) == ("q", "up", "a.png")
    assert dataset.notes == ("not read: output (beside columns) in 1 records",)
    assert dataset.left_out == (
        "1 of 2 records left out: lacks ask, label, photo, which columns names (d.json record 2)",
    )
    talk = [{"talk": [{"who": "user", "what": "q"}, {"who": "assistant", "what": "up"}]}]
    dataset = load_dataset(
        write(tmp_path, *talk), columns="messages=talk,role=who,content=what", eval_fraction=0, text_only=True
    )
    assert [(r.prompt, r.answer) for r in dataset.train] == [("q", "up")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question", "columns: 'question': write COLUMN=KEY OF YOUR RECORDS"),
        ("questoin=q", "columns: 'questoin=q': write COLUMN=KEY OF YOUR RECORDS, with commas between: the columns are "
                       "context, question, output, system, image, images, frames, split, answer, messages, role, "
                       "content, did you mean question?"),
        ("image=a,image=b", "columns: 'image=b': each column and each key stands in it once"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_columns(text)
    assert str(caught.value).startswith(said)


def test_a_yaml_file_takes_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("columns:\n  question: ask\n  answer: label\n")
    settings = resolve_settings(["--config", str(tmp_path / "t.yaml")], {})
    assert settings.values["columns"] == "question=ask,answer=label"


def test_sessions_are_kept_together_by_any_key_and_a_likely_one_is_named(tmp_path: Path) -> None:
    rows = [{"question": "q", "output": "up", "trajectory_id": f"t{i // 10}", "step": i} for i in range(40)]
    path = write(tmp_path, *rows)
    hint = "trajectory_id has 4 values in 40 records, as sessions do: session_key: trajectory_id never divides one of"
    assert any(note.startswith(hint) for note in load_dataset(path, text_only=True).notes)
    dataset = load_dataset(path, text_only=True, session_key="trajectory_id")
    assert dataset.split == "1 of 4 sessions held out"
    with pytest.raises(ConfigError, match=r"^session_key='trajectory': no record has it: the records have output, "):
        load_dataset(path, text_only=True, session_key="trajectory")
