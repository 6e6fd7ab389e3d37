"""`convert`: what is no JSON, or names pictures by address, becomes records that training reads."""

from __future__ import annotations

import base64
import contextlib
import csv
import functools
import gzip
import http.server
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from PIL import Image

from trainer.__main__ import main
from trainer.convert.fetch import _read, fetch, is_public
from trainer.convert.pictures import PictureStore
from trainer.convert.rows import _refuse_others_files, _streamed
from trainer.data.grid import load_image
from trainer.data.records import Dataset, load_dataset
from trainer.files import MIB
from trainer.outcome import ConfigError

pytestmark = pytest.mark.slow  # the datasets library takes seconds to begin
COLORS = ("red", "blue", "red")


def picture(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), color).save(file, "PNG")
    return file.getvalue()


def rows() -> list[dict[str, Any]]:
    return [{"image": {"bytes": picture(color), "path": None}, "question": "which?", "answer": color}
            for color in COLORS]  # fmt: skip


def parquet(path: Path, columns: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), path)


def convert(data: object, out: Path, *more: str) -> int:
    return main(["convert", str(data), str(out), *more])


def seen(dataset: Dataset) -> list[tuple[str, str]]:
    """(what the picture of each record shows, the answer)"""
    names = {(255, 0, 0): "red", (0, 0, 255): "blue"}
    found = []
    for record in dataset.train:
        (path,) = record.images
        found.append((names[load_image(str(path)).getpixel((0, 0))], record.answer))  # type: ignore[index]
    return found


WANTED = [(color, color) for color in COLORS]


def test_a_hub_snapshot_of_parquet_becomes_records_with_each_picture_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(tmp_path / "set/data/train-00000-of-00001.parquet", rows())
    parquet(tmp_path / "set/data/validation-00000-of-00001.parquet", rows()[:1])
    (tmp_path / "set/README.md").write_text("# pictures\n")
    out = tmp_path / "out"
    assert convert(tmp_path / "set", out) == 0
    dataset = load_dataset(str(out))
    assert (seen(dataset), len(dataset.eval), dataset.left_out) == (WANTED, 1, ())
    assert len(list((out / "pictures").rglob("*.png"))) == 2
    assert "train.jsonl: 3 records, 2 new pictures" in capsys.readouterr().out
    # The same again changes nothing; something else is refused.
    assert convert(tmp_path / "set", out) == 0
    assert "train.jsonl: 3 records, 0 new pictures" in capsys.readouterr().out
    assert convert(tmp_path / "set/data/train-00000-of-00001.parquet", out) == 78


