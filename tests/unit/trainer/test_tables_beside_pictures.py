"""Which tables of a folder of pictures `convert` reads, and where it looks for their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.convert.command import _lacking
from trainer.convert.folders import files_in, not_read, tables_beside_pictures
from trainer.outcome import ConfigError


def made(folder: Path, names: str) -> tuple[Path, ...]:
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return files_in(folder)


# (the files of a folder, by side the tables that are read of each folder and where else their pictures may lie)
READ = {
    "sides in folders": (
        "train/labels.csv train/a.png val/labels.csv val/a.png",
        {("train", "train", "."): "train/labels.csv", ("eval", "val", "."): "val/labels.csv"}),
    "sides in names": (
        "tables/train.csv tables/val.csv images/a.png",
        {("train", "tables", "."): "tables/train.csv", ("eval", "tables", "."): "tables/val.csv"}),
    "one table": ("labels.csv a.png", {("train", ".", "."): "labels.csv"}),
    "one table of a side": ("val.csv a.png", {("train", ".", "."): "val.csv"}),
    "shards": ("part-0.parquet part-1.parquet a.png", {("train", ".", "."): "part-0.parquet part-1.parquet"}),
    "shards of a number": (
        "d/data-00000-of-00002.arrow d/data-00001-of-00002.arrow d/a.png",
        {("train", "d", "."): "d/data-00000-of-00002.arrow d/data-00001-of-00002.arrow"}),
    "hidden copies": (
        "labels.csv .ipynb_checkpoints/labels-checkpoint.csv .trash/a.csv a.png", {("train", ".", "."): "labels.csv"}),
    "classes with notes": ("cats/a.png cats/stats.json dogs/b.png", {}),
    "no pictures": ("a.csv b.csv", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_the_tables_beside_pictures_are_read_by_side_and_folder(name: str, tmp_path: Path) -> None:
    files, tables = READ[name]
    assert {
        (table.side, str(table.folder.relative_to(tmp_path)), str(table.root.relative_to(tmp_path))):
        " ".join(str(Path(file).relative_to(tmp_path)) for file in table.files)
        for table in tables_beside_pictures(tmp_path, made(tmp_path, files))
    } == tables  # fmt: skip


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("labels_v1.csv labels_v2.csv a.png", "several tables and pictures: name one of labels_v1.csv, labels_v2.csv"),
        ("cats/a.png cats/train.jsonl", r"did you mean DATA=.*cats\?"),
        ("images/a.png annotations/all.json", r"did you mean DATA=.*annotations\?"),
    ],
)
def test_tables_and_records_of_which_nothing_says_what_they_are_are_refused(
    files: str, said: str, tmp_path: Path
) -> None:
    found = made(tmp_path, files)
    with pytest.raises(ConfigError, match=said):
        tables_beside_pictures(tmp_path, found)


@pytest.mark.parametrize(
    ("card", "tables"),
    [
        ("# Pictures of cats\nconfigs: none\n", 1), ("---\nlicense: mit\n---\nconfigs:\n", 1),
        ("---\r\nlicense: mit\r\nconfigs:\r\n- config_name: x\r\n---\r\n", 0),
    ],
    ids=["a project's", "without files", "with files"],
)  # fmt: skip
def test_a_readme_says_what_is_read_where_its_head_names_files(card: str, tables: int, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert len(tables_beside_pictures(tmp_path, made(tmp_path, "labels.csv a.png"))) == tables


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    files = made(tmp_path, "cats/a.png cats/stats.json .git/x.csv b.csv metadata.csv notes.md")
    assert not_read(tmp_path, files, [str(tmp_path / "cats/a.png")]) == "not read: b.csv, cats/stats.json"


@pytest.mark.parametrize(
    ("content", "said"),
    [("", None), ("\n\n", None), ('\n\n{"image": "a.png", "label": "cat"}\n', "line 3 lacks question and output")],
    ids=["empty", "blank", "behind blank lines"],
)
def test_what_the_first_record_lacks_is_said_with_its_line(content: str, said: str | None, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    found = _lacking(tmp_path / "train.jsonl")
    assert found is None if said is None else said in str(found)
