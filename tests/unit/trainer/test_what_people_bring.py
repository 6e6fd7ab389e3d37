"""Sets that people bring, one row each: what is learned of it and said, or in which words it is refused."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer.commands import training_command
from trainer.data.faults import FORMAT_HINT
from trainer.data.records import load_dataset
from trainer.outcome import ConfigError

# Two black pixels a side; Pillow is no part of the launch side, where this file is run too.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000002000000020802000000fdd49a730000000b49444154789c6360400600000e0001a99173b1"
    "0000000049454e44ae426082"
)
GOOD = {"image": "a.png", "question": "which?", "output": "up"}
LEARNED = ("which?", "up", ["a.png"])
ALTERNATE = "messages takes turns that alternate user, assistant, behind system turns at most, with an answer"
PICTURES = (
    "pictures go under image, images or frames, <image> being their place in the text: rename the key (columns: "
    "image=KEY does), or remove it"
)
OTHERS = "videos, audio and boxes are not shown: leave them out, or write a box as words"
SWITCHES = (
    "answers alone are learned, all alike, and none is compared: leave such records out, remove the key, or write "
    "weight 0, loss false, training false or mask true, which only shows an answer"
)
TEXT = "text_only: true is for a set that is text alone, its markers words"
CONVERT = training_command("trainer", "convert")


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def talk(*turns: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"images": ["a.png"], "messages": list(turns), **beside}


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def good(**more: Any) -> dict[str, Any]:
    return {**GOOD, **more}


ASKED, SAID = turn("user", "<image>which?"), turn("assistant", "up")
STEPS = [good(question=f"step {n}", annotation_id=f"t{n // 10}") for n in range(20)]
IN_BASE64 = base64.b64encode(PNG).decode()
# (the file, what is learned of its last record: prompt, answers and pictures; the notes)
READ: dict[str, tuple[str | bytes, tuple[str, str, list[str]], tuple[str, ...]]] = {
    "a marker within a flat question": (
        lines(good(question="see <image> now")), ("see \n\n now", "up", ["a.png"]), ()),
    "a marker of another model within a flat question": (
        lines(good(question="see <|image|> now")), ("see \n\n now", "up", ["a.png"]), ()),
    "an img tag within a flat question": (
        lines(good(question="see <img> now")), ("see \n\n now", "up", ["a.png"]), ()),
    "a marker of a template within a flat question": (
        lines(good(question="see {{image}} now")), ("see \n\n now", "up", ["a.png"]), ()),
    "a marker within a text part": (
        lines(talk(turn("user", [{"type": "text", "text": "see <image> now"}]), SAID)),
        ("see \n\n now", "up", ["a.png"]), ()),
    "loss false on the last answer, as ms-swift writes it": (
        lines(talk(ASKED, SAID, turn("user", "and?"), turn("assistant", "down", loss=False))), LEARNED, ()),
    "weight 0 on the first answer, as OpenAI writes it": (
        lines(talk(ASKED, turn("assistant", "no", weight=0), turn("user", "and?"), turn("assistant", "up", weight=1))),
        ("which?\n\nno\n\nand?", "up", ["a.png"]),
        ("1 answers say weight 0, loss false or mask true: shown to the model, and not trained on",)),
    "two turns of the user behind a system prompt, as OpenAI's example has them": (
        lines({"messages": [turn("system", "be brief"), turn("user", "which?"),
                            turn("user", [{"type": "image_url", "image_url": {"url": "a.png"}}]), SAID]}),
        ("be brief\n\nwhich?", "up", ["a.png"]), ()),
    "steps of one session under a key that is not known": (
        lines(*STEPS), ("step 19", "up", ["a.png"]), (
            "annotation_id has 2 values in 20 records, as sessions do: session_key: annotation_id never divides one "
            "of them between training and held-out records",)),
    "a NUL within the text": (lines(good(question="left\0right")), ("left\0right", "up", ["a.png"]), ()),
    "an answer of nested JSON": (
        lines(good(output={"press": {"button": "up"}})), ("which?", '{"press": {"button": "up"}}', ["a.png"]),
        ("1 answers are JSON values, learned as their text, for example '{\"press\": {\"button\": \"up\"}}'",)),
    "an answer that is false": (
        lines(good(output=False)), ("which?", "false", ["a.png"]),
        ("1 answers are JSON values, learned as their text, for example 'false'",)),
    "mask true on the first answer": (
        lines(talk(ASKED, turn("assistant", "no", mask=True), turn("user", "and?"), {**SAID, "mask": False})),
        ("which?\n\nno\n\nand?", "up", ["a.png"]),
        ("1 answers say weight 0, loss false or mask true: shown to the model, and not trained on",)),
    "a question whose mask is true, as torchtune writes it": (
        lines(talk(turn("user", "<image>which?", masked=True), turn("assistant", "up", masked=False))), LEARNED, ()),
    "an answer beside a conversation": (
        lines({"images": ["a.png"], "messages": [ASKED], "response": "up"}), LEARNED, ()),
    "pictures and captions in COCO's form": (
        json.dumps({"info": {}, "images": [{"id": 7, "file_name": "a.png"}],
                    "annotations": [{"id": 1, "image_id": 7, "question": "which?", "answer": "up"}]}), LEARNED,
        ("d.jsonl is one object: the 1 records in it are read",)),
    "roles in brackets, as DeepSeek-VL writes them": (
        lines({"image": "a.png", "messages": [turn("<|User|>", "which?"), turn("<|Assistant|>", "up")]}), LEARNED, ()),
    "the number of a choice, as ScienceQA writes it": (
        lines(good(output=1, choices=["down", "up"])), ("which?", "1", ["a.png"]), (
            "not read: choices in 1 records",
            "1 answer is the number of a text in 'choices', which is not shown: write these texts into the question",
            "1 answers are JSON values, learned as their text, for example '1'")),
    "sides under another key": (
        lines(good(subset="val"), good(subset="Train")), LEARNED, (
            "not read: subset in 2 records",
            "'subset' names sides, and divides nothing: columns: split=subset makes it divide")),
    "sides under another key, where a split divides": (
        lines(good(subset="val", split="train"), good(subset="Train", split="train"), good(subset="val", split="test")),
        LEARNED, (
            "not read: subset in 3 records",
            "as the split of the records says, 2 are trained on, 0 held out, 1 not used (test)")),
    "a text and an answer that is a turn, as some write pairs": (
        lines({"image": "a.png", "context": "look", "prompt": "which?", "completion": [SAID]}),
        ("look\n\nwhich?", "up", ["a.png"]), ()),
    "roles with ends of lines and tabs, in capitals": (
        lines({"images": ["a.png"], "messages": [turn("User\t", "which?")], "answer": "up"},
              talk(turn("user\r", "which?"), turn("Assistant\r\n", "up"))), LEARNED, ()),
    "an answer beside a conversation, whose user is in capitals": (
        lines({"images": ["a.png"], "messages": [turn("User\r", "which?")], "answer": {"button": "up"}}),
        ("which?", '{"button": "up"}', ["a.png"]), (
            "1 answers are JSON values, learned as their text, for example '{\"button\": \"up\"}'",)),
    "a mask that is words, in a user's turn": (
        lines(talk({**ASKED, "mask": "of the arrow"}, SAID)), LEARNED, ("not read: mask in 1 records",)),
    # The same kinds, further.
    "lines that are packed and pretty": (
        gzip.compress(("\n".join(json.dumps(GOOD, indent=1) for _ in range(3))).encode(), mtime=0), LEARNED, ()),
    "empty lines before, between and behind": (f"\n\n{lines(GOOD)}\n \n{lines(GOOD)}\n", LEARNED, ()),
    "a separator of lines of Unicode within the text": (
        json.dumps(good(question="left\u2028right"), ensure_ascii=False), ("left\u2028right", "up", ["a.png"]), ()),
    "ends of lines of two systems within the text": (
        lines(good(question="a\rb\r\nc")), ("a\rb\r\nc", "up", ["a.png"]), ()),
    "a path as Windows writes it": (lines(good(image=".\\a.png")), LEARNED, ()),
    "a path where a list is usual": (lines({**GOOD, "image": None, "images": "a.png"}), LEARNED, ()),
    "no picture under one key, one under another": (lines(good(image=None, images=["a.png"])), LEARNED, ()),
    "a picture's address in a mapping that is a path": (lines(good(image={"url": "a.png"})), LEARNED, ()),
    "the picture that is read is named among frames of a video": (
        lines(good(video_frames=["a.png"] * 4)), LEARNED, ("not read: video_frames in 1 records",)),
    "the choices beside the answer": (lines(good(choices=["up", "down"])), LEARNED, (
        "not read: choices in 1 records",)),
    "the thoughts beside an answer": (
        lines(talk(ASKED, turn("assistant", "up", reasoning_content="so"))), LEARNED,
        ("not read: reasoning_content in 1 records",)),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "s").mkdir()
    return tmp_path


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", READ)
def test_what_people_bring_is_learned(name: str, folder: Path) -> None:
    content, learned, notes = READ[name]
    write(folder / "d.jsonl", content)
    dataset = load_dataset(str(folder / "d.jsonl"), eval_fraction=0)
    record = dataset.train[-1]
    assert (record.prompt, record.answer, [path.name for path in record.images]) == learned
    assert (record.count, dataset.notes, dataset.left_out) == (1, notes, ())


# (the record beside a good one, why it is left out; its place is added)
LEFT_OUT: dict[str, tuple[Any, str, str]] = {
    "a picture in a bucket": (
        good(image="s3://walks/a.png"), "a picture at an address", "'s3://walks/a.png' is an address and no file"),
    "a picture in another bucket": (
        good(image="gs://walks/a.png"), "a picture at an address", "'gs://walks/a.png' is an address and no file"),
    "a picture on the hub": (
        good(image="hf://datasets/you/x/a.png"), "a picture at an address",
        "'hf://datasets/you/x/a.png' is an address and no file"),
    "a picture in base64 that is cut off": (
        good(image=(IN_BASE64 * 900)[:-3]), "a data: address that is no picture in base64",
        "data:;base64,iVBORw0KGgoAAAANSUh... is no picture in base64"),
    "a link that leads to itself": (
        good(image="loop.png"), "a picture is not there", "{folder}/loop.png is not there"),
    "an answer of spaces": (good(output=" \n"), "the answer is empty", ""),
    "an answer that is null": (good(output=None), "the answer is empty", ""),
    "an answer that is NaN, as pandas writes an empty cell": (good(output=math.nan), "the answer is empty", ""),
    "an answer that holds what JSON has not": (
        good(output={"x": math.inf}), "output takes a string (JSON has no NaN and no Infinity: write them as text)",
        "output takes a string (JSON has no NaN and no Infinity: write them as text), got {'x': inf}"),
    "several questions": (
        good(question=["x?", "y?"], output="up"),
        "question takes a string (of several, each goes into a record of its own)",
        "question takes a string (of several, each goes into a record of its own), got ['x?', 'y?']"),
    "a path in the letters of Windows": (
        good(image="A.PNG"), "a picture is not there", "{folder}/A.PNG is not there, but {folder}/a.png is"),
    "a folder in other letters": (
        good(image="S/x.png"), "a picture is not there", "{folder}/S/x.png is not there, but {folder}/s is"),
    "a picture that was saved as another kind": (
        good(image="a.jpg"), "a picture is not there", "{folder}/a.jpg is not there, but {folder}/a.png is"),
    # The same kinds, further.
    "a picture on a server of files": (
        good(image="ftp://x.org/a.png"), "a picture at an address", "'ftp://x.org/a.png' is an address and no file"),
    "a folder for a picture": (good(image="."), "a picture is not there", "{folder} is no file"),
    "a path in somebody's home": (good(image="~/a.png"), "a picture is not there", "{folder}/~/a.png is not there"),
    "a path with a variable": (
        good(image="$HOME/a.png"), "a picture is not there", "{folder}/$HOME/a.png is not there"),
    "a path with a NUL": (good(image="a\0.png"), "a picture is not there", "{folder}/a\\x00.png is not there"),
    "a path that is written from right to left": (
        good(image="\u202egnp.a"), "a picture is not there", "{folder}/\\u202egnp.a is not there"),
    "several paths in one text": (
        {**GOOD, "image": None, "images": "a.png,b.png"}, "a picture is not there",
        "{folder}/a.png,b.png is not there"),
    "a list of lists of paths": (
        {**GOOD, "image": None, "images": [["a.png"]]}, "image takes a path, images and frames a list of paths",
        "image takes a path, images and frames a list of paths, got ['a.png']"),
    "a picture twice, under two keys": (
        good(images=["b.png"]), "image and images do not go together: give one of them", ""),
    "a question that is a number": (
        good(question=7), 'question takes a string (nothing goes in as "")',
        'question takes a string (nothing goes in as ""), got 7'),
    "a role that no trainer has": (
        talk(ASKED, turn("bot", "up")), "role 'bot' of a turn",
        "role 'bot' of turn 2: it takes system, developer, user, human, assistant, gpt, model"),
    "the assistant speaks first": (
        talk(turn("assistant", "hello"), ASKED, SAID), ALTERNATE, f"{ALTERNATE}; got assistant, user, assistant"),
    "two answers in a row": (talk(ASKED, SAID, SAID), ALTERNATE, f"{ALTERNATE}; got user, assistant, assistant"),
    "a question that is to be learned": (
        talk(turn("user", "<image>which?", mask=False), SAID),
        "mask false of a turn which is the user's: only answers are learned",
        "mask false of turn 1, which is the user's: only answers are learned"),
    "a pair of answers in LLaMA-Factory's form": (
        {"images": ["a.png"], "conversations": [{"from": "human", "value": "<image>q"}],
         "chosen": {"from": "gpt", "value": "up"}, "rejected": {"from": "gpt", "value": "down"}},
        "is a pair to choose from, and has no other answer",
        "is a pair to choose from (chosen, rejected), and has no other answer; columns: answer=chosen learns chosen, "
        "and not which of the two is better"),
    "a pair of whole conversations": (
        {"images": ["a.png"], "chosen": [ASKED, SAID], "rejected": [ASKED, SAID]},
        "lacks question and output, and is a pair to choose from",
        "lacks question and output (it has 'images, chosen, rejected'); columns: messages=chosen learns chosen, and "
        "not which of the two is better"),
    "several answers beside a conversation": (
        {"images": ["a.png"], "messages": [ASKED], "answer": ["cat", "cats"]}, ALTERNATE, f"{ALTERNATE}; got user"),
    "an answer under response with an id of its own": (
        {"custom_id": "r-1", "image": "a.png", "response": "up"}, "lacks question",
        "lacks question (it has 'custom_id, image, response')"),
    "a mask in words that are a switch": (
        talk(ASKED, turn("assistant", "up", mask="true")),
        "mask of a turn: it takes false (learned) or true (only shown)",
        "mask 'true' of turn 2: it takes false (learned) or true (only shown)"),
    "a caption and the number of its class": (
        {"image": "a.png", "caption": "up", "label": 3}, "lacks question and output",
        "lacks question and output (it has 'image, caption, label'); columns: answer=caption learns that"),
    "a pair of answers in OpenAI's form": (
        {"input": {"messages": [ASKED]}, "preferred_output": [SAID], "non_preferred_output": [SAID]},
        "is a pair of answers in OpenAI's form, and none is compared: to learn the preferred one, write the messages "
        "of its input and its preferred_output as one list under messages", ""),
    "a system turn within the conversation": (
        talk(ASKED, turn("system", "s"), SAID), ALTERNATE, f"{ALTERNATE}; got user, system, assistant"),
    "one turn where a list is needed": (
        {"messages": turn("user", "q")}, "messages takes a list of turns",
        "messages takes a list of turns, got {'role': 'user', 'content': 'q'}"),
    "an answer that is a place for a picture": (good(output="<image>"), "only user turns can hold images", ""),
    "several answers to one question": (
        {"image": "a.png", "question": "q", "answers": ["up", "down"]}, "lacks output",
        "lacks output (it has 'image, question, answers'); answers holds several: the one to learn goes under output"),
    "a file name beside the answer": (
        {"question": "q", "label": "up", "filename": "a.png"}, "lacks output",
        "lacks output (it has 'question, label, filename'); columns: answer=label,image=filename would read it"),
    "the number of a class": (
        {"image": "a.png", "question": "q", "cls": 3}, "lacks output",
        "lacks output (it has 'image, question, cls'); columns: answer=cls would read it"),
    "turns whose texts are under another key": (
        {"image": "a.png", "messages": [{"role": "user", "text": "q"}, {"role": "assistant", "text": "up"}]},
        "a turn takes role and content (or from and value)",
        "turn 1 of messages takes role and content (or from and value), got {'role': 'user', 'text': 'q'}; columns: "
        "role=role,content=text would read it"),
    "a list of turns and nothing else": (
        {"dialog": [turn("user", "q"), SAID]}, "lacks question and output",
        "lacks question and output (it has 'dialog'); columns: messages=dialog would read it"),
    "an export of Label Studio": (
        {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": []}]},
        "is of Label Studio's JSON: export it as JSON-MIN, which has one record for each picture", ""),
    "the questions of VQA": (
        {"image_id": 1, "question": "q", "question_id": 10},
        "is a question of VQA's form, whose answer is in the file of annotations: write records with image, question "
        "and output, joining both files by question_id", ""),
    "the answers of VQA": (
        {"question_type": "what", "multiple_choice_answer": "up", "answers": [], "image_id": 1, "question_id": 10},
        "is an answer of VQA's form, whose question is in the file of questions: write records with image, question "
        "and output (the multiple_choice_answer), joining both files by question_id", ""),
    "both files of VQA, joined": (
        {"image": "a.png", "image_id": 1, "question": "q", "question_id": 10, "answers": ["up", "down"]},
        "lacks output",
        "lacks output (it has 'image, image_id, question, question_id, answers'); answers holds several: the one to "
        "learn goes under output"),
    "a question of VQA beside its answer": (
        {"image": "a.png", "image_id": 1, "question": "q", "question_id": 10, "gt_answer": "up"}, "lacks output",
        "lacks output (it has 'image, image_id, question, question_id, gt_answer'); columns: answer=gt_answer would "
        "read it"),
    "an answer of VQA beside its question": (
        {"question_id": 10, "multiple_choice_answer": "up", "prompt_text": "q"}, "lacks question and output",
        "lacks question and output (it has 'question_id, multiple_choice_answer, prompt_text'); columns: "
        "question=prompt_text,answer=multiple_choice_answer would read it"),
    "answers of VQA beside their question": (
        {"question_id": 10, "answers": ["up", "down"], "prompt_text": "q"}, "lacks question and output",
        "lacks question and output (it has 'question_id, answers, prompt_text'); answers holds several: the one to "
        "learn goes under output, and columns: question=prompt_text reads the question"),
    "a detection beside a question and an answer": (
        {"image_id": 1, "category_id": 2, "score": 0.9, "ask": "q", "say": "up"}, "lacks question and output",
        "lacks question and output (it has 'image_id, category_id, score, ask, say'); columns: question=ask,answer=say "
        "would read it"),
    "a file of LabelMe": (
        {"version": "5.0", "shapes": [{"label": "cat", "points": [[1, 2]]}], "imagePath": "a.png"},
        "is of LabelMe's form, the shapes in one picture, which are not shown: write a record with imagePath as image, "
        "a question, and the labels as output", ""),
    "the detections of a model in COCO's form": (
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.9},
        "is a detection in COCO's form of results, which names its picture and category by numbers alone: name the "
        "file of images and annotations", ""),
    "the small export of Label Studio": (
        {"image": "a.png", "id": 1, "caption": "up", "annotator": 1, "created_at": "now", "updated_at": "now"},
        "lacks question and output",
        "lacks question and output (it has 'image, id, caption, annotator, created_at, updated_at'); columns: "
        "answer=caption learns that"),
    "turns under another name": (
        {"images": ["a.png"], "conversation": [ASKED, SAID]}, "lacks question and output",
        "lacks question and output (it has 'images, conversation'); columns: messages=conversation would read it"),
    "turns of ShareGPT under another name": (
        {"image": "a.png", "name": "walk", "dialog": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "up"}]},
        "lacks question and output",
        "lacks question and output (it has 'image, name, dialog'); columns: messages=dialog would read it"),
    "a record in a text of JSON": (
        json.dumps(GOOD), "is not an object", """is not an object, got '{"image": "a...utput": "up"}'"""),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_learned_of_it_is_left_out_and_said(name: str, folder: Path) -> None:
    record, kind, first = LEFT_OUT[name]
    write(folder / "d.jsonl", lines(GOOD, record))
    dataset = load_dataset(str(folder / "d.jsonl"), eval_fraction=0)
    more = f"; the first: {first.replace('{folder}', str(folder))}" if first else ""
    assert dataset.left_out == (f"1 of 2 records left out: {kind} (d.jsonl line 2{more})",)
    assert [(r.prompt, r.answer, [path.name for path in r.images]) for r in dataset.train] == [LEARNED]


def test_turns_under_another_name_are_read_as_the_refusal_says(folder: Path) -> None:
    write(folder / "d.jsonl", lines({"image": "a.png", "conversation": [ASKED, SAID]}))
    assert "columns: messages=conversation would read it" in refusal(str(folder / "d.jsonl"))
    (record,) = load_dataset(str(folder / "d.jsonl"), columns="messages=conversation", eval_fraction=0).train
    assert (record.prompt, record.answer, [path.name for path in record.images]) == LEARNED


@pytest.mark.parametrize(
    ("columns", "pair"),
    [
        ("answer=chosen", {"prompt": "which?", "chosen": "up", "rejected": "down"}),
        ("answer=chosen", {"messages": [ASKED], "chosen": SAID, "rejected": turn("assistant", "down")}),
        ("answer=chosen", {"prompt": [ASKED], "chosen": [SAID], "rejected": [SAID]}),
        ("answer=chosen", {"prompt": "which?", "chosen": [SAID], "rejected": [SAID]}),
        ("answer=chosen", {"prompt": "which?", "chosen": SAID, "rejected": SAID}),
        ("messages=chosen", {"chosen": [ASKED, SAID], "rejected": [ASKED, SAID]}),
        ("messages=chosen", {"chosen": json.dumps([ASKED, SAID]), "rejected": "[]"}),
        (
            "messages=chosen",
            {"chosen": [ASKED, SAID], "rejected": [turn("user", [{"type": "image", "image": "b.png"}])]},
        ),
    ],
    ids=["flat", "beside turns", "TRL", "a turn in a list", "a turn", "whole", "in a text", "pictures"],
)
def test_the_chosen_answer_of_a_pair_is_learned_as_the_refusal_says(
    columns: str, pair: dict[str, Any], folder: Path
) -> None:
    write(folder / "d.jsonl", lines({"images": ["a.png"], **pair}))
    assert f"; columns: {columns} learns chosen, and not which of the two is better" in refusal(str(folder / "d.jsonl"))
    dataset = load_dataset(str(folder / "d.jsonl"), columns=columns, eval_fraction=0)
    (record,) = dataset.train
    assert (record.prompt, record.answer, [path.name for path in record.images]) == LEARNED
    assert dataset.notes == ("not read: rejected (beside columns) in 1 records",)


@pytest.mark.parametrize("beside", [{"prompt": "which?"}, {"messages": [ASKED]}], ids=["a text", "a turn"])
def test_a_chosen_conversation_is_learned_whole_beside_its_question(beside: dict[str, Any], folder: Path) -> None:
    write(folder / "d.jsonl", lines({"images": ["a.png"], **beside, "chosen": [ASKED, SAID], "rejected": [ASKED]}))
    assert "; columns: messages=chosen learns chosen" in refusal(str(folder / "d.jsonl"))
    (record,) = load_dataset(str(folder / "d.jsonl"), columns="messages=chosen", eval_fraction=0).train
    assert (record.prompt, record.answer, [path.name for path in record.images]) == LEARNED


def test_a_key_whose_place_another_has_is_not_taken_for_the_sides(folder: Path) -> None:
    write(folder / "d.jsonl", lines(good(context="train", part="a"), good(context="val", part="b")))
    dataset = load_dataset(str(folder / "d.jsonl"), columns="context=part", eval_fraction=0)
    assert dataset.notes == ("not read: context (beside columns) in 2 records",)


@pytest.mark.parametrize(
    ("faulty", "record", "said"),
    [
        (13, good(output=""), "13 of 100 records left out: the answer is empty (d.jsonl line 1, 2, 3 and 10 more)"),
        (1, good(image="gone.png"), "1 of 100 records left out: a picture is not there (d.jsonl line 1; the first: "
                                    "{folder}/gone.png is not there)"),
    ],
    ids=["empty answers", "a missing picture"],
)  # fmt: skip
def test_a_fault_of_some_records_of_many_leaves_the_others(faulty: int, record: Any, said: str, folder: Path) -> None:
    write(folder / "d.jsonl", lines(*[record] * faulty, *[GOOD] * (100 - faulty)))
    dataset = load_dataset(str(folder / "d.jsonl"), eval_fraction=0)
    assert (len(dataset.train), dataset.left_out) == (100 - faulty, (said.replace("{folder}", str(folder)),))


def test_text_in_base64_that_is_no_picture_is_a_line_that_can_be_read(folder: Path) -> None:
    write(folder / "d.jsonl", lines(GOOD, good(image=base64.b64encode(b"no picture" * 10_000).decode())))
    (said,) = load_dataset(str(folder / "d.jsonl"), eval_fraction=0).left_out
    assert said.startswith(f"1 of 2 records left out: a picture is not there (d.jsonl line 2; the first: {folder}/bm8g")
    assert len(said) < 700 and said.endswith("... is not there)")


def lost(what: str, *advice: str) -> str:
    means = "and it says what to learn" if advice == (SWITCHES,) else "so the model would not see it"
    text = () if advice == (SWITCHES,) else (TEXT,)
    return f"{{folder}}/d.jsonl: not read, {means}: {what}; {'; '.join((*advice, *text))}"


# (the record beside a good one, the refusal of the set)
MISSED: dict[str, tuple[Any, str]] = {
    "videos with their marker": (
        {"messages": [turn("user", "<video>what?"), SAID], "videos": ["v.mp4"]},
        lost("'videos' (videos) in 1 records (d.jsonl line 2), '<video>' as text in 1 records (d.jsonl line 2)",
             OTHERS)),
    "a path within the text, as SeeClick writes it": (
        {"conversations": [{"from": "user", "value": "Picture 1: <img>img/0.png</img>\nwhere?"},
                           {"from": "assistant", "value": "(12,30)"}]},
        lost("'<img>...</img>' as text in 1 records (d.jsonl line 2)", PICTURES)),
    # The same kinds, further.
    "two keys of pictures, one of which is read": (
        good(image_path="b.png"), lost("'image_path' (pictures) in 1 records (d.jsonl line 2)", PICTURES)),
    "a picture of depths": (
        good(depth_map="b.png"), lost("'depth_map' (pictures) in 1 records (d.jsonl line 2)", PICTURES)),
    "frames that are not read yet": (
        good(video_frames=["a.png", "b.png"]), lost("'video_frames' (pictures) in 1 records (d.jsonl line 2)",
                                                    PICTURES)),
    "a mask that is a picture, in a user's turn": (
        talk({**ASKED, "mask": "m.png"}, SAID), lost("'mask' (pictures) in 1 records (d.jsonl line 2)", PICTURES)),
    "a picture in Markdown": (
        good(question="![s](b.png) which?"), lost("'![s](b.png)' as text in 1 records (d.jsonl line 2)", PICTURES)),
    "parts of an answer that are learned, as Axolotl writes them": (
        talk(ASKED, turn("assistant", "up", train_detail=[{"begin_offset": 0, "end_offset": 1, "train": False}])),
        lost("'train_detail' (what is learned) in 1 records (d.jsonl line 2)", SWITCHES)),
    "a question that is to be learned too": (
        good(train_on_input=True), lost("'train_on_input' (what is learned) in 1 records (d.jsonl line 2)", SWITCHES)),
    "a turn that is to be learned too": (
        talk({**ASKED, "train_on_inputs": True}, SAID),
        lost("'train_on_inputs' (what is learned) in 1 records (d.jsonl line 2)", SWITCHES)),
    "earlier answers that are not to be learned": (
        talk(ASKED, SAID, mask_history=True),
        lost("'mask_history' (what is learned) in 1 records (d.jsonl line 2)", SWITCHES)),
    "a record that is masked": (
        talk(ASKED, SAID, mask=True), lost("'mask' (what is learned) in 1 records (d.jsonl line 2)", SWITCHES)),
    "a mask of each token": (
        talk(ASKED, SAID, loss_mask=[0, 0, 1]),
        lost("'loss_mask' (what is learned) in 1 records (d.jsonl line 2)", SWITCHES)),
}  # fmt: skip


def refusal(data: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_dataset(data)
    assert caught.value.exit_code == 78
    return str(caught.value)


@pytest.mark.parametrize("name", MISSED)
def test_what_the_model_would_miss_is_refused(name: str, folder: Path) -> None:
    record, said = MISSED[name]
    write(folder / "d.jsonl", lines(GOOD, record))
    assert refusal(str(folder / "d.jsonl")) == said.replace("{folder}", str(folder))


def converted(kind: str, first: str, data: str = "{folder}", out: str = "{name}-records") -> str:
    return f"DATA={data}: holds {kind} files ({first}) and no JSON: {CONVERT} {data} {out}"


A_PICKLE = (
    "a pickle, which can run any program when it is opened, and no JSON: whoever made it writes its records as JSON "
    "(pandas: to_json(FILE, orient='records'))"
)
TAR = b"0.png".ljust(257, b"\0") + b"ustar\0"
# (the files of a folder, DATA, the refusal)
FOLDERS: dict[str, tuple[Mapping[str, str | bytes], str, str]] = {
    "a snapshot of the hub": (
        {"README.md": "", "data/train-00000-of-00001.parquet": b"PAR1"}, "{folder}",
        converted("parquet", "train-00000-of-00001.parquet")),
    "pictures with metadata.jsonl": (
        {"0.png": PNG, "metadata.jsonl": lines({"file_name": "0.png", "text": "up"})}, "{folder}",
        f"DATA={{folder}}: is a folder of pictures with metadata.jsonl: {CONVERT} {{folder}} {{name}}-records"),
    "pictures with metadata.csv": (
        {"train/0.png": PNG, "train/metadata.csv": "file_name,text\n0.png,up\n"}, "{folder}",
        converted("csv", "metadata.csv")),
    "pictures in a folder for each class": ({"train/up/0.png": PNG}, "{folder}", converted("png", "0.png")),
    "shards of webdataset": ({"s-000000.tar": TAR}, "{folder}", converted("tar", "s-000000.tar")),
    "one shard of webdataset": (
        {"s-000000.tar": TAR}, "{folder}/s-000000.tar",
        converted("tar", "s-000000.tar", "{folder}/s-000000.tar", "s-000000-records")),
    "a table of commas": (
        {"d.csv": "image,question,output\n"}, "{folder}/d.csv",
        converted("csv", "d.csv", "{folder}/d.csv", "d-records")),
    "a table of commas called jsonl": (
        {"d.jsonl": "image,question,output\na.png,q,up\n"}, "{folder}/d.jsonl",
        f"{{folder}}/d.jsonl is a table with commas between its cells, and no JSON: name it d.csv, then {CONVERT} "
        "{folder}/d.csv d-records"),
    "another bucket": (
        {}, "gs://you/walks",
        "DATA=gs://you/walks: is an address, which is not read: copy it to a folder with gs's own tool"),
    # The same kinds, further.
    "a table of tabs": (
        {"d.tsv": "image\tquestion\toutput\n"}, "{folder}/d.tsv",
        converted("tsv", "d.tsv", "{folder}/d.tsv", "d-records")),
    "the page of a set on the hub": (
        {}, "https://huggingface.co/datasets/you/walks",
        "DATA=https://huggingface.co/datasets/you/walks: is an address, which is not read: "
        f"{CONVERT} https://huggingface.co/datasets/you/walks walks-records"),
    "a file on the web": (
        {}, "https://x.org/d.jsonl",
        "DATA=https://x.org/d.jsonl: is an address, which is not read: curl -LO https://x.org/d.jsonl fetches it"),
    "a file on the web, with a question mark": (
        {}, "https://x.org/d.jsonl?download=true",
        "DATA='https://x.org/d.jsonl?download=true': is an address, which is not read: curl -LO "
        "'https://x.org/d.jsonl?download=true' fetches it"),
    "a picture for the records": (
        {"0.png": PNG}, "{folder}/0.png",
        "DATA={folder}/0.png: is a picture: name the file of records that shows it, or the folder of all pictures"),
    "objects of Python": (
        {"d.jsonl": f"{GOOD}\n"}, "{folder}/d.jsonl",
        "{folder}/d.jsonl is in Python's notation, and no JSON: json.dumps writes a record as JSON"),
    "a pickle": ({"d.pkl": b"\x80\x04]."}, "{folder}/d.pkl", "{folder}/d.pkl is " + A_PICKLE),
    "a pickle called jsonl": ({"d.jsonl": b"\x80\x04]."}, "{folder}/d.jsonl", "{folder}/d.jsonl is " + A_PICKLE),
    "a pickle in a folder": ({"d.pkl": b"\x80\x04]."}, "{folder}", "DATA={folder}: holds d.pkl, which is " + A_PICKLE),
    "a database": (
        {"d.db": b"SQLite format 3\0"}, "{folder}/d.db",
        "{folder}/d.db is an SQLite database, and no JSON: sqlite3 -json {folder}/d.db 'SELECT * FROM TABLE' > "
        "{folder}/d.json writes a table of it as JSON"),
    "YAML": (
        {"d.yaml": "- image: a.png\n"}, "{folder}/d.yaml",
        "{folder}/d.yaml is YAML, and no JSON: python3 -c 'import json, sys, yaml; "
        "json.dump(yaml.safe_load(sys.stdin), sys.stdout, default=str)' < {folder}/d.yaml > {folder}/d.json writes it "
        "as JSON"),
    "a text": (
        {"d.txt": "up\n"}, "{folder}/d.txt",
        '{folder}/d.txt is text, and no JSON: a record is a line such as {"image": "a.png", "question": "...", '
        '"output": "..."}'),
    "a video for the records": (
        {"d.mp4": b"\0\0\0\x18ftypmp42"}, "{folder}/d.mp4",
        "{folder}/d.mp4 is a video, and no JSON: ffmpeg -i {folder}/d.mp4 -vf fps=1 %05d.png makes pictures of it, "
        "which records can name"),
    "a file of bytes": (
        {"d.bin": b"\1\0\2\0\3"}, "{folder}/d.bin",
        '{folder}/d.bin is binary, and no JSON: a record is a line such as {"image": "a.png", "question": "...", '
        '"output": "..."}'),
    "a pattern": (
        {"a.jsonl": lines(GOOD), "b.jsonl": lines(GOOD)}, "{folder}/*.jsonl",
        "DATA='{folder}/*.jsonl': is a pattern, which is not expanded, of 2 files: "
        "DATA={folder}/a.jsonl,{folder}/b.jsonl names them"),
    "a pattern with braces": (
        {"part0.jsonl": lines(GOOD), "part1.jsonl": lines(GOOD)}, "{folder}/part{0,1}.jsonl",
        "DATA='{folder}/part{0,1}.jsonl': is a pattern, which is not expanded, of 2 files: "
        "DATA={folder}/part0.jsonl,{folder}/part1.jsonl names them"),
    "a pattern of numbers": (
        {f"part{n:02}.jsonl": lines(GOOD) for n in (8, 9, 11, 12)}, "{folder}/part{09..11}.jsonl",
        "DATA='{folder}/part{09..11}.jsonl': is a pattern, which is not expanded, of 2 files: "
        "DATA={folder}/part09.jsonl,{folder}/part11.jsonl names them"),
    "a pattern of tables": (
        {"a.parquet": b"PAR1"}, "{folder}/*.parquet",
        f"DATA='{{folder}}/*.parquet': is a pattern, which is not expanded, of 1 files: {CONVERT} {{folder}} "
        "{name}-records"),
    "a pattern of many files": (
        {f"{n}.jsonl": lines(GOOD) for n in range(6)}, "{folder}/?.jsonl",
        "DATA='{folder}/?.jsonl': is a pattern, which is not expanded, of 6 files: make one file of all: cat "
        "{folder}/?.jsonl > {folder}/train.jsonl"),
    "a pattern of many files, one of them held out": (
        {**{f"{n}.jsonl": lines(GOOD) for n in range(5)}, "eval.jsonl": lines(GOOD)}, "{folder}/*.jsonl",
        "DATA='{folder}/*.jsonl': is a pattern, which is not expanded, of 6 files: DATA={folder} reads its train and "
        "eval files, and names the others"),
    "a pattern of many files beside train.jsonl": (
        {**{f"p-{n}.jsonl": lines(GOOD) for n in range(6)}, "train.jsonl": lines(GOOD)}, "{folder}/p-*.jsonl",
        "DATA='{folder}/p-*.jsonl': is a pattern, which is not expanded, of 6 files: DATA={folder} reads its train and "
        "eval files, and names the others"),
    "a pattern of many packed files in a folder with spaces": (
        {f"my set/{n}.jsonl.gz": b"\x1f\x8b" for n in range(6)}, "{folder}/my set/*.gz",
        "DATA='{folder}/my set/*.gz': is a pattern, which is not expanded, of 6 files: make one file of all: cat "
        "'{folder}/my set'/*.gz > '{folder}/my set/train.jsonl.gz'"),
    "many files beside held-out records": (
        {**{f"{n}.jsonl": lines(GOOD) for n in range(6)}, "eval.jsonl": lines(GOOD)}, "{folder}",
        "DATA={folder}: is a folder with 6 files of records and no train.jsonl: name the one to learn from, or put "
        "those into {folder}/train/"),
    "a text in UTF-16": (
        {"a.txt": json.dumps(GOOD).encode("utf-16")}, "{folder}/a.txt", "{folder}/a.txt is UTF-16: save it as UTF-8"),
    "an empty text": ({"train.txt": ""}, "{folder}/train.txt", f"{{folder}}/train.txt holds no records: {FORMAT_HINT}"),
    "records beside their pictures, in a file without a suffix": (
        {"a.png": PNG, "records": lines(GOOD), "README": "[mine]", ".mine": lines(GOOD)}, "{folder}",
        "DATA={folder}: holds records in records, a name that does not say so: DATA={folder}/records reads it"),
    "an array of records in a text": (
        {"notes.md": "[![x](y)]", "r.txt": json.dumps([GOOD], indent=2)}, "{folder}",
        "DATA={folder}: holds records in r.txt, a name that does not say so: DATA={folder}/r.txt reads it"),
    "a pattern of nothing": (
        {}, "{folder}/*.json", "DATA='{folder}/*.json': is a pattern that no file matches: give a file of JSON "
        "records, or a folder with train.jsonl"),
    "a path in quotation marks": (
        {"d.jsonl": lines(GOOD)}, "'{folder}/d.jsonl'",
        'DATA="\'{folder}/d.jsonl\'": has quotation marks in it: DATA={folder}/d.jsonl'),
    "a name with a slip": (
        {"d.jsonl": lines(GOOD)}, "{folder}/d.json",
        "DATA={folder}/d.json: does not exist: give a file of JSON records, or a folder with train.jsonl, did you mean "
        "d.jsonl?"),
    "pictures that are still packed": (
        {"d.jsonl": lines(GOOD), "images.zip": b"PK\3\4"}, "{folder}/d.jsonl",
        "{folder}/d.jsonl: 0 of 1 records would be left: 1 of 1 records left out: a picture is not there (d.jsonl line "
        "1; the first: {folder}/a.png is not there); paths are relative to {folder}/; image_root= names another folder "
        "to look in; images.zip lies there, and is not unpacked"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_no_record_says_what_to_do(name: str) -> None:
    files, data, said = FOLDERS[name]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # what is quoted is cut after 80 characters
        folder = Path(short, "walks")
        for file, content in files.items():
            write(folder / file, content)

        def fill(text: str) -> str:
            return text.replace("{folder}", str(folder)).replace("{name}", "walks")

        assert refusal(fill(data)) == fill(said)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
def test_an_archive_beside_records_without_pictures_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", lines(GOOD))
    write(tmp_path / name, b"")
    assert refusal(str(tmp_path / "d.jsonl")).endswith(f"; {name} lies there, and is not unpacked")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else for a moment")
def test_what_may_not_be_read_or_listed_hides_no_other_advice() -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name, "closed.db"), b"")
        write(Path(name, "d.db"), b"SQLite format 3\0")
        write(Path(name, "locked", "d.jsonl"), lines(GOOD))
        for path, mode in ((name, 0o755), (f"{name}/closed.db", 0), (f"{name}/locked", 0o711)):
            Path(path).chmod(mode)
        os.seteuid(65534)
        try:
            assert f"DATA={name}: holds d.db, which is an SQLite database" in refusal(name)
            assert f"DATA={name}/locked/x.jsonl: does not exist: give" in refusal(f"{name}/locked/x.jsonl")
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("sign", [" ", ";", ":"])
def test_between_several_files_stands_a_comma(sign: str, folder: Path) -> None:
    one, other = folder / "a.png", folder / "b.png"
    said = f"does not exist: commas stand between several: DATA={one},{other}"
    assert refusal(f"{one}{sign}{other}").endswith(said)


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl"])
def test_records_that_are_a_link_to_nothing_are_refused(name: str, folder: Path) -> None:
    write(folder / "train.jsonl", lines(GOOD))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("gone.jsonl")
    said = f"holds {name}, which is no file (a link to nothing, or a pipe): remove it, or bring it"
    assert refusal(str(folder)) == f"DATA={folder}: {said}"


@pytest.mark.parametrize(
    "beside",
    [
        {"._train.jsonl": b"\0\5\x16\7", "__MACOSX/._train.jsonl": b"\0\5\x16\7", ".DS_Store": b"\0"},
        {".ipynb_checkpoints/train-checkpoint.jsonl": lines(GOOD)},
        {"train.jsonl~": lines(GOOD), "train.jsonl.bak": lines(GOOD)},
    ],
    ids=["of macOS", "of Jupyter", "of an editor"],
)
def test_what_a_program_leaves_beside_the_records_is_not_learned(
    beside: Mapping[str, str | bytes], folder: Path
) -> None:
    for name, content in {**beside, "train.jsonl": lines(GOOD)}.items():
        write(folder / name, content)
    dataset = load_dataset(str(folder), eval_fraction=0)
    assert ([record.prompt for record in dataset.train], dataset.notes) == (["which?"], ())
