"""Inputs that people bring and no format lists: each is read as it means, left out and counted, or refused."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trainer import files
from trainer.data import json_text, packed
from trainer.data.packed import no_json
from trainer.data.records import load_dataset
from trainer.outcome import ConfigError

# Two black pixels a side; Pillow is no part of the launch side, where this file is run too.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000002000000020802000000fdd49a730000000b49444154789c6360400600000e0001a99173b1"
    "0000000049454e44ae426082"
)
GOOD = {"image": "a.png", "question": "which?", "output": "up"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b b.png"):
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def talk(*answers: dict[str, Any], question: Any = "<image>which?", role: str = "user") -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for answer in answers:
        turns += [{"role": role, "content": "and?" if turns else question}, {"role": "assistant", **answer}]
    return {"messages": turns, "images": ["a.png"]}


def line(**more: Any) -> str:
    return json.dumps({**GOOD, **more})


def read(folder: Path, content: str | bytes, name: str = "d.jsonl") -> Any:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_dataset(str(path), eval_fraction=0)


@pytest.mark.parametrize(
    "content",
    [
        line() + "\r\n", line() + "\r", "\ufeff" + line(), f"\ufeff[{line()}]", f"[{line()},]", line() + ",\n",
        line(output=3), line(image=["a.png"]), line(image='["a.png"]'), line(image="file://localhost{folder}/a.png"),
        line(image="file://{folder}/b%20b.png"), line(image="FILE://{folder}/a.png"),
        line(image="file:{folder}/b%20b.png"), line(context=float("nan")),
        line(image={"bytes": None, "path": "a.png"}), line(video=None),
        line(weight=1.0), line(sample_weight=1), line(loss_mask=[1, 1]), line(weight=70.5), line(score=float("nan")),
        json.dumps(talk({"content": "up"}, role="User ")), json.dumps(talk({"content": "up", "tool_calls": None})),
        json.dumps(talk({"content": [{"type": "text", "text": "up"}]})),
        json.dumps(talk({"content": {"type": "text", "text": "up"}})),
        json.dumps(talk({"content": "<|image|> is up"}, question="<|image|>which?")),
    ],
)  # fmt: skip
def test_what_means_a_record_is_read(content: str, folder: Path) -> None:
    dataset = read(folder, content.replace("{folder}", str(folder)))
    assert (len(dataset.train), dataset.left_out) == (1, ())
    assert len(dataset.train[0].pictures) == 1


def test_one_part_that_is_in_no_list_is_a_part_and_an_answer_that_holds_more_is_json(folder: Path) -> None:
    one = {"content": {"type": "text", "text": "up"}}
    act = {"content": {"type": "text", "text": "up", "at": 3}}
    shown = {"role": "user", "content": {"type": "image", "image": "a.png"}}
    asked = {"role": "user", "content": {"type": "text", "text": "where?"}}
    rows = [{"messages": [shown, asked, {"role": "assistant", **said}]} for said in (one, act, {"content": {"n": 1}})]
    dataset = read(folder, "".join(json.dumps(row) + "\n" for row in rows))
    assert [record.answer for record in dataset.train] == ["up", '{"type": "text", "text": "up", "at": 3}', '{"n": 1}']
    assert [(record.prompt, len(record.pictures)) for record in dataset.train] == [("where?", 1)] * 3


def test_a_key_that_stands_twice_leaves_out_that_record_of_an_array_alone(folder: Path) -> None:
    twice = '{"image": "a.png", "question": "?", "output": "up", "deep": [{"n": 1, "n": 2}]}'
    dataset = read(folder, f"[{line()}, {twice},\n{line()}]")
    assert (len(dataset.train), dataset.unusable) == (2, 1)
    assert "(d.jsonl record 2; the first: is not JSON ('n' stands in an object twice))" in dataset.left_out[0]


@pytest.mark.parametrize("make", [
    lambda text: f"data:;base64,{text}", lambda text: f"DATA:image/png;base64,{text}",
    lambda text: f"data:image/png;charset=utf-8;base64,{text.replace('+', '-').replace('/', '_')}", lambda text: text,
])  # fmt: skip
def test_a_picture_in_base64_is_read_however_it_is_called(make: Any, folder: Path) -> None:
    text = base64.b64encode((folder / "a.png").read_bytes()).decode()
    assert len(read(folder, line(image=make(text))).train) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"image":"a.png","question":"?","output":"up","output":"down"}', "'output' stands in an object twice"),
        ('{"image":"a.png","image":"b b.png","question":"?","output":"up"}', "'image' stands in an object twice"),
        ('{"image":"a.png","question":"?","output":NaN}', "the answer is empty"),
        ('{"image":"a.png","question":"?","output":' + "9" * 5000 + "}", "it holds a number of thousands of digits"),
        (line(output=["up"]), "a list goes in as its JSON text"),
        (line(image="b%20b.png"), "b%20b.png is not there"),
        (line(image="x" * 100_000), "x... is not there"),
        (line(weight=0), "weight 0, loss false or mask true leaves no answer to learn"),
        (line(image=True), "image takes a path"),
        (json.dumps(talk({"content": None})), "turn 2 takes text or a list of parts, got None"),
        (json.dumps(talk({"content": "up", "tool_calls": [{"function": {"name": "press"}}]})), "turn 2 has tool_calls"),
        (json.dumps(talk({"content": "up", "function_call": {"name": "press"}})), "turn 2 has function_call"),
        (json.dumps(talk({"content": "up", "training": False})), "leaves no answer to learn"),
        (json.dumps(talk({"content": "up", "weight": "0"})), "weight '0' of turn 2"),
        (json.dumps({"question": ["?"], "output": ["up"], "image": ["a.png"]}), "question takes a string"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_left_out_and_said(content: str, said: str, folder: Path) -> None:
    dataset = read(folder, content + "\n" + line() + "\n")
    assert (len(dataset.train), dataset.unusable) == (1, 1)
    assert said in dataset.left_out[0]
    assert len(dataset.left_out[0]) < 700


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (f'[{line()}, {{"question": "é"}}]'.encode("latin-1"), "d.json", "is not UTF-8"),
        (line().encode("utf-16"), "d.jsonl", "is UTF-16: save it as UTF-8"),
        (gzip.compress(line().encode() * 50, mtime=0)[:-9], "d.jsonl.gz", "is a damaged gzip file"),
        (gzip.compress(bytes(range(256)) * 9, mtime=0)[:40] + bytes(range(99)), "d.jsonl.gz", "is a damaged gzip file"),
        ("version https://git-lfs.github.com/spec/v1\n", "d.jsonl", "is a pointer of Git LFS"),
        ("<!DOCTYPE html><html></html>", "d.jsonl", "is a web page"),
        (line(loss_weight=0), "d.jsonl", "'loss_weight' (what is learned) in 1 records (d.jsonl line 1)"),
        (line(weight=0.5), "d.jsonl", "'weight' (what is learned)"),
        (line(sample_weight=[0]), "d.jsonl", "'sample_weight' (what is learned)"),
        (json.dumps(talk({"content": "up", "loss_scale": 0.1})), "d.jsonl", "'loss_scale' (what is learned)"),
        ("null\n", "d.jsonl", "is not an object"), ("\n\n", "d.jsonl", "holds no records"),
        (json.dumps({"a": [GOOD], "b": [GOOD]}), "d.json", "holds lists of objects under a and b: put the records"),
        (json.dumps({"image": ["a.png"], "question": ["?"]}), "d.json", "holds columns and no records: pandas writes"),
        (json.dumps({"image": {"0": "a.png"}, "output": {"0": "up"}}), "d.json", "holds columns and no records"),
        (json.dumps({"mine": {"root": "img/", "annotation": "a.jsonl"}}), "d.json",
         "lists files of records and holds none: DATA={folder}/a.jsonl (image_root: img/)"),
        ((line() + "\n" + line()).encode("utf-16"), "d.jsonl", "is UTF-16: save it as UTF-8"),
        ((line() + "\n" + line()).encode("utf-16-be"), "d.jsonl", "is UTF-16: save it as UTF-8"),
        (line().encode("utf-16-le"), "d.jsonl", "is UTF-16: save it as UTF-8"),
        (json.dumps({"image": "a.png", "qa": [{"question": "?", "answer": "a"}]}), "d.jsonl", "it has 'image, qa'"),
        (json.dumps({"images": [GOOD], "annotations": [GOOD]}), "d.json", "lists of objects under images and annotat"),
        (line().encode("utf-32"), "d.jsonl", "is UTF-32: save it as UTF-8"),
        (b"PK\x03\x04", "d.zip", "is a zip archive, and no JSON: unpack it (unzip d.zip), and name what was in it"),
        (b"PK\x03\x04", "d.xlsx", "save the table as csv, and name that"),
        (gzip.compress(b"d.jsonl".ljust(257, b"\0") + b"ustar\0" + line().encode()), "d.tar.gz",
         "is packed, and inside a tar archive, and no JSON: unpack it (tar -xf d.tar.gz), and name what was in it"),
        (gzip.compress(gzip.compress(line().encode())), "d.jsonl.gz",
         "is packed, and inside packed again: unpack it once"),
        (bz2.compress(line().encode())[:-9], "d.jsonl.bz2", "is a damaged bz2 file"),
        (lzma.compress(line().encode())[:-9], "d.jsonl.xz", "is a damaged lzma file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_refused_in_one_line(
    content: str | bytes, name: str, said: str, folder: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(folder, content, name)
    assert said.replace("{folder}", str(folder)) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_switch_is_refused_in_a_set_of_text_alone_too(folder: Path) -> None:
    (folder / "d.jsonl").write_text(json.dumps({"question": "?", "output": "up", "loss_weight": 0.1}))
    with pytest.raises(ConfigError, match="not read, and it says what to learn"):
        load_dataset(str(folder / "d.jsonl"), text_only=True)


def test_training_false_of_a_turn_only_shows_the_answer(folder: Path) -> None:
    (record,) = read(folder, json.dumps(talk({"content": "up", "training": False}, {"content": "down"}))).train
    assert (record.answers, [turn.learned for turn in record.turns]) == (("down",), [False, False, False])


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")])
def test_packed_records_are_read_also_out_of_a_folder(pack: Any, suffix: str, folder: Path) -> None:
    (folder / f"train.jsonl.{suffix}").write_bytes(pack((line() + "\n" + line() + "\n").encode()))
    assert len(load_dataset(str(folder), eval_fraction=0).train) == 2


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0"])
def test_packed_bytes_that_look_like_a_table_are_none(magic: bytes) -> None:
    """gzip writes the time into the first line."""
    assert no_json(magic + b",b\n,\x02\xff", Path("d.jsonl.gz")) is None


@pytest.mark.parametrize(
    ("pack", "suffix"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (partial(lzma.compress, preset=0), "xz")],
    ids=["gz", "bz2", "xz"],
)  # fmt: skip
def test_what_unpacks_without_an_end_is_never_in_memory_at_once(
    pack: Any, suffix: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_MIB", 1)
    monkeypatch.setattr(json_text, "MOST_MIB", 1)
    endless = b"x" * (10 * files.MIB)
    lines = pack(b"\n".join([line().encode(), endless, line().encode()]))
    array = pack(b'[{"question": "%s' % endless)
    assert len(lines) + len(array) < files.MIB / 8
    tracemalloc.start()
    try:
        dataset = read(folder, lines, f"d.jsonl.{suffix}")
        with pytest.raises(
            ConfigError,
            match=r"record 1 is longer than 1 MiB, the most of one object: split it, or write its records one a line$",
        ):
            read(folder, array, f"d.json.{suffix}")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(dataset.train), dataset.left_out) == (
        2,
        (
            "1 of 3 records left out: is longer than 1 MiB, the most of one object: split it, or write its records "
            f"one a line (d.jsonl.{suffix} line 2)",
        ),
    )
    assert peak_bytes < 9 * files.MIB


def test_an_xz_file_that_asks_for_more_memory_than_any_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "MOST_MEMORY_BYTES", 1 << 16)
    with pytest.raises(ConfigError, match=r"d\.jsonl\.xz needs more than 0\.0625 MiB to unpack: unpack it"):
        read(folder, lzma.compress(line().encode()), "d.jsonl.xz")


def test_xz_files_behind_one_another_are_read(folder: Path) -> None:
    one = lzma.compress((line() + "\n").encode())
    for zeros in (4, 2 * files.MIB):
        assert len(read(folder, one + bytes(zeros) + one + bytes(zeros), "d.jsonl.xz").train) == 2


def test_a_file_of_one_record_is_that_record(folder: Path) -> None:
    record = {"images": ["a.png"], "texts": [{"user": "which?", "assistant": "up"}]}
    one, two = (read(folder, (json.dumps(record) + "\n") * count, f"{count}.jsonl") for count in (1, 2))
    assert (one.train, one.unusable) == (two.train[:1], 0) and len(one.train[0].pictures) == 1


@pytest.mark.parametrize(
    ("content", "sides"),
    [
        ({"first": GOOD, "second": GOOD}, (2, 0)), ({"version": 1, "data": [GOOD] * 3}, (3, 0)),
        ({"train": [GOOD] * 2, "validation": [{**GOOD, "question": "other"}]}, (2, 1)),
    ],
)  # fmt: skip
def test_the_records_in_one_object_are_read_and_said(content: Any, sides: tuple[int, int], folder: Path) -> None:
    dataset = read(folder, json.dumps(content, indent=1), "d.json")
    assert (len(dataset.train), len(dataset.eval)) == sides
    assert dataset.notes[0] == f"d.json is one object: the {sum(sides)} records in it are read"
    assert len(read(folder, json.dumps([{"talk": [GOOD]}, GOOD]), "d.json").train) == 1


def test_what_a_split_says_and_nobody_knows_is_said(folder: Path) -> None:
    rows = line(split="fold1") + "\n" + line(split="fold2")
    said = "2 records have a split that is none of train, validation and test ('fold1', 'fold2'): it divides nothing"
    assert said in read(folder, rows).notes


def test_pictures_are_found_as_another_system_spells_their_names(folder: Path) -> None:
    (folder / "img").mkdir()
    for name in ("gr\u00f6\u00dfe.png", "e\u0301.png"):  # one sign, and two
        (folder / "img" / name).write_bytes(PNG)
    names = ("img/gro\u0308\u00dfe.png", "img/\u00e9.png", "img\\e\u0301.png")
    assert len(read(folder, "\n".join(line(image=name) for name in names)).train) == 3


def test_a_setting_that_names_no_key_of_any_record_is_refused(folder: Path) -> None:
    (folder / "d.jsonl").write_text(json.dumps({"image": "a.png", "ask": "?", "label": "up"}))
    with pytest.raises(ConfigError, match=r"^columns: no record has 'lable': the records have image, label, did you "):
        load_dataset(str(folder / "d.jsonl"), columns="question=ask,answer=lable")


def test_a_newline_in_a_name_begins_no_line_of_its_own(folder: Path) -> None:
    left_out = read(folder, line() + "\n" + line(image="x\nout nothing")).left_out[0]
    assert "x\\nout nothing is not there" in left_out
