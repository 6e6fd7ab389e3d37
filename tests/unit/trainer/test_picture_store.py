"""Where the pictures of a converted record go, and what stays as it was."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer.convert.pictures import PictureStore
from trainer.data.images import is_picture


def picture(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 2), color).save(file, "PNG")
    return file.getvalue()


RED, BLUE = picture("red"), picture("blue")


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    source = tmp_path / "source"
    source.mkdir()
    (source / "red.png").write_bytes(RED)
    (source / "blue").write_bytes(BLUE)
    return PictureStore(tmp_path / "out", source)


@pytest.mark.parametrize(
    ("record", "taken"),
    [
        # Bytes of any column become the picture of the record; those of its own column stay where they are.
        ({"photo": RED, "question": "?"}, {"image": RED, "question": "?"}),
        ({"left": RED, "right": [BLUE]}, {"images": [RED, BLUE]}),
        # So does the name of a picture that is there, but for one that is an answer.
        ({"file_name": "red.png", "question": "?"}, {"image": RED, "question": "?"}),
        ({"file_name": "none.png", "answer": "red.png"}, {"file_name": "none.png", "answer": "red.png"}),
        ({"image": RED, "photo": BLUE}, {"image": RED, "photo": BLUE}),
        ({"image": {"bytes": RED, "path": None}}, {"image": RED}),
        ({"image": {"bytes": None, "path": "blue"}}, {"image": BLUE}),
        # Names of files, in columns of pictures alone.
        ({"image": "red.png", "note": "red.png"}, {"image": RED, "note": "red.png"}),
        ({"images": ["red.png", "blue"]}, {"images": [RED, BLUE]}),
        ({"url": "data:image/png;base64,", "note": "data:image/png;base64,"}, {"url": RED, "note": RED}),
        ({"image": "file:{source}/red.png"}, {"image": RED}),
        ({"image": "FILE://localhost{source}/%72ed.png"}, {"image": RED}),
        ({"image": "two words"}, {"image": "two words"}),
    ],
)
def test_each_picture_of_a_record_becomes_a_path(
    record: dict[str, Any], taken: dict[str, Any], store: PictureStore
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, str) and "{source}" in value:
            return value.replace("{source}", str(store._source))
        return value + base64.b64encode(RED).decode() if value == "data:image/png;base64," else value

    found = store.take({key: filled(value) for key, value in record.items()})

    def content(value: Any) -> Any:
        if isinstance(value, list):
            return [content(each) for each in value]
        return (store._out / value).read_bytes() if value.startswith("pictures/") else value

    assert {key: content(value) for key, value in found.items()} == taken
    assert list(found) == list(taken) and not store.lost


def test_a_file_that_is_not_there_and_bytes_that_are_no_picture_are_counted(store: PictureStore) -> None:
    assert store.take({"image": "gone.png"}) == {"image": "gone.png"}
    assert store.take({"image": {"bytes": b"no picture"}}) == {"image": "10 bytes"}
    assert (store.count, dict(store.lost)) == (0, {"OSError": 1, "ValueError": 1})
    assert store.first_lost == "gone.png: is not there"


def test_only_a_file_that_begins_like_a_picture_is_one(tmp_path: Path) -> None:
    picture, words = tmp_path / "red", tmp_path / "words.png"
    picture.write_bytes(RED)
    words.write_text("no picture")
    found = [is_picture(path) for path in (picture, words, tmp_path, tmp_path / "gone.png", None)]
    assert found == [True, False, False, False, False]


def test_a_copy_of_data_of_the_hub_names_no_picture_outside_of_it(tmp_path: Path) -> None:
    """As the hub's cache lies on a disk: the snapshot's files are links to blobs beside it."""
    cache = tmp_path / "datasets--me--cats"
    for folder in (cache / "blobs", cache / "snapshots/abc"):
        folder.mkdir(parents=True)
    (cache / "blobs/1").write_bytes(BLUE)
    (cache / "snapshots/abc/blue.png").symlink_to("../../blobs/1")
    (tmp_path / "mine.png").write_bytes(RED)
    store = PictureStore(tmp_path / "out", cache / "snapshots/abc", bounds=cache)
    outside = ("../../../mine.png", f"{tmp_path}/mine.png", f"file://{tmp_path}/mine.png")
    assert [store.take({"image": name})["image"] for name in outside] == [*outside]
    assert (store.lost, store.first_lost) == ({"OSError": 3}, "../../../mine.png: lies outside of the data set")
    assert store.take({"image": "blue.png"})["image"].startswith("pictures/")
