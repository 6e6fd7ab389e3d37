"""What a record holds and nobody reads: counted; refused where the model would be trained without it; and no false
alarm about what is only words and numbers."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer.data.forms import read_form
from trainer.data.records import load_dataset
from trainer.data.switches import switches
from trainer.outcome import ConfigError

PNG = bytes.fromhex("89504e470d0a1a0a")
TEXT = "text_only: true is for a set that is text alone, its markers words"
PICTURES = (
    "pictures go under image, images or frames, <image> being their place in the text: rename the key (columns: "
    "image=KEY does), or remove it"
)
OTHERS = "videos, audio and boxes are not shown: leave them out, or write a box as words"


def chat(said: Any, answer: Any = "up", **beside: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": answer}], **beside}


def flat(**changes: Any) -> dict[str, Any]:
    return {"image": None, "context": "", "question": "which?", "output": "up", **changes}


def write(folder: Path, *entries: Any) -> str:
    for name in ("a.png", "b.png", "seen"):
        (folder / name).write_bytes(PNG)
    (folder / "d.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(folder / "d.jsonl")


def refusal(path: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_dataset(path, **settings)
    assert caught.value.exit_code == 78
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "asks"),
    [
        ("train_on_inputs", "false", False), ("train_on_inputs", "True", True), ("loss_weight", "1.0", False),
        ("loss_weight", "0.5", True), ("mask", "true", True), ("train", " FALSE ", True), ("mask", "m.png", False),
    ],
)  # fmt: skip
def test_the_text_of_a_cell_asks_for_what_its_value_asks(name: str, value: str, asks: bool) -> None:
    assert switches(name, value, read_form(flat())) is asks


SPELLINGS = (
    "image_path", "image_paths", "img", "img_path", "image_file", "image_url", "file_name", "picture", "screenshot",
    "Image", "imageFile", "photo_1", "screenshot-before", "obs",
)  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("form", ["messages", "flat", "turn", "part"])
def test_pictures_under_another_key_are_never_trained_without(name: str, form: str, tmp_path: Path) -> None:
    # The last one's value is a picture as its file shows; nothing in its name says so.
    value: Any = "seen" if name == "obs" else ["a.png"] if name.endswith("s") else "a.png"
    entry = chat("look")
    if form == "messages":
        entry = chat("look", **{name: value})
    elif form == "flat":
        entry = flat(**{name: value})
    elif form == "turn":
        entry["messages"][0][name] = value
    else:
        entry = chat([{"type": "text", "text": "look", name: value}])
    path = write(tmp_path, flat(image="b.png"), entry, chat("look", image="b.png"), entry)
    said = f"not read, so the model would not see it: {name!r} (pictures) in 2 records (d.jsonl line 2); "
    assert refusal(path) == f"{path}: {said}{PICTURES}; {TEXT}"


@pytest.mark.parametrize(
    ("beside", "kind"),
    [
        ({"videos": ["a.mp4"]}, "videos"), ({"clip": "s/a.webm"}, "videos"), ({"audio": {"path": "a.wav"}}, "audio"),
        ({"voice": "https://x.org/a.mp3"}, "audio"), ({"bbox": [12, 30, 80, 90]}, "boxes"),
        ({"objects": {"ref": ["door"], "bbox": [[1, 2, 3, 4]]}}, "boxes"),
        ({"target_box": "[12, 30, 80, 90]"}, "boxes"),
        ({"content": "data:image/png;base64,iVBORw0KGgo"}, "pictures"),
        ({"b64": base64.b64encode(PNG * 99).decode()}, "pictures"),
        ({"pictures": [{"bytes": "x", "path": None}]}, "pictures"),
        ({"extra": [None, {"thumb": "t/0.JPG"}]}, "pictures"),
    ],
)  # fmt: skip
def test_videos_audio_boxes_and_pictures_as_data_are_known_by_name_or_value(
    beside: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    (name,) = beside
    path = write(tmp_path, chat("look", images=["a.png"], **beside))
    advice = PICTURES if kind == "pictures" else OTHERS
    said = f"not read, so the model would not see it: {name!r} ({kind}) in 1 records (d.jsonl line 1); "
    assert refusal(path) == f"{path}: {said}{advice}; {TEXT}"


@pytest.mark.parametrize(
    ("text", "marker", "pictured"),
    [
        ("<video>what is this?", "<video>", True), ("<audio>and this?", "<audio>", False),
        ("<|video|> what?", "<|video|>", True), ("{{audio}} what?", "{{audio}}", False),
        ("<img>s/0.png</img> what?", "<img>...</img>", True), ("<video> v/0.mp4 </video>", "<video>...</video>", True),
        ("<ref>the door</ref><box>(12,30),(80,90)</box>", "<box>", True), ("<box>[[1, 2, 3, 4]]</box>", "<box>", False),
        ("<|box_start|>(12,30),(80,90)<|box_end|>", "<|box_start|>", True), ("the <ref-object>", "<ref-object>", True),
        ("<image>what?", "<image>", False), ("<|image|>what?", "<|image|>", False),
        ("<img>what?", "<img>", False), ("{{image}} what?", "{{image}}", False),
    ],
)  # fmt: skip
def test_a_marker_that_nothing_is_put_for_is_refused(text: str, marker: str, pictured: bool, tmp_path: Path) -> None:
    picture = {"images": ["a.png"]} if pictured else {}
    path = write(tmp_path, chat("look", images=["a.png"]), chat(text, **picture), chat(text, **picture))
    is_picture = re.match(r"\W*(image|img)", marker)
    said = f"not read, so the model would not see it: {marker!r} as text in 2 records (d.jsonl line 2); "
    assert refusal(path) == f"{path}: {said}{PICTURES if is_picture else OTHERS}; {TEXT}"
    # An answer is refused for what is in a marker alone.
    path = write(tmp_path, chat("look", text, images=["a.png"]))
    if "..." in marker or "box" in marker:
        assert f"{marker!r} as text in 1 records" in refusal(path)
    elif marker != "<image>":
        load_dataset(path)


def test_everything_that_is_lost_stands_in_one_message(tmp_path: Path) -> None:
    path = write(tmp_path, chat("<video>?", video="0.mp4"), flat(img="0.png"), flat(img="1.png", question="<video>"))
    assert refusal(path) == (
        f"{path}: not read, so the model would not see it: 'video' (videos) in 1 records (d.jsonl line 1), "
        f"'<video>' as text in 1 records (d.jsonl line 1), 'img' (pictures) in 2 records (d.jsonl line 2); "
        f"{PICTURES}; {OTHERS}; {TEXT}"
    )


@pytest.mark.parametrize(
    "entry",
    [
        chat("What does <box> do?", images=["a.png"]),
        chat("HTML: <video controls src=x>, <img src='a.png'>", images=["a.png"]),
        chat("<p><video><source src='a.mp4'></video></p>", images=["a.png"]),
        chat("see <ref>note 1</ref>", images=["a.png"]),
        flat(question="<video> is a word where image says that there is none"),
        chat("the word <image>", images=[]), chat("{{ name }}", image="a.png"),
        flat(image="a.png", image_id=7, image_width=240, num_images=1, boxes=3, frame=12),
        flat(image="a.png", image_caption="a cat at home"),
        flat(image="a.png", id="x.png", source="https://x.org/a.png", bbox=None, videos=[]),
        flat(image="a.png", metadata={"image_path": "b.png"}),
        flat(image="a.png", image_path="/home/ada/a.png", file_name="a.png"),  # the one that is read, named again
        chat("look", image="a.png", tools=[{"properties": {"image": {"type": "string"}}}], picture="a cat on a mat"),
        chat('<img src="logo.png"> which?', image="a.png"), chat("draw", '<img src="logo.png">'),
    ],
)  # fmt: skip
def test_words_and_numbers_are_no_false_alarm(entry: Any, tmp_path: Path) -> None:
    path = write(tmp_path, flat(image="a.png"), entry)
    assert len(load_dataset(path, eval_fraction=0).train) == 2


def test_what_is_not_read_is_counted_once_for_the_set(tmp_path: Path) -> None:
    turns = chat("look", image="a.png", reward=0.5)
    turns["messages"][0]["name"] = turns["messages"][1]["name"] = "ada"
    entries = [turns, flat(image="a.png", reward=1, step=None), flat(image="a.png", session="s", image_id="7")]
    dataset = load_dataset(write(tmp_path, *entries), eval_fraction=0)
    assert dataset.notes[0] == "not read: reward in 2 records, name in 1 records"


def test_a_set_without_a_picture_takes_the_setting_and_one_with_pictures_does_not(tmp_path: Path) -> None:
    path = write(tmp_path, flat(), chat("look"))
    assert refusal(path) == (
        f"{path}: none of 2 records has a picture: image, images or frames hold the paths; "
        "text_only: true trains on text alone"
    )
    assert len(load_dataset(path, eval_fraction=0, text_only=True).train) == 2
    words = write(tmp_path, chat("<box>(1,2)</box> <video> <image>", img="a.png"))
    dataset = load_dataset(words, eval_fraction=0, text_only=True)
    assert (dataset.train[0].prompt, dataset.notes) == (
        "<box>(1,2)</box> <video> <image>",
        ("not read: img in 1 records",),
    )
    path = write(tmp_path, flat(), flat(image="a.png"))
    assert refusal(path, text_only=True) == (
        f"text_only: 1 records of {path} have pictures: leave text_only out, to learn from them"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("left <|image_1|> right <|image_2|>", ["left ", "a.png", " right ", "b.png"]),
        ("left <image1> right <image2>", ["left ", "a.png", " right ", "b.png"]),
        ("<|vision_start|><|image_pad|><|vision_end|>and <|image_pad|>", ["a.png", "and ", "b.png"]),
        ("[IMG] and [IMG]", ["a.png", " and ", "b.png"]),
    ],
)
def test_numbered_and_native_places_are_the_pictures(text: str, said: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, chat(text, images=["a.png", "b.png"]))
    (record,) = load_dataset(path).train
    parts = [part if isinstance(part, str) else Path(part.paths[0]).name for part in record.turns[0].parts]
    assert parts == said


def test_places_numbered_in_another_order_than_the_images_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, chat("<image_2> before <image_1>", images=["a.png", "b.png"]))
    assert "numbered places stand in another order than the images" in refusal(path)


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (flat(question="look ![x](a.png)"), "'![x](a.png)' as text"),
        (chat('<p><IMG alt="x" src="shot.png"/>look'), '\'<IMG alt="x" src="shot.png"/>\' as text'),
        (chat("<|audio_1|> hear"), "'<|audio_1|>' as text"),
        (chat("<|video_pad|> see"), "'<|video_pad|>' as text"),
        (chat("go", bbox_2d=[1, 2, 3, 4]), "'bbox_2d' (boxes)"),
        (flat(source="a.png"), "'source' (pictures)"),
        (flat(image_key="b.png"), "'image_key' (pictures)"),
    ],
)
def test_what_hides_behind_quiet_names_and_native_markers_is_refused(entry: Any, what: str, tmp_path: Path) -> None:
    path = write(tmp_path, flat(image="a.png"), entry)
    assert refusal(path).startswith(f"{path}: not read, so the model would not see it: {what} in 1 records")


def test_a_place_in_a_record_that_says_it_has_no_image_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, flat(image="a.png"), flat(question="<image> which?"), flat(question="which?"))
    (note,) = load_dataset(path).notes
    assert note == "1 records say that they have no image and hold a place for one, which the model is shown as a word"


def test_a_part_may_name_its_picture_by_a_path_in_a_mapping(tmp_path: Path) -> None:
    part = {"type": "image", "image": {"path": "a.png"}}
    path = write(tmp_path, chat([part, {"type": "text", "text": "look"}]))
    assert [p.name for p in load_dataset(path).train[0].images] == ["a.png"]
    wrong = chat([{"type": "image", "image": {"what": "a.png"}}, {"type": "text", "text": "look"}])
    assert "image takes a path" in refusal(write(tmp_path, wrong))


@pytest.mark.parametrize(
    "entry",
    [
        chat("look", label=False), flat(label=False, output="The cat is on the mat."), flat(label=False, output="1"),
        chat("look", rejected_response="down"), flat(rejected=[{"role": "assistant", "content": "down"}]),
        flat(rejected_answer="down"), chat("look", rejected_messages=[{"role": "assistant", "content": "down"}]),
    ],
)  # fmt: skip
def test_an_answer_that_is_marked_as_bad_or_as_one_of_a_pair_is_not_learned_as_if_good(
    entry: Any, tmp_path: Path
) -> None:
    (name,) = entry.keys() & {"label", "rejected", "rejected_response", "rejected_answer", "rejected_messages"}
    path = write(tmp_path, flat(image="a.png"), {**entry, "image": "a.png"})
    said = f"not read, and it says what to learn: {name!r} (what is learned) in 1 records (d.jsonl line 2); "
    assert refusal(path).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "beside",
    [
        {"label": "cat"}, {"label": 0}, {"label": True}, {"label": None}, {"label": False, "output": "No."},
        {"label": False, "output": '{"cat": false}'}, {"label": False, "output": False}, {"label": [False]},
        {"rejected": False}, {"rejected": ""}, {"rejected_by": "ada"}, {"rejected_response": None},
    ],
)  # fmt: skip
def test_a_label_that_is_the_class_of_a_picture_is_only_counted(beside: dict[str, Any], tmp_path: Path) -> None:
    load_dataset(write(tmp_path, flat(image="a.png"), flat(image="a.png", **beside)))


def test_an_empty_cell_for_the_picture_is_none_that_is_counted_and_refused_where_the_text_shows_one(
    tmp_path: Path,
) -> None:
    dataset = load_dataset(write(tmp_path, flat(image="a.png"), flat(image="")))
    assert dataset.notes == ('1 record shows no picture, and is learned as text: `"image": null` says so yourself',)
    path = write(tmp_path, flat(image="a.png"), flat(image="", question="<image> which?"))
    assert "'<image>' as text in 1 records (d.jsonl line 2)" in refusal(path)


@pytest.mark.parametrize("beside", [{"weight": False}, {"loss": 0}, {"weight": 0}, {"loss": False}, {"weight": 0.0}])
def test_a_record_that_is_not_to_be_learned_is_left_out(beside: dict[str, Any], tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, flat(image="a.png"), flat(image="b.png", **beside)))
    assert [record.images[0].name for record in (*dataset.train, *dataset.eval)] == ["a.png"]
    assert dataset.left_out == (
        "1 of 2 records left out: weight 0, loss false or mask true leaves no answer to learn (d.jsonl line 2)",
    )


def test_words_beside_a_picture_that_look_like_its_place_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    marks = ("{img}", "<vision>", "<b>", "<image 1>: <image 1>")
    rows = [{"image": "a.png", "question": f"{mark} which?", "output": "up"} for mark in marks]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = load_dataset(str(tmp_path / "d.jsonl"), eval_fraction=0).notes
    assert notes == (
        "learned as words, and may be the place of a picture, which is <image>: '{img}' in 1 records (d.jsonl line 1), "
        "'<vision>' in 1 records (d.jsonl line 2)",
    )