def test_a_stopped_conversion_goes_on_behind_its_last_whole_record(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", rows())
    out = tmp_path / "out"
    convert(tmp_path / "train.parquet", out)
    whole = (out / "train.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    (out / "train.jsonl").unlink()
    (out / "train.jsonl.part").write_bytes(b'{"kept": 1}\n' + whole[first : first + 9])
    assert convert(tmp_path / "train.parquet", out) == 0
    assert (out / "train.jsonl").read_bytes() == b'{"kept": 1}\n' + whole[first:]


def test_an_interrupted_conversion_goes_on_and_stores_each_picture_once(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", [{**rows()[n % 3], "answer": f"a{n}"} for n in range(4000)])
    words = [sys.executable, "-m", "trainer", "convert", str(tmp_path / "train.parquet"), str(tmp_path / "out")]
    part = tmp_path / "out/train.jsonl.part"
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as stopped:
        while stopped.poll() is None and not (part.is_file() and part.stat().st_size):
            time.sleep(0.02)
        stopped.send_signal(signal.SIGINT)
        _, error = stopped.communicate()
    assert (stopped.returncode, "the same command goes on" in error, "Traceback" in error) == (1, True, False)
    begun = part.read_bytes()
    assert 0 < begun.count(b"\n") < 4000
    assert convert(tmp_path / "train.parquet", tmp_path / "out") == 0
    lines = (tmp_path / "out/train.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == [f"a{n}" for n in range(4000)]
    assert len(list((tmp_path / "out/pictures").rglob("*.png"))) == 2


def test_what_save_to_disk_wrote_is_read_with_its_splits(tmp_path: Path) -> None:
    from datasets import Dataset as Saved
    from datasets import DatasetDict, Features, Image, Value

    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    saved = Saved.from_list(rows(), features=features)
    saved.save_to_disk(tmp_path / "one")
    DatasetDict({"train": saved, "validation": saved.select([1])}).save_to_disk(tmp_path / "two")
    for name in ("one", "two"):
        with pytest.raises(ConfigError, match=r"holds arrow files .* and no JSON: .* convert"):
            load_dataset(str(tmp_path / name))
        assert convert(tmp_path / name, tmp_path / f"{name}-out") == 0
    assert seen(load_dataset(str(tmp_path / "one-out"), eval_fraction=0)) == WANTED
    both = load_dataset(str(tmp_path / "two-out"))
    assert (seen(both), len(both.eval)) == (WANTED, 1)


def test_without_a_network_a_hub_id_is_read_from_the_cache_or_refused_in_one_line(tmp_path: Path) -> None:
    cache = tmp_path / "hub/datasets--me--cats"
    parquet(cache / "snapshots/abc/data/train-00000-of-00001.parquet", rows())
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for name, code, said in (
        ("me/cats", 0, "the copy of me/cats in the cache (commit abc) is read; it looks whole"),
        ("me/dogs", 78, "me/dogs cannot be fetched, and no copy is in the cache"),
    ):
        words = [sys.executable, "-m", "trainer", "convert", name, str(tmp_path / f"{name[3:]}-out")]
        ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert (ended.returncode, said in ended.stderr, ended.stderr.count("\n") <= 1) == (code, True, True), (
            ended.stderr
        )
    assert seen(load_dataset(str(tmp_path / "cats-out"), eval_fraction=0)) == WANTED


def test_a_part_of_a_data_set_in_the_cache_is_not_taken_for_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    from trainer.convert.hub_cache import cached_snapshot

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    whole = "me/cats cannot be fetched, and the copy of me/cats in the cache (commit abc) is not whole: "
    cache = tmp_path / "datasets--me--cats"
    data = cache / "snapshots/abc/data"
    for folder in (data, cache / "refs", cache / "trees"):
        folder.mkdir(parents=True)
    (cache / "refs/main").write_text("abc")
    first, second = (data / f"train-0000{n}-of-00002.parquet" for n in (0, 1))
    first.touch()
    with pytest.raises(ConfigError) as caught:
        cached_snapshot("me/cats")
    said = "1 of 2 files of data/train.parquet are there: fetch it with a network"
    assert str(caught.value) == whole + said
    second.symlink_to("../../../blobs/gone")
    with pytest.raises(ConfigError, match=r"is not whole: data/train-00001-of-00002.parquet is not there: "):
        cached_snapshot("me/cats")
    second.unlink()
    second.touch()
    read = "trainyard: me/cats cannot be fetched: the copy of me/cats in the cache (commit abc) is read"
    assert cached_snapshot("me/cats") == str(cache / "snapshots/abc")
    assert capsys.readouterr().err == f"{read}; it looks whole, though no list of its files is there\n"
    listed = {f"data/{path.name}": {"size": 0, "blob_id": "e69de29b"} for path in (first, second)}
    (cache / "trees/abc.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    assert cached_snapshot("me/cats") == str(cache / "snapshots/abc")
    assert capsys.readouterr().err == f"{read}\n"
    second.unlink()
    with pytest.raises(ConfigError) as caught:
        cached_snapshot("me/cats")
    assert str(caught.value) == f"{whole}it lacks files that the hub lists: fetch it with a network"


def test_a_picture_folder_is_read_by_its_metadata_or_its_folders(tmp_path: Path) -> None:
    for name, color in (("0.png", "red"), ("1.png", "blue")):
        for folder in ("meta", f"plain/{color}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(picture(color))
    lines = [{"file_name": f"{n}.png", "question": "which?", "answer": c} for n, c in enumerate(("red", "blue"))]
    (tmp_path / "meta/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert convert(tmp_path / "meta", tmp_path / "a") == 0
    assert sorted(seen(load_dataset(str(tmp_path / "a"), eval_fraction=0))) == [("blue", "blue"), ("red", "red")]
    assert convert(tmp_path / "plain", tmp_path / "b", "--question", "which colour?") == 0
    dataset = load_dataset(str(tmp_path / "b"), eval_fraction=0, columns="answer=label")
    assert sorted(seen(dataset)) == [("blue", "blue"), ("red", "red")]


def test_a_folder_of_pictures_with_a_text_file_beside_each_becomes_records_with_the_texts_as_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set/10_colors"
    folder.mkdir(parents=True)
    for name, color, text in (("a", "red", "red"), ("b", "blue", "blue\n"), ("c", "red", None), ("d", "red", " ")):
        (folder / f"{name}.png").write_bytes(picture(color))
        if text is not None:
            (folder / f"{name}.txt").write_text(text)
    assert convert(tmp_path / "set", tmp_path / "out") == 78
    assert "say what is asked of each, for example --question 'What is this?'" in capsys.readouterr().err
    assert convert(tmp_path / "set", tmp_path / "out", "--question", "which?") == 0
    assert seen(load_dataset(str(tmp_path / "out"), eval_fraction=0)) == [("red", "red"), ("blue", "blue")]
    said = f"2 rows are left out, the first: {folder}/c.png has no text file beside it"
    assert said in capsys.readouterr().err


def test_webdataset_csv_and_several_picture_columns(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for n, color in enumerate(COLORS):
            said = json.dumps({"question": "which?", "answer": color}).encode()
            for suffix, content in (("png", picture(color)), ("json", said)):
                member = tarfile.TarInfo(f"{n:03}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert convert(tmp_path / "s.tar", tmp_path / "a") == 0
    assert seen(load_dataset(str(tmp_path / "a"), eval_fraction=0)) == WANTED
    (tmp_path / "p.png").write_bytes(picture("red"))
    (tmp_path / "t.csv").write_text("image,question,answer\np.png,which?,red\n")
    assert convert(tmp_path / "t.csv", tmp_path / "b") == 0
    assert seen(load_dataset(str(tmp_path / "b"), eval_fraction=0)) == [("red", "red")]
    two = [{"left": row["image"], "right": rows()[1]["image"], "question": "?", "answer": "x"} for row in rows()]
    parquet(tmp_path / "two.parquet", two)
    assert convert(tmp_path / "two.parquet", tmp_path / "c") == 0
    record = load_dataset(str(tmp_path / "c"), eval_fraction=0).train[0]
    assert [load_image(str(path)).getpixel((0, 0)) for path in record.images] == [(255, 0, 0), (0, 0, 255)]


def test_what_webdataset_keeps_under_json_is_the_row_beside_its_pictures() -> None:
    from trainer.convert.rows import _flattened

    said = {"__key__": "0", "__url__": "s.tar", "png": b"p", "json": {"question": "?", "answer": "x"}}
    assert _flattened(said) == {"png": b"p", "question": "?", "answer": "x"}
    assert _flattened({"json": "a text", "png": b"p"}) == {"json": "a text", "png": b"p"}


CELLS = ["0012", "1.50", "True", "", "None", "N/A", "nan", "007", "1e5", " x "]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_csv_file_is_read_whatever_separates_its_cells(sign: str, tmp_path: Path) -> None:
    lines = (("image", "question", "answer"), ("", "which, one; or two?", "up"))
    with (tmp_path / "train.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=sign).writerows(lines)
    assert convert(tmp_path / "train.csv", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/train.jsonl").read_text()) == dict(zip(*lines, strict=True))


@pytest.mark.parametrize("form", ["one file", "a folder", "a folder of pictures", "split folders", "deep"])
def test_every_cell_of_a_table_stays_the_text_that_it_is(form: str, tmp_path: Path) -> None:
    table = {"one file": "in/t.csv", "a folder": "in/train.csv", "a folder of pictures": "in/metadata.csv",
             "split folders": "in/train/metadata.csv", "deep": "in/data/train/a/metadata.csv"}[form]  # fmt: skip
    path = tmp_path / table
    path.parent.mkdir(parents=True)
    name = {"deep": "photo_file_name"}.get(form, "file_name" if "metadata" in table else "image")
    path.write_text(f"{name},question,answer\n" + "".join(f"p.png,{cell},{cell}\n" for cell in CELLS * 1500))
    (path.parent / "p.png").write_bytes(picture("red"))
    assert convert(path if form == "one file" else tmp_path / "in", tmp_path / "out") == 0
    found = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert [(row["question"], row["answer"]) for row in found] == [(cell, cell) for cell in CELLS * 1500]
    assert {row["image"][:9] for row in found} == {"pictures/"}


def test_a_folder_of_pictures_with_a_metadata_file_a_split_keeps_its_pictures(tmp_path: Path) -> None:
    for side in ("train", "validation"):
        (tmp_path / "in" / side).mkdir(parents=True)
        (tmp_path / "in" / side / "0.png").write_bytes(picture("red"))
        row = {"file_name": "0.png", "question": "which?", "answer": "red"}
        (tmp_path / "in" / side / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"is a folder of pictures with train/metadata\.jsonl: .* convert "):
        load_dataset(str(tmp_path / "in"))
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    dataset = load_dataset(str(tmp_path / "out"))
    assert (seen(dataset), len(dataset.eval)) == ([("red", "red")], 1)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of tmp_path/web, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    (tmp_path / "web").mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "web"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_addresses_are_fetched_once_and_pictures_in_json_are_stored(
    web: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = web
    (tmp_path / "web/red.png").write_bytes(picture("red"))
    (tmp_path / "web/page.png").write_bytes(b"<html>")
    blue = "data:image/png;base64," + base64.b64encode(picture("blue")).decode()
    parts = [{"type": "image_url", "image_url": {"url": f"{address}/red.png"}}, {"type": "text", "text": "which?"}]
    talk = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]}
    lines = [
        talk, {"image": f"{address}/red.png", "question": "?", "answer": "red"},
        {"image": blue, "question": "?", "answer": "blue"},
        {"image": f"{address}/gone.png", "question": "?", "answer": "x"},
        {"image": f"{address}/page.png", "question": "?", "answer": "x"},
    ]  # fmt: skip
    data = tmp_path / "d.json"
    data.write_text(json.dumps(lines))
    with pytest.raises(ConfigError, match=r"a picture at an address .* makes records and pictures that can be read$"):
        load_dataset(str(data), strict=True)
    assert convert(data, tmp_path / "out", "--private-addresses") == 0
    assert asked.count("/red.png") == 1
    said = capsys.readouterr()
    assert "2 pictures could not be stored, the first: " in said.err and "HTTP Error 404" in said.err
    dataset = load_dataset(str(tmp_path / "out"), eval_fraction=0)
    assert (seen(dataset), dataset.unusable) == ([("red", "red"), ("red", "red"), ("blue", "blue")], 2)


def test_no_address_in_a_record_asks_this_machine_or_leaves_the_web(
    web: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a server of the internet, which 127.0.0.2 is taken for, leads there."""
    address, asked = web
    (tmp_path / "web/red.png").write_bytes(picture("red"))
    quoted = address.replace("127.0.0.1", "127.0.0.%31")
    leads: list[str] = [
        f"{address}/red.png",
        f"{quoted}/red.png",
        "ftp://127.0.0.1/red.png",
        f"file://{tmp_path}/web/red.png",
    ]

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", leads[int(self.path[1:])])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    public = http.server.ThreadingHTTPServer(("127.0.0.2", 0), Elsewhere)
    threading.Thread(target=public.serve_forever, daemon=True).start()
    monkeypatch.setattr("trainer.convert.fetch.is_public", lambda host: host == "127.0.0.2")
    addresses = [
        f"{address}/red.png", f"{quoted}/red.png",
        *(f"http://127.0.0.2:{public.server_port}/{n}" for n in range(len(leads))),
        f"simplecache::{address}/red.png", f"zip://red.png::{address}/x.zip", "foo://x/y.png", "s3://bucket/a.png",
        "http://a b/x.png", "http://[::1/x.png",
    ]  # fmt: skip
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"image": a, "question": "?", "answer": "a"}) + "\n" for a in addresses))
    assert convert(data, tmp_path / "out") == 0
    public.shutdown()
    said = capsys.readouterr()
    assert (asked, list((tmp_path / "out").glob("pictures/*/*"))) == ([], [])
    assert (
        f"{len(addresses)} pictures could not be stored, the first: {address}/red.png: leads to this mach" in said.err
    )
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False), ("10.1.2.3", False), ("192.168.0.1", False), ("169.254.169.254", False), ("::1", False),
        ("fe80::1%eth0", False), ("::ffff:127.0.0.1", False), ("0.0.0.0", False), ("100.64.0.1", False),
        ("8.8.8.8", True), ("2001:4860:4860::8888", True),
        # By NAT64, by 6to4, as IPv4-compatible, site-local, and to a group.
        ("64:ff9b::10.0.0.1", False), ("64:ff9b::127.0.0.1", False), ("64:ff9b::8.8.8.8", True),
        ("::ffff:8.8.8.8", True),
        ("2002:7f00:1::", False), ("::127.0.0.1", False), ("fec0::1", False), ("224.0.0.1", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_an_address_of_this_machine_and_of_a_private_network_is_not_public(host: str, public: bool) -> None:
    assert is_public(host) is public


def test_a_server_that_answers_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.convert.fetch.PICTURE_S", -1.0)
    with pytest.raises(TimeoutError):
        _read(io.BytesIO(b"x"))
    assert _read(io.BytesIO(b"")) == b""


def test_a_server_that_is_never_silent_and_never_done_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends the head of its answer byte by byte."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with listening.accept()[0] as connection, contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    connection.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        monkeypatch.setattr("trainer.convert.fetch.PICTURE_S", 0.4)
        with pytest.raises(TimeoutError, match=r"takes more than 0\.4 s"):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/a.png", private=True)
        ended.set()


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
def test_a_table_that_unpacks_to_more_memory_than_it_may_is_one_line(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / f"train.{form}"
    if form == "parquet":
        cells = pyarrow.DictionaryArray.from_arrays([0] * 60, ["a" * (8 * MIB)])
        table = pyarrow.table({"question": cells, "answer": ["x"] * 60})
        pyarrow.parquet.write_table(table, file, store_schema=False)
    else:
        with gzip.open(file, "wb", compresslevel=1) as packed:
            packed.write(b"question,answer\nq,")
            for _ in range(320):
                packed.write(b"a" * MIB)
    assert file.stat().st_size < 4 * MIB
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr("trainer.convert.command.MOST_MEMORY_BYTES", 150 * MIB)
    assert convert(tmp_path / "in", tmp_path / "out") == 78
    said = capsys.readouterr().err
    assert (
        "it needs more memory than convert takes (docs/threats.md): it unpacks to far more than its files" in said
        and said.count("\n") == 1
    )
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize(
    "named", ["{here}/mine/k.csv", "../mine/k.csv", "file://{here}/mine/k.csv", "{here}/mine/*.txt"]
)
def test_the_readme_of_a_data_set_names_no_file_outside_of_it(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("mine", "set"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mine" / "k.csv").write_text("question,answer\nq,secret\n")
    (tmp_path / "mine" / "k.txt").write_text("secret\n")
    (tmp_path / "set" / "own.csv").write_text("question,answer\nq,a\n")
    (tmp_path / "link").symlink_to("set")

    def converted(files: str, out: str) -> int:
        readme = f"---\nconfigs:\n- config_name: default\n  data_files: '{files}'\n---\n"
        (tmp_path / "set" / "README.md").write_text(readme)
        return convert(tmp_path / "link", tmp_path / out)

    assert converted(named.format(here=tmp_path), "out") == 78
    assert "as its data, a file outside of it" in (said := capsys.readouterr().err) and "Traceback" not in said
    assert list(tmp_path.glob("out/*.jsonl*")) == []
    assert converted("own.csv", "good") == 0


def test_data_of_the_hub_names_no_other_set_and_no_picture_of_this_machine(tmp_path: Path) -> None:
    hub = "hf://datasets/a/b@1"
    _refuse_others_files({"train": [f"{hub}/x/a.csv"]}, "a/b", hub)
    for other in ("hf://datasets/a/b@12/a.csv", "hf://datasets/mine/private@1/a.csv", "/etc/hosts", "https://h/a.csv"):
        with pytest.raises(ConfigError, match="a file outside of it"):
            _refuse_others_files({"train": [f"{hub}/a.csv", other]}, "a/b", hub)
    (mine := tmp_path / "mine.png").write_bytes(picture("red"))
    for source, stored in ((None, False), (tmp_path, True)):
        store = PictureStore(tmp_path / "out", source)
        assert (store.take({"image": str(mine)})["image"] != str(mine), store.lost.total()) == (stored, not stored)


@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a/b"])
def test_a_split_is_written_into_the_folder_alone(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    saved = datasets.Dataset.from_dict({"question": ["?"], "answer": ["a"]})
    folder = tmp_path / "in" / "set"
    inside = tmp_path / "saved" if name.startswith("/") else folder / name
    name = str(inside) if name.startswith("/") else name
    saved.save_to_disk(str(inside))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    assert convert(folder, tmp_path / "out") == 78
    assert "which no file can be called" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.jsonl*")) == []


def test_a_conversion_follows_no_link_that_waits_in_its_folder(tmp_path: Path) -> None:
    (kept := tmp_path / "kept").write_text("precious")
    (tmp_path / "far").mkdir()
    (out := tmp_path / "out").mkdir()
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"image": base64.b64encode(picture("red")).decode(), "question": "?", "answer": "a"}))
    (out / "convert.json").write_text(json.dumps({"data": str(data), "subset": None, "question": None}))
    (out / "train.jsonl.part").symlink_to(kept)
    (out / "pictures").symlink_to(tmp_path / "far")
    assert convert(data, out) == 0
    assert (kept.read_text(), list((tmp_path / "far").iterdir())) == ("precious", [])
    assert len(list(out.glob("pictures/*/*.png"))) == 1


def test_bytes_that_are_no_picture_are_counted(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, tmp_path)
    rows = [{"image": {"bytes": b"text", "path": None}}, {"image": b"BM" + bytes(64 * MIB)}]
    assert [store.take(row)["image"] for row in rows] == ["4 bytes", f"{64 * MIB + 2} bytes"]
    assert (store.lost.total(), store.first_lost) == (2, "4 bytes: is no picture")


def test_lines_that_are_no_records_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = '{"question": "?", "answer": "up", "answer": "down"}'
    good = '{"question": "?", "answer": "up"}'
    (tmp_path / "d.jsonl").write_text(f"{good}\n{twice}\n{good}\n")
    for name in ("new", "stopped"):
        part = tmp_path / name / "train.jsonl.part"
        if name == "stopped":  # behind the line that is left out
            part.parent.mkdir()
            (part.parent / "convert.json").write_text((tmp_path / "new/convert.json").read_text())
            part.write_text(f"{good}\n\n")
        assert convert(tmp_path / "d.jsonl", tmp_path / name) == 0
        said = capsys.readouterr()
        assert "train.jsonl: 2 records" in said.out
        assert ("1 rows are left out, the first: d.jsonl line 2 is not JSON ('answer'" in said.err) == (name == "new")
        rows = part.with_suffix("").read_text().split("\n")
        assert [json.loads(row) for row in rows if row] == [json.loads(good)] * 2
    (tmp_path / "e.jsonl").write_text(f"{twice}\n")
    assert convert(tmp_path / "e.jsonl", tmp_path / "none") == 78
    assert "train has no rows that can be used: e.jsonl line 1 is not JSON ('answer' stands" in capsys.readouterr().err


def test_no_pickle_in_an_archive_runs_and_nothing_is_unpacked_from_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def archive(name: str, **members: bytes) -> Path:
        with tarfile.open(tmp_path / name, "w") as file:
            for member, content in members.items():
                entry = tarfile.TarInfo(member.replace("__", "."))
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
        return tmp_path / name

    record, ran = b'{"question": "?", "answer": "a"}', tmp_path / "ran"
    poison = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    assert convert(archive("a.tar", k1__json=record, k1__pth=poison), tmp_path / "a") == 78
    assert "a pickle in it holds os.system, which could run anything: it was not loaded" in capsys.readouterr().err
    out = archive(
        "b.tar", **{f"{tmp_path}/far__json": record, f"{tmp_path}/far__png": picture("red"), "k__pyd": poison}
    )
    convert(out, tmp_path / "b")
    assert "Traceback" not in capsys.readouterr().err
    assert (ran.exists(), [path.name for path in tmp_path.glob("far*")]) == (False, [])


@pytest.mark.parametrize(("folder", "name"), [(True, "a.tar"), (False, "a.tar"), (True, "A.TAR")])
@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
def test_a_packed_tar_is_not_unpacked_into_memory(
    form: str, folder: bool, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / name, f"w:{form}") as file:
        entry = tarfile.TarInfo("k.png")
        entry.size = 1 << 20
        file.addfile(entry, io.BytesIO(bytes(1 << 20)))
    assert convert(tmp_path / "in" if folder else tmp_path / "in" / name, tmp_path / "out") == 78
    assert f"in/{name} is packed: unpack it (tar -xf)" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["{side}/labels.csv", "tables/{side}.csv"])
def test_the_pictures_of_a_table_lie_in_its_own_folder_or_in_the_common_one(place: str, tmp_path: Path) -> None:
    for side, color in (("train", "red"), ("val", "blue")):
        for folder in (tmp_path / "in" / side, (tmp_path / "in" / place.format(side=side)).parent):
            folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/{side}/a.png").write_bytes(picture(color))
        named = "a.png" if place.startswith("{side}") else f"{side}/a.png"
        (tmp_path / "in" / place.format(side=side)).write_text(f"image,question,answer\n{named},which?,{color}\n")
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    dataset = load_dataset(str(tmp_path / "out"))
    assert (seen(dataset), len(dataset.eval), len(list((tmp_path / "out/pictures").rglob("*.png")))) == (
        [("red", "red")], 1, 2
    )  # fmt: skip


def test_what_save_to_disk_wrote_is_read_also_beside_a_picture(tmp_path: Path) -> None:
    from datasets import Dataset as Saved

    table = Saved.from_list([{"image": "0.png", "question": "which?", "answer": "red"}] * 2)
    table.save_to_disk(tmp_path / "in", num_shards=2)
    (tmp_path / "in/0.png").write_bytes(picture("red"))
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    assert seen(load_dataset(str(tmp_path / "out"), eval_fraction=0)) == [("red", "red")] * 2


def test_a_csv_file_without_names_gets_numbers_and_no_two_columns_have_one_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/d.csv").write_text("which?,red\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: d.csv\n  header: null\n---\n"
    (tmp_path / "in/README.md").write_text(card)
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/train.jsonl").read_text()) == {"0": "which?", "1": "red"}
    (tmp_path / "twice.csv").write_text("answer,answer \nup,down\n")
    assert convert(tmp_path / "twice.csv", tmp_path / "none") == 78
    assert "twice.csv: two columns are called 'answer': give each a name of its own" in capsys.readouterr().err


def test_packed_pictures_of_the_hub_say_how_they_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(in_zip("0.png", "1.png"))
    with pytest.raises(ConfigError) as caught:
        _streamed(str(tmp_path), of_hub="me/cats")
    assert str(caught.value) == (
        "images.zip is packed: hf download me/cats --repo-type dataset --local-dir cats-files fetches it, then in "
        "cats-files unpack it (unzip images.zip), and name what was in it"
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_beside_many_pictures_is_read_and_not_the_pictures_alone(suffix: str, tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"in/img/{n}.png").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/img/{n}.png").write_bytes(picture("red"))
    for side in ("train", "val"):
        if suffix == ".csv":
            (tmp_path / f"in/{side}.csv").write_text("image , Question,answer\nimg/0.png,which?,red\n")
        else:
            parquet(tmp_path / f"in/{side}.parquet", [{"image": "img/0.png", "Question": "which?", "answer": "red"}])
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    dataset = load_dataset(str(tmp_path / "out"), columns="question=Question")
    assert (seen(dataset), len(dataset.eval)) == ([("red", "red")], 1)


def in_zip(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, b"")
    return file.getvalue()


# (the files of a folder, what is converted, the refusal)
REFUSED: dict[str, tuple[dict[str, bytes], str, str]] = {
    "pictures with labels in texts of another folder": (
        {"images/0.jpg": b"", "labels/0.txt": b"0 1\n", "labels/1.txt": b"0 1\n"}, "",
        "in has no records: most of its files are read as text"),
    "packed pictures": (
        {"images.zip": in_zip("0.png", "1.png")}, "",
        "images.zip is packed: unpack it (unzip images.zip), and name what was in it"),
    "several tables": (
        {"a.csv": b"image\n", "b.csv": b"image\n", "0.png": b"", "1.png": b"", "2.png": b""}, "",
        "in holds several tables and pictures: name one of a.csv, b.csv"),
    "several files of records": (
        {"a.jsonl": b"{}", "b.jsonl": b"{}", "0.png": b"", "1.png": b"", "2.png": b""}, "",
        "in: is a folder with 2 files of records and no train.jsonl: name the one to learn from"),
    "another encoding": ({"a.csv": "image,answer\n0.png,\u00e9\n".encode("latin-1")}, "a.csv",
                         "in/a.csv is not UTF-8: save it as UTF-8"),
    "no line of names": ({"a.csv": b"0.png,which?,up\n1.png,which?,up\n"}, "a.csv",
                         "in/a.csv: its first line is a record ('0.png, which?, up'): put names in front of it"),
    "no line": ({"a.csv": b""}, "a.csv", "in/a.csv is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_is_not_read_in_part(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, data, said = REFUSED[name]
    for file, content in files.items():
        (tmp_path / "in" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / file).write_bytes(content)
    assert convert(tmp_path / "in" / data, tmp_path / "out") == 78
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_tar_that_is_no_webdataset_and_labels_without_a_question_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("images/0.png", "train.jsonl"):
            tar.addfile(tarfile.TarInfo(name))
    assert convert(tmp_path / "s.tar", tmp_path / "a") == 78
    assert (
        "same types: if the tar is no webdataset, unpack it (tar -xf) and name what was in it"
        in capsys.readouterr().err
    )
    (tmp_path / "in/up").mkdir(parents=True)
    (tmp_path / "in/down").mkdir()
    (tmp_path / "in/up/0.png").write_bytes(picture("red"))
    (tmp_path / "in/down/0.png").write_bytes(picture("blue"))
    assert convert(tmp_path / "in", tmp_path / "b") == 0
    assert (
        "b/train.jsonl line 1 lacks question and output (it has 'image, label'); columns: answer=label learns that; "
        "--question 'What is this?', with another folder, asks one question of all\n"
    ) in capsys.readouterr().err


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for data, out, said in (
        (tmp_path / "bad.parquet", tmp_path / "a", "bad.parquet cannot be read: "),
        (tmp_path / "nowhere", tmp_path / "b", "does not exist: give a file, a folder, or the id of a data set"),
        (tmp_path / "bad.parquet", tmp_path / "full", "full is not empty: give a new folder"),
    ):
        assert convert(data, out) == 78
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()  # nothing is left behind
