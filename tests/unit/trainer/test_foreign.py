"""Records of services and files of other kinds: read where they hold what is learned, else named with what helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.commands import training_command
from trainer.convert.captions import captioned
from trainer.convert.folders import files_in
from trainer.data.foreign import is_gemini
from trainer.data.records import load_dataset
from trainer.data.turns import FormError
from trainer.outcome import ConfigError

ASKED = {"role": "user", "content": "which?"}
REQUEST = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions"}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "?"}]}, {"role": "model", "parts": [{"text": "up"}]}]}


def batch(*turns: dict[str, str]) -> dict[str, Any]:
    return {**REQUEST, "body": {"model": "m", "messages": [*turns]}}


def write(folder: Path, *entries: Any) -> str:
    (folder / "d.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(folder / "d.jsonl")


def refusal(path: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_dataset(str(path), text_only=True)
    return str(caught.value)


@pytest.mark.parametrize("key", ["body", "params"])
def test_the_requests_of_a_batch_file_are_read_where_they_hold_answers(key: str, tmp_path: Path) -> None:
    entry = batch(ASKED, {"role": "assistant", "content": "up"})
    path = write(tmp_path, {**REQUEST, key: entry["body"]})
    dataset = load_dataset(path, text_only=True, eval_fraction=0)
    assert [(record.prompt, record.answer) for record in dataset.train] == [("which?", "up")]
    assert dataset.notes[0] == "not read: method in 1 records, url in 1 records, model in 1 records"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (batch(ASKED), "is a request of a batch file, and its answer is in the batch's output: add the answer to "
         "its messages, as a turn of role assistant"),
        ({"custom_id": "r-1", "response": {"body": {"choices": []}}}, "is an answer of a batch, and its question is in "
         "the batch's input: add the answer to the messages with the same custom_id there, as a turn of role "
         "assistant"),
        ({"key": "r-1", "request": GEMINI}, "has Gemini's form (contents with parts): write messages for contents, "
         'content for parts, assistant for model, and a picture as {"type": "image", "image": PATH}'),
        (GEMINI, "has Gemini's form (contents with parts): write messages for contents, content for parts, assistant "
         'for model, and a picture as {"type": "image", "image": PATH}'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 2])
def test_a_form_that_is_not_read_is_named_with_what_helps(entry: Any, said: str, count: int, tmp_path: Path) -> None:
    path = write(tmp_path, *[entry] * count)
    places = "d.jsonl line 1, 2" if count == 2 else "d.jsonl line 1"
    assert (
        refusal(path)
        == f"{path}: 0 of {count} records would be left: {count} of {count} records left out: {said} ({places})"
    )


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (GEMINI["contents"], True),
        ([{"text": "up"}], False),
        (["the parts of a text"], False),
        ([], False),
        ("up", False),
    ],
)
def test_only_turns_with_parts_are_geminis(contents: Any, found: bool) -> None:
    assert is_gemini({"contents": contents}) is found


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("d.txt", "image,question,answer\na.png,which?,up\n", "commas between its cells, and no JSON: name it d.csv, "),
        ("table", "\ufeffimage\tanswer\na.png\tup\n", "tabs between its cells, and no JSON: name it table.tsv, then "),
        ("d.jsonl", "image,text\na.png,\"x, y\"\n", "commas between its cells, and no JSON: name it d.csv, "),
        ("long.dat", f"image,text\na.png,{'x' * 600}\n", "commas between its cells, and no JSON: name it long.csv"),
        ("d.dat", "image;answer\na.png;up\n", "semicolons between its cells, and no JSON: name it d.csv, then "),
    ],
)  # fmt: skip
def test_a_table_under_another_ending_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name} is a table with {said}")


def test_lines_that_look_like_a_table_in_front_of_records_are_faults_of_these_lines(tmp_path: Path) -> None:
    good = json.dumps({"question": "which?", "output": "up"})
    (tmp_path / "d.jsonl").write_text(f"made, by\n{good}\n{good}\n")
    assert load_dataset(str(tmp_path / "d.jsonl"), text_only=True).unusable == 1


def test_pictures_with_texts_beside_them_are_named_with_the_command_that_reads_them(tmp_path: Path) -> None:
    for name, content in (("a.png", ""), ("a.txt", "a cat"), ("b.JPG", ""), ("b.caption", "\xe9"), ("c.png", "")):
        (tmp_path / name).write_text(content, encoding="latin-1")
    command = training_command("trainer", "convert", str(tmp_path), f"{tmp_path.name}-records")
    assert refusal(tmp_path) == (
        f"DATA={tmp_path}: holds pictures with a text beside each (a.png, a.txt) and no JSON: {command} "
        "--question TEXT makes records with one question, the texts as answers"
    )
    good, bad, bare = captioned(tmp_path, files_in(tmp_path))["train"]
    assert good == {"image": {"path": "a.png"}, "answer": "a cat"}
    assert isinstance(bad, FormError) and "b.JPG has a text in b.caption that is not UTF-8" in str(bad)
    assert isinstance(bare, FormError) and str(bare) == f"{tmp_path}/c.png has no text file beside it"
    (tmp_path / "metadata.csv").touch()
    assert captioned(tmp_path, files_in(tmp_path)) == {}
