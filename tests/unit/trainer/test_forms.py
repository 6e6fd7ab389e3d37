"""The forms a record may have: what each is read as, and in which words a wrong one is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.columns import parse_columns, rename
from trainer.data.forms import read_form
from trainer.data.records import each_answer, load_dataset
from trainer.data.turns import FormError, Picture, Turn
from trainer.outcome import ConfigError
from trainer.tools.infer import as_record, open_records

A, B = Picture(paths=("a.png",)), Picture(paths=("b.png",))
TAKES = "image takes a path, images and frames a list of paths"
ALTERNATE = "messages takes turns that alternate user, assistant, behind system turns at most, with an answer"
LOOK = {"context": "", "question": "look", "output": "up"}


def user(*parts: str | Picture) -> Turn:
    return Turn(role="user", parts=parts)


def said(text: str, *, learned: bool = True) -> Turn:
    return Turn(role="assistant", parts=(text,), learned=learned)


def messages(*contents: Any, **beside: Any) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    said = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return {"messages": said, **beside}


def conversations(*values: str, **beside: Any) -> dict[str, Any]:
    roles = ("human", "gpt") * len(values)
    said = [{"from": r, "value": v} for r, v in zip(roles, values, strict=False)]
    return {"conversations": said, **beside}


@pytest.mark.parametrize(
    ("entry", "turns"),
    [
        ({**LOOK, "image": "a.png"}, (user(A, "look"),)),
        ({**LOOK, "images": ["a.png", "b.png"]}, (user(A, B, "look"),)),
        ({**LOOK, "frames": ["0", "1", "2", "3"]}, (user(Picture(paths=("0", "1", "2", "3")), "look"),)),
        ({**LOOK, "image": None}, (user("look"),)),
        ({**LOOK, "image": "a.png", "question": ""}, (user(A),)),
        ({**LOOK, "image": "a.png", "system": "be brief"}, (Turn(role="system", parts=("be brief",)), user(A, "look"))),
        (messages("look", "up"), (user("look"),)),
        (messages("look", "up", images=["a.png", "b.png"]), (user(A, B, "look"),)),
        (messages("look", "up", frames=["0", "1", "2", "3"]),
         (user(Picture(paths=("0", "1", "2", "3")), "look"),)),
        (messages("this: <image>look", "up", images=["a.png"]), (user("this: ", A, "look"),)),
        (messages("the word <image>", "up"), (user("the word <image>"),)),
        (messages([{"type": "text", "text": "look"}, {"type": "image"}], "up", images=["a.png"]),
         (user("look", A),)),
        (messages([{"type": "image", "image": "a.png", "text": None}, {"type": "text", "text": "look"}],
                  [{"type": "text", "text": "up"}]), (user(A, "look"),)),
        (messages([{"type": "image_url", "image_url": {"url": "file://b.png"}},
                   {"type": "text", "text": "look"}], "up"), (user(B, "look"),)),
        (conversations("<image>\nlook", "up", image="a.png"), (user(A, "\nlook"),)),
        (conversations("<image>one<image>two", "up", images=["a.png", "b.png"]), (user(A, "one", B, "two"),)),
        (conversations("<image>look", "down", "and now?", "up", image="a.png", system="be brief"),
         (Turn(role="system", parts=("be brief",)), user(A, "look"),
          said("down"), user("and now?"))),
        ({**LOOK, "image": "a.png", "question": "see <image> and say"}, (user("see ", A, " and say"),)),
        ({**LOOK, "image": "a.png", "context": "{{ image }}\n"}, (user(A, "\n\n\nlook"),)),
        (messages("<|image|>one<|image|>two", "up", images=["a.png", "b.png"]), (user(A, "one", B, "two"),)),
        (messages("<IMG>look", "down", "<ImageHere> now?", "up", images=["a.png", "b.png"]),
         (user(A, "look"), said("down"), user(B, " now?"))),
        # Each picture has a place already: in a text part the marker is that place, not a word beside it.
        (messages([{"type": "image"}, {"type": "text", "text": "this: <image>look"}], "up", images=["a.png"]),
         (user("this: ", A, "look"),)),
        (messages([{"type": "image", "path": "b.png"}, {"type": "text", "text": "and <image>"}], "up", image="a.png"),
         (user(B, "and ", A),)),
        # Of two spellings, the one of which there are as many as pictures; the other is a word.
        (messages("<image>what is <img> and <img> in HTML?", "up", image="a.png"),
         (user(A, "what is <img> and <img> in HTML?"),)),
        ({"conversations": [{"from": "user", "value": "look"}, {"from": "assistant", "value": "up"}]},
         (user("look"),)),
    ],
)  # fmt: skip
def test_every_form_is_read_as_turns_that_end_with_an_answer(entry: Any, turns: tuple[Turn, ...]) -> None:
    form = read_form(entry)
    assert (form.turns, form.unread) == ((*turns, said("up")), ())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**LOOK, "image": "a.png", "frames": ["0"] * 4}, ": image and frames do not go together: give one of them"),
        ({**LOOK, "image": [""]}, ": image takes a path, images and frames a list of paths, got ''"),
        ({**LOOK, "image": "https://x.org/a.png"},
         ": 'https://x.org/a.png' is an address and no file"),
        ({**LOOK, "image": None, "output": " "}, ": the answer is empty"),
        ({**LOOK, "image": None, "question": ""}, " has no image, and context and question are both empty"),
        (messages(), ": messages takes a list of turns, got []"),
        ({"messages": ["hello"]}, ": turn 1 of messages takes role and content (or from and value), got 'hello'"),
        ({"messages": [{"role": "tool", "content": "x"}]},
         ": role 'tool' of turn 1: it takes system, developer, user, human, assistant, gpt, model"),
        (messages("look"), ": messages takes turns that alternate user, assistant, behind system turns at most, "
                           "with an answer; got user"),
        ({"messages": [{"role": "system", "content": "x"}]},
         ": messages takes turns that alternate user, assistant, behind system turns at most, with an "
         "answer; got system"),
        ({**LOOK, "image": "a.png", "system": " "}, ": turn 1 is empty"),
        (messages("", "up"), ": turn 1 is empty"),
        (messages("look", " "), ": the answer is empty"),
        ({"messages": [{"role": ["user"], "content": "x"}]},
         ": role ['user'] of turn 1: it takes system, developer, user, human, assistant, gpt, model"),
        (messages(7, "up"), ": turn 1 takes text or a list of parts, got 7"),
        (messages([{"type": "video"}], "up"), ": a part of turn 1 takes type image or text, got {'type': 'video'}"),
        (messages([{"type": "image"}], "up"), " has 0 images, but 1 places for them (<image> or an image part)"),
        (messages("<image> and <image>", "up", images=["a.png"]),
         " has 1 images, but 2 places for them (<image> or an image part)"),
        (conversations("<image>look", "up", images=["a.png", "b.png"]),
         " has 2 images, but 1 places for them (<image> or an image part)"),
        (conversations("look", "<image>up", image="a.png"), ": only user turns can hold images"),
        ({"messages": [{"role": "user", "content": "look", "images": ["a.png"]}, {"role": "model", "content": "up"}]},
         ": turn 1 has images: they go beside messages, or into the turn's parts as type image"),
        ({"conversations": [{"from": "human", "value": "look", "image": "a.png"}, {"from": "gpt", "value": "up"}]},
         ": turn 1 has image: they go beside conversations, or into the turn's parts as type image"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_refused_in_its_own_words(entry: Any, message: str) -> None:
    with pytest.raises(FormError) as caught:
        read_form(entry)
    assert str(caught.value) == message


def write(folder: Path, *entries: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "d.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(folder / "d.jsonl")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_wrong_form_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, {**LOOK, "image": None}, messages("look"))
    assert load_dataset(path, text_only=True).left_out == (
        f"1 of 2 records left out: {ALTERNATE} (d.jsonl line 2; the first: {ALTERNATE}; got user)",
    )


def test_paths_of_another_machine_are_found_by_their_longest_tail(tmp_path: Path) -> None:
    touch(tmp_path / "s1" / "0.png", tmp_path / "0.png", tmp_path / "elsewhere" / "s2" / "0.png")
    names = ["/home/ada/play/s1/0.png", "C:\\play\\s2\\0.png", str(tmp_path / "0.png")]
    path = write(tmp_path, *({**LOOK, "image": name} for name in names))
    dataset = load_dataset(path, eval_fraction=0, image_root=str(tmp_path / "elsewhere"))
    found = [str(record.images[0].relative_to(tmp_path)) for record in dataset.train]
    assert found == ["s1/0.png", "elsewhere/s2/0.png", "0.png"]
    assert dataset.notes == (
        "2 image paths of another machine were found by their last folders, for example /home/ada/play/s1/0.png",
    )


@pytest.mark.parametrize(
    "others",
    [
        ["/home/ada/s1/0.png", "/home/ada/s2/0.png"],
        ["0.png", "/home/ada/s7/0.png"],
        ["0.png", "./0.png", "/home/ada/s7/0.png"],
    ],
)
def test_two_paths_that_find_one_file_are_refused(others: list[str], tmp_path: Path) -> None:
    # Two spellings of a path that is there are no mistake.
    touch(tmp_path / "0.png", tmp_path / "s1" / "1.png", tmp_path / "2.png")
    names = ["/home/ada/s1/1.png", "2.png", "./2.png", str(tmp_path / "2.png"), *others]
    path = write(tmp_path, *({**LOOK, "image": name} for name in names))
    with pytest.raises(ConfigError) as caught:
        load_dataset(path)
    assert str(caught.value) == (
        f"{path}: {others[0]} and {others[-1]} would both be {tmp_path}/0.png: bring the images with the folders that "
        f"tell them apart, or make their paths relative to {tmp_path}/"
    )


def test_an_image_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^image_root=nowhere: not a folder$"):
        load_dataset(write(tmp_path, {**LOOK, "image": None}), image_root="nowhere")


@pytest.mark.parametrize("number", [int, float])
def test_episodes_are_kept_together_like_sessions(number: type[float], tmp_path: Path) -> None:
    # A table in which one was missing has made the others fractions.
    rows = [{**LOOK, "image": None, "episode_id": number(i // 10)} for i in range(100)]
    dataset = load_dataset(write(tmp_path, *rows), eval_fraction=0.1, text_only=True)
    assert dataset.split == "1 of 10 sessions held out"


def test_a_session_is_found_in_metadata_that_a_table_holds_as_text(tmp_path: Path) -> None:
    rows = [{**LOOK, "image": None, "metadata": json.dumps({"session_id": f"s{i // 10}"})} for i in range(100)]
    assert load_dataset(write(tmp_path, *rows), text_only=True).split == "1 of 10 sessions held out"
    rows = [{**LOOK, "image": None, "metadata": "of the second day"} for _ in range(10)]
    assert load_dataset(write(tmp_path, *rows), text_only=True).split == "single records: no session ids"


def test_records_without_a_session_and_several_answers_are_noted(tmp_path: Path) -> None:
    flat = {**LOOK, "image": None}
    rows = [{**flat, "session": "a"}, flat, messages("look", "up", "and now?", "up", "and now?", "down", session="b")]
    path = write(tmp_path, *rows)
    bare = "1 of 3 records have no session id: each counts as a session"
    assert load_dataset(path, eval_fraction=0, text_only=True).notes == (
        "5 answers of 3 records are learned (learn: last takes the last ones alone)", bare,
    )  # fmt: skip
    assert load_dataset(path, eval_fraction=0, text_only=True, learn="last").notes == (
        "2 answers are not the last of their record: shown to the model, and not trained on", bare,
    )  # fmt: skip
    assert load_dataset(write(tmp_path, flat, flat), eval_fraction=0, text_only=True).notes == ()


def weighted(**beside: Any) -> dict[str, Any]:
    """Three answers; `beside` says what stands beside each of them, by its number: _1, _2, _3."""
    entry = messages("look", "up", "and now?", "down", "and now?", "left")
    for name, value in beside.items():
        key, _, number = name.rpartition("_")
        entry["messages"][2 * int(number) - 1][key] = value
    return entry


@pytest.mark.parametrize(
    ("entry", "learned"),
    [
        (weighted(), ["up", "down", "left"]),
        (weighted(weight_1=0), ["down", "left"]),
        (weighted(weight_1=1.0, loss_2=False, weight_3=None), ["up", "left"]),
        (weighted(loss_3=False, weight_2=1), ["up", "down"]),
        (weighted(loss_1=True, weight_1=0, loss_3=0), ["down"]),
        ({**weighted(), "weight": 1, "loss": True}, ["up", "down", "left"]),
        ({**weighted(), "weight": 70.25, "loss": 0.0}, ["up", "down", "left"]),  # columns of something else
    ],
)
def test_an_answer_that_says_so_is_only_shown(entry: Any, learned: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, entry)
    (record,) = load_dataset(path, eval_fraction=0, text_only=True).train
    assert list(record.answers) == learned
    # What stands behind the last one changes nothing, and is not there.
    said = [turn.text for turn in record.turns if turn.role == "assistant"]
    assert [*said, record.answer] == ["up", "down", "left"][: len(said) + 1]
    asked = each_answer([record])
    assert [one.answer for one in asked] == learned
    assert not any(turn.learned for one in asked for turn in one.turns)
    assert [len(one.turns) for one in asked] == [2 * ["up", "down", "left"].index(answer) + 1 for answer in learned]


def test_a_record_without_an_answer_to_learn_is_left_out(tmp_path: Path) -> None:
    idle = [weighted(weight_1=0, loss_2=False, weight_3=0), {**weighted(), "loss": False}, {**weighted(), "weight": 0}]
    dataset = load_dataset(write(tmp_path, weighted(weight_1=0), *idle), eval_fraction=0, text_only=True)
    assert [record.answers for record in dataset.train] == [("down", "left")]
    assert dataset.left_out == (
        "3 of 4 records left out: weight 0, loss false or mask true leaves no answer to learn (d.jsonl line 2, 3, 4)",
    )
    assert dataset.notes == (
        "2 answers of 1 records are learned (learn: last takes the last ones alone)",
        "1 answers say weight 0, loss false or mask true: shown to the model, and not trained on",
    )
    last = load_dataset(write(tmp_path, weighted(weight_1=0), weighted(loss_3=False)), text_only=True, learn="last")
    assert [record.answers for record in last.train] == [("left",)]
    with pytest.raises(ConfigError, match=r"d.jsonl: 0 of 3 records would be left: 3 of 3 records left out: weight 0"):
        load_dataset(write(tmp_path, *idle), text_only=True)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"weight_2": 0.5}, ": weight 0.5 of turn 4: it takes 1 (learned) or 0 (only shown)"),
        ({"weight_1": "0"}, ": weight '0' of turn 2: it takes 1 (learned) or 0 (only shown)"),
        ({"loss_1": [True]}, ": loss [True] of turn 2: it takes true (learned) or false (only shown)"),
    ],
)
def test_another_weight_is_refused_by_name(beside: Any, message: str) -> None:
    with pytest.raises(FormError) as caught:
        read_form(weighted(**beside))
    assert str(caught.value) == message


def test_what_a_user_says_cannot_be_learned() -> None:
    entry = weighted()
    entry["messages"][2]["weight"] = 0
    assert [turn.learned for turn in read_form(entry).turns] == [False, True] * 3
    entry["messages"][2]["loss"] = True
    with pytest.raises(FormError, match=r"^: loss true of turn 3, which is the user's: only answers are learned$"):
        read_form(entry)


def test_all_records_that_cannot_be_read_are_counted_at_once(tmp_path: Path) -> None:
    good, wrong = {**LOOK, "image": None}, messages("look")
    path = write(tmp_path, good, wrong, {"a": 1}, good, wrong, {**LOOK, "image": 3}, *[{**good, "output": ""}] * 5)
    dataset = load_dataset(path, text_only=True)
    assert (dataset.unusable, len(dataset.train) + len(dataset.eval)) == (9, 2)
    said = [line.partition(" records left out: ") for line in dataset.left_out]
    assert [(count, what) for count, _, what in said] == [
        ("5 of 11", "the answer is empty (d.jsonl line 7, 8, 9 and 2 more)"),
        ("2 of 11", f"{ALTERNATE} (d.jsonl line 2, 5; the first: {ALTERNATE}; got user)"),
        ("1 of 11", "lacks question and output (d.jsonl line 3; the first: lacks question and output (it has 'a'))"),
        ("1 of 11", f"{TAKES} (d.jsonl line 6; the first: {TAKES}, got 3)"),
    ]
    with pytest.raises(
        ConfigError, match=r"^strict: .*d.jsonl: 5 of 11 records left out: the answer is empty .*; 2 of"
    ):
        load_dataset(path, text_only=True, strict=True)
    few = write(tmp_path, good, *[wrong] * 9)
    with pytest.raises(ConfigError, match=r"d.jsonl: 1 of 10 records would be left: 9 of 10 records left out"):
        load_dataset(few, text_only=True)
    many = write(tmp_path, good, good, *[wrong] * 9)
    assert load_dataset(many, text_only=True).unusable == 9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"button": "é", "n": [1]}, '{"button": "é", "n": [1]}'),
        (3, "3"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
    ],
)
@pytest.mark.parametrize("make", [lambda value: {**LOOK, "image": None, "output": value}, lambda v: messages("a", v)])
def test_an_answer_that_is_a_json_value_is_learned_as_its_text(make: Any, value: Any, text: str) -> None:
    form = read_form(make(value))
    assert (form.turns[-1].text, form.turns[-1].learned, form.as_json) == (text, True, 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["up"], "a list goes in as its JSON text"),
        (None, "the answer is empty"),
        (float("nan"), "the answer is empty"),
        ({"x": float("inf")}, "JSON has no NaN and no Infinity"),
    ],
)
def test_an_answer_that_has_no_json_text_is_refused(value: Any, said: str) -> None:
    with pytest.raises(FormError, match=said):
        read_form({**LOOK, "image": None, "output": value})


def test_an_empty_cell_of_pandas_is_an_empty_text() -> None:
    form = read_form({**LOOK, "image": float("nan"), "context": float("nan")})
    assert form == read_form({**LOOK, "image": "", "context": ""})


def test_json_answers_are_counted_with_an_example(tmp_path: Path) -> None:
    rows = [{**LOOK, "output": {"button": "up"}}, messages("a", 3), messages("a", "up")]
    dataset = load_dataset(write(tmp_path, *rows), text_only=True, eval_fraction=0)
    assert [record.answer for record in dataset.train] == ['{"button": "up"}', "3", "up"]
    assert dataset.notes == ('2 answers are JSON values, learned as their text, for example \'{"button": "up"}\'',)


@pytest.mark.parametrize("learn", ["all", "last"])
def test_a_user_turn_that_nobody_answers_is_counted_and_not_shown(learn: Any, tmp_path: Path) -> None:
    rows = [messages("look", "up", "and?", "down", "now?"), messages("look", "up")]
    dataset = load_dataset(write(tmp_path, *rows), text_only=True, eval_fraction=0, learn=learn)
    first = dataset.train[0]
    assert (first.answers, first.prompt) == (("up", "down") if learn == "all" else ("down",), "look\n\nup\n\nand?")
    assert "1 records end with a user's turn: the answers before it are learned" in dataset.notes


def test_what_is_asked_is_read_as_training_reads_it(tmp_path: Path) -> None:
    rows = [{"ask": "which?", "photo": "a.png"}, {"ask": "and?", "photo": "a.png", "label": "up"}]
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "asked.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
    folder, found = open_records(str(tmp_path / "asked.json.gz"))
    columns = parse_columns("question=ask,image=photo,answer=label")
    asked = [as_record(rename(entry, columns), folder, text_only=False) for _, entry in found]  # type: ignore[arg-type]
    assert [(record.prompt, record.answer, len(record.pictures)) for record in asked] == [
        ("which?", "?", 1),
        ("and?", "?", 1),
    ]


PNG_TEXT = "iVBORw0KGgoAAAAN" * 5


def test_a_picture_as_anthropic_writes_it_is_read() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG_TEXT}
    said = [{"type": "image", "source": source}, {"type": "text", "text": "which?"}]
    form = read_form({"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "red"}]})
    assert [picture.paths for picture in form.pictures] == [(f"data:;base64,{PNG_TEXT}",)]
    assert form.unread == ()


def test_exchanges_as_the_cauldron_writes_them_are_turns() -> None:
    form = read_form({"images": ["a.png"], "texts": [{"user": "q", "assistant": "a", "source": "s"}] * 2})
    assert [(turn.role, turn.text, turn.learned) for turn in form.turns] == [
        ("user", "q", False), ("assistant", "a", True)] * 2  # fmt: skip
    assert (len(form.turns[0].parts), form.unread) == (2, (("source", "s"), ("source", "s")))


@pytest.mark.parametrize("mark", [
    "<image 1>", "<image-1>", "[image]", "[Image 1]", "<image_placeholder>", "<image_token>", "<start_of_image>",
    "<im_start><image><im_end>", "<Img><ImageHere></Img>",
])  # fmt: skip
def test_every_spelling_of_a_place_becomes_the_picture(mark: str) -> None:
    form = read_form({"image": "a.png", "question": f"in {mark} which?", "output": "up"})
    assert form.turns[0].parts == ("in ", Picture(paths=("a.png",)), " which?")


def test_a_numbered_place_that_comes_again_speaks_of_the_picture() -> None:
    form = read_form({"images": ["a.png", "b.png"], "question": "<image 1><image 2> is it <image 1>?", "output": "up"})
    a, b = (Picture(paths=(name,)) for name in ("a.png", "b.png"))
    assert form.turns[0].parts == (a, b, " is it <image 1>?")


def test_a_list_beside_other_keys_is_not_taken_for_the_records() -> None:
    texts = [{"question": "q", "assistant": "a"}]
    with pytest.raises(FormError, match="holds its records under 'texts'"):
        read_form({"texts": texts})
    with pytest.raises(FormError, match=r"lacks question and output \(it has 'images, texts'\)"):
        read_form({"images": [], "texts": texts})
