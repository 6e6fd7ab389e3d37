"""Files as other trainers write them: every one is read to the same records, or refused with what to do."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.commands import training_command
from trainer.data.images import is_picture
from trainer.data.json_text import read_objects, read_stream
from trainer.data.records import load_dataset
from trainer.data.sources import data_files, find_sources
from trainer.outcome import ConfigError

PNG = bytes.fromhex("89504e470d0a1a0a") + bytes(60)
ROWS = [{"image": "a.png", "question": f"q{i} ü", "output": f"o{i} {'[{' * i}"} for i in range(5)]
WAYS: dict[str, Callable[[list[Any]], str]] = {
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "array": json.dumps,
    "pretty array": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
    "pretty objects": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows),
    "concatenated": lambda rows: "".join(map(json.dumps, rows)),
    "arrays behind one another": lambda rows: json.dumps(rows[:2]) + "\n" + json.dumps(rows[2:], indent=1),
    "lines with commas": lambda rows: ",\n".join(map(json.dumps, rows)) + ",\n",
    "with a byte order mark": lambda rows: "\ufeff" + json.dumps(rows),
    "Windows lines": lambda rows: "\r\n".join(map(json.dumps, rows)) + "\r\n",
}


def folder(tmp_path: Path, **files: Any) -> Path:
    (tmp_path / "a.png").write_bytes(PNG)
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(text)
    return tmp_path


def questions(records: Any) -> list[str]:
    return [record.prompt for record in records]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_json_is_read_whichever_way_it_is_written(way: str, packed: bool, tmp_path: Path) -> None:
    content = WAYS[way](ROWS).encode()
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "some.json"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert [found for _, found in read_objects(path)] == ROWS
    dataset = load_dataset(str(path), eval_fraction=0)
    assert [(r.prompt, r.answer) for r in dataset.train] == [(row["question"], row["output"]) for row in ROWS]


def test_an_object_that_is_longer_than_what_is_read_at_once_is_read(tmp_path: Path) -> None:
    rows = [{"output": "x" * 700_000}, {"output": "y"}, {"output": '"\\' * 300_000}]
    for indent in (None, 2):
        (tmp_path / "long.json").write_text(json.dumps(rows, indent=indent))
        assert [found for _, found in read_objects(tmp_path / "long.json")] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": 2',
         "record 2 is not JSON (Expecting ',' delimiter in line 1): nothing behind it can be read"),
        ('[{"a": 1},\n', "ends within its array, behind record 1: it may have been cut off"),
        ('[\n{"a": 1},\n{"a": x},\n{"a": 3}]',
         "record 2 is not JSON (Expecting value in line 3): nothing behind it can be read"),
        ('{\n "a": 1\n}\n{\n "a": \n}\n',
         "record 2 is not JSON (Expecting value in line 6): nothing behind it can be read"),
        ("PAR1abcdef", "is parquet, and no JSON: name it some.parquet, then {convert}"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_the_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        list(read_objects(path))
    convert = training_command("trainer", "convert", str(path.with_suffix(".parquet")), "some-records")
    assert str(caught.value) == f"{path} {message.replace('{convert}', convert)}"


def test_damaged_gzip_and_utf_16_are_named(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(gzip.compress(json.dumps(ROWS).encode())[:-20])
    with pytest.raises(ConfigError, match=r"some.json is a damaged gzip file .*: pack it again$"):
        list(read_objects(path))
    path.write_bytes(json.dumps(ROWS).encode("utf-16"))
    with pytest.raises(ConfigError, match=r"some.json is UTF-16: save it as UTF-8$"):
        list(read_objects(path))


def test_a_stream_that_is_no_utf_8_is_refused_in_one_line() -> None:
    file = io.BufferedReader(io.BytesIO('[{"question": "é"}]'.encode("latin-1")))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^- is not UTF-8 \(.*\): save it as UTF-8$"):
        list(read_stream(file))


@pytest.mark.parametrize("name", ["eval", "validation", "val", "valid", "dev"])
def test_a_folder_has_its_held_out_records_under_any_of_their_names(name: str, tmp_path: Path) -> None:
    where = folder(tmp_path, train_json=json.dumps(ROWS[:3]), **{f"{name}_jsonl": ROWS[3:4]}, test_jsonl=ROWS[4:])
    dataset = load_dataset(str(where))
    assert (questions(dataset.train), questions(dataset.eval)) == (["q0 ü", "q1 ü", "q2 ü"], ["q3 ü"])
    assert dataset.split == f"{name}.jsonl"
    assert "not used: test.jsonl (test records are kept for you)" in dataset.notes
    alone = load_dataset(str(where / "train.json"), eval_fraction=0)
    assert alone.notes == (
        f"not used: {name}.jsonl beside train.json (DATA={where} takes it as held-out records)",
    )  # fmt: skip


def test_shards_folders_of_sides_and_one_file_alone_are_found(tmp_path: Path) -> None:
    names = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation_1.json.gz", "lengths.json"]
    for name in names:
        (tmp_path / name).write_text("{}")
    assert [path.name for path in data_files(str(tmp_path))] == names[:3]
    sides = tmp_path / "sides"
    for name in ("train/b.jsonl", "train/a.json", "val/c.ndjson"):
        (sides / name).parent.mkdir(parents=True, exist_ok=True)
        (sides / name).write_text("{}")
    assert [path.name for path in data_files(str(sides))] == ["a.json", "b.jsonl", "c.ndjson"]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "records.jsonl").write_text("{}")
    assert [path.name for path in data_files(str(tmp_path / "one"))] == ["records.jsonl"]
    (tmp_path / "one" / "more.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match=r"one: is a folder with 2 files of records and no train.jsonl: name the one"):
        data_files(str(tmp_path / "one"))


def test_several_files_and_folders_are_one_set(tmp_path: Path) -> None:
    where = folder(tmp_path, more__train_jsonl=ROWS[:1], more__dev_jsonl=ROWS[1:2], b_json=json.dumps(ROWS[2:4]))
    (where / "more" / "a.png").write_bytes(PNG)
    dataset = load_dataset(f"{where}/more, {where}/b.json")
    assert (questions(dataset.train), questions(dataset.eval)) == (["q0 ü", "q2 ü", "q3 ü"], ["q1 ü"])
    # Each file's pictures are beside it.
    assert [record.images[0].parent.name for record in dataset.train] == ["more", where.name, where.name]
    assert len(data_files(f"{where}/b.json,{where}/b.json")) == 1
    with pytest.raises(ConfigError, match=rf"is a folder without train.jsonl: did you mean DATA={where}/outer/more\?$"):
        (where / "outer").mkdir()
        (where / "outer" / "more").mkdir()
        (where / "outer" / "more" / "train.jsonl").touch()
        data_files(str(where / "outer"))
    (where / "x,y.jsonl").write_text(json.dumps(ROWS[0]))
    assert data_files(f"{where}/x,y.jsonl") == (where / "x,y.jsonl",)
    for name in ("train.jsonl", "val.jsonl"):
        (where / name).write_text(json.dumps(ROWS[0]))
    assert len(load_dataset(f"{where}/train.jsonl,{where}/val.jsonl").eval) == 1


def test_a_split_column_decides_who_is_held_out(tmp_path: Path) -> None:
    said = ["train", "Validation", "train", "test", "train"]
    rows = [{**row, "split": split} for row, split in zip(ROWS, said, strict=True)]
    dataset = load_dataset(str(folder(tmp_path, d_jsonl=rows) / "d.jsonl"))
    assert (questions(dataset.train), questions(dataset.eval)) == (["q0 ü", "q2 ü", "q4 ü"], ["q1 ü"])
    assert (dataset.split, dataset.notes) == (
        "as the split column says",
        ("as the split of the records says, 3 are trained on, 1 held out, 1 not used (test)",),
    )
    rows[2]["split"] = "fold-3"
    dataset = load_dataset(str(folder(tmp_path, d_jsonl=rows) / "d.jsonl"))
    assert dataset.notes == (
        "as the split of the records says, 3 are trained on, 1 of them without a split that is known ('fold-3'), "
        "1 held out, 1 not used (test)",
    )
    assert (questions(dataset.train), questions(dataset.eval)) == (["q0 ü", "q2 ü", "q4 ü"], ["q1 ü"])


def test_who_says_validation_or_test_is_not_trained_on_whatever_the_others_say(tmp_path: Path) -> None:
    some = [ROWS[0], {**ROWS[1], "split": "validation"}, {**ROWS[2], "split": "test"}, ROWS[3]]
    where = folder(tmp_path, train_jsonl=some)
    dataset = load_dataset(str(where), eval_fraction=0.9)
    assert (questions(dataset.train), questions(dataset.eval)) == (["q0 ü", "q3 ü"], ["q1 ü"])
    dataset = load_dataset(str(folder(tmp_path, eval_jsonl=ROWS[4:])))
    assert (questions(dataset.train), questions(dataset.eval)) == (["q0 ü", "q3 ü"], ["q4 ü", "q1 ü"])
    assert dataset.split == "eval.jsonl, the split column"
    folder(tmp_path, train_jsonl=some[1:3])
    with pytest.raises(ConfigError, match=r"0 are trained on, 1 held out, 1 not used \(test\): take split out of"):
        load_dataset(str(where))
    folder(tmp_path, train_jsonl=[some[2]] * 3)
    (where / "eval.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"0 are trained on, 0 held out, 3 not used \(test\): take split out of"):
        load_dataset(str(where))


def test_a_folder_says_which_files_of_records_are_not_read(tmp_path: Path) -> None:
    one = json.dumps(ROWS[0])
    where = folder(tmp_path, train_jsonl=ROWS, train2_jsonl=one, other_csv="a\n", convert_json="{}", deep__b_jsonl=one)
    assert find_sources(str(where)).notes == (
        f"not read: deep/b.jsonl, other.csv, train2.jsonl in {where} (DATA=FILE,FILE names several)",
    )


def test_shards_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(ConfigError, match=r"train has 1 of its 2 files \.\.\.-of-00002: bring the others"):
        find_sources(str(tmp_path))
    (tmp_path / "train-00001-of-00002.jsonl").write_text(json.dumps(ROWS[0]))
    assert len(find_sources(str(tmp_path)).train) == 2


def test_a_folder_of_test_records_and_one_of_folders_say_what_to_name(tmp_path: Path) -> None:
    where = folder(tmp_path, test_jsonl=ROWS)
    with pytest.raises(ConfigError, match=f"holds test records alone, .* DATA={where}/test.jsonl trains on them"):
        find_sources(str(where))
    (where / "test.jsonl").unlink()
    for name in ("a", "b"):
        (where / "train" / name).mkdir(parents=True)
        (where / "train" / name / "x.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(ConfigError, match=f"name them: DATA={where}/train/a/x.jsonl,{where}/train/b/x.jsonl"):
        find_sources(str(where))


def test_records_without_a_picture_that_do_not_say_so_are_counted(tmp_path: Path) -> None:
    bare = {"question": "q", "output": "o"}
    dataset = load_dataset(
        str(folder(tmp_path, train_jsonl=[*ROWS, bare, {**bare, "image": None}, {**bare, "images": []}]))
    )
    assert '1 record shows no picture, and is learned as text: `"image": null` says so yourself' in dataset.notes


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("you/walks", "DATA=you/walks: does not exist: give a file of JSON records, or a folder with train.jsonl; a "
                      "data set of the hub is fetched by {convert} you/walks walks-records"),
        ("s3://b/x.jsonl", "DATA=s3://b/x.jsonl: is an address, which is not read: copy it to a folder with s3's "
                           "own tool"),
        ("hf://datasets/you/x", "DATA=hf://datasets/you/x: is an address, which is not read: {convert} "
                                "hf://datasets/you/x x-records"),
        ("{folder}/t.parquet", "DATA={folder}/t.parquet: holds parquet files (t.parquet) and no JSON: {convert} "
                               "{folder}/t.parquet t-records"),
        ("{folder}/deep", "DATA={folder}/deep: holds arrow files (a.arrow) and no JSON: {convert} {folder}/deep "
                          "deep-records"),
        ("{folder}/t.jsonl.zst", "DATA={folder}/t.jsonl.zst: t.jsonl.zst is packed by zstd: unpack it (zstd -d "
                                 "t.jsonl.zst), or pack it by gzip"),
        ("{folder}/empty", "DATA={folder}/empty: is a folder without train.jsonl: give a file of JSON records, or a "
                           "folder with train.jsonl"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_with_the_command_that_converts_it(data: str, said: str, tmp_path: Path) -> None:
    for name in ("t.parquet", "deep/inside/a.arrow", "t.jsonl.zst", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    names = {"{folder}": str(tmp_path), "{convert}": training_command("trainer", "convert")}
    for name, text in names.items():
        data, said = data.replace(name, text), said.replace(name, text)
    with pytest.raises(ConfigError) as caught:
        load_dataset(data)
    assert str(caught.value) == said


def picture(color: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (40, 20), color).save(file, "PNG")
    return file.getvalue()


def test_pictures_inside_the_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data import inline
    from trainer.data.grid import load_image

    monkeypatch.setattr(inline, "picture_folder", lambda: tmp_path / "kept")
    red, blue = (base64.b64encode(picture(color)).decode() for color in ("red", "blue"))
    ask = {"question": "?", "output": "up"}

    def part(**image: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": [{"type": "image", **image}, {"type": "text", "text": "?"}]},
                             {"role": "assistant", "content": "up"}]}  # fmt: skip

    rows = [
        {**ask, "image": f"data:image/png;base64,{red}"},
        {**ask, "image": red},
        {**ask, "images": [{"bytes": blue, "path": None}]},
        part(base64=red),
        part(image_url={"url": f"data:image/png;base64,{blue}", "detail": "low"}, type="image_url"),
        part(image={"bytes": None, "path": "a.png"}),
        {**ask, "image": "data:image/png;base64,AAAA"},
        {**ask, "image": "data:image/png,%89PNG"},
    ]
    where = folder(tmp_path, d_jsonl=rows) / "d.jsonl"
    dataset = load_dataset(str(where), eval_fraction=0, write=False)
    assert not (tmp_path / "kept").exists()
    assert dataset.left_out == (
        "2 of 8 records left out: a data: address that is no picture in base64 (d.jsonl line 7, 8; the first: "
        "data:image/png;base64,AAAA... is no picture in base64)",
    )
    dataset = load_dataset(str(where), eval_fraction=0)
    images = [record.images[0] for record in dataset.train]
    assert images[5].name == "a.png"
    colors = [load_image(str(path)).getpixel((0, 0)) for path in images[:5]]
    assert colors == [(255, 0, 0), (255, 0, 0), (0, 0, 255), (255, 0, 0), (0, 0, 255)]
    assert len(list((tmp_path / "kept").iterdir())) == 2  # each content once


def test_a_picture_is_a_file_that_begins_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "text.png").write_text("a text")
    (tmp_path / "folder.png").mkdir()
    found = {name: is_picture(tmp_path / name) for name in ("a.png", "text.png", "folder.png", "none.png")}
    assert found == {"a.png": True, "text.png": False, "folder.png": False, "none.png": False}
    assert not is_picture(None)
