"""Reading records: what is accepted, what is refused and in which words, and how sessions are held out."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from trainer.commands import training_command
from trainer.data.faults import FORMAT_HINT
from trainer.data.records import load_dataset
from trainer.outcome import ConfigError

PNG = bytes.fromhex("89504e470d0a1a0a")


def entry(**changes: Any) -> dict[str, Any]:
    return {"image": "a.png", "context": "look", "question": "which?", "output": '{"button": "up"}', **changes}


def write(folder: Path, *entries: Any, name: str = "train.jsonl") -> Path:
    (folder / "a.png").write_bytes(PNG)
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (folder / name).write_text("".join(line + "\n" for line in lines))
    return folder / name


def test_both_forms_are_read_with_paths_relative_to_the_file(tmp_path: Path) -> None:
    four = [f"{i}.png" for i in range(4)]
    for name in four:
        (tmp_path / name).write_bytes(PNG)
    frames = {k: v for k, v in entry(frames=four).items() if k != "image"}
    path = write(tmp_path, entry(metadata={"session_id": 7}), "", frames)
    dataset = load_dataset(str(path), eval_fraction=0)
    assert [r.images for r in dataset.train] == [(tmp_path / "a.png",), tuple(tmp_path / n for n in four)]
    assert [r.prompt for r in dataset.train] == ["look\n\nwhich?"] * 2
    assert [r.session for r in dataset.train] == ["7", ""]
    assert dataset.eval == ()


def test_an_empty_context_leaves_the_question_alone(tmp_path: Path) -> None:
    assert load_dataset(str(write(tmp_path, entry(context="")))).train[0].prompt == "which?"


HALF = '{"image": null, "context": "\\ud83d", "question": "", "output": "up"}'


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_records_is_refused(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(ConfigError) as caught:
        load_dataset(str(path))
    assert str(caught.value) == f"{path} holds no records: {FORMAT_HINT}"


@pytest.mark.parametrize(
    ("line", "what", "cure"),
    [
        ("{", "is not JSON (line 2; the first: is not JSON (Expecting property name enclosed in double quotes at "
         "column 2))", None),
        ("[1]", "is not an object (line 2; the first: is not an object, got [1])", None),
        ('{"image": "a.png"}', "lacks question and output (line 2; the first: lacks question and output (it has "
         "'image'))", FORMAT_HINT),
        ('{"context": "", "question": "", "output": ""}', "has no image, and context and question are both empty "
         "(line 2)", ""),
        (entry(output=["up"]), "output takes a string (a list goes in as its JSON text) (line 2; the first: output "
         "takes a string (a list goes in as its JSON text), got ['up'])", ""),
        (HALF, "is not JSON (line 2; the first: is not JSON ('utf-8' codec can't encode character '\\ud83d' in "
         "position 28: surrogates not allowed))", ""),
        ('{"image": ' + "[" * 5000 + "]" * 5000 + "}", "is not JSON (line 2; the first: is not JSON (it nests "
         "deeper than 64 levels))", None),
        (entry(image="a" * 300), "a picture is not there (line 2; the first: {folder}/" + "a" * 300 + " is not there)",
         "paths are relative to {folder}/; image_root= names another folder to look in"),
        (entry(image=3), "image takes a path, images and frames a list of paths (line 2; the first: image takes a "
         "path, images and frames a list of paths, got 3)", ""),
        (entry(image="https://x.org/a.png"), "a picture at an address (line 2; the first: 'https://x.org/a.png' is an "
         "address and no file)", "{convert} {folder}/train.jsonl train-records makes records and pictures that can be "
         "read"),
        ({k: v for k, v in entry(frames=["a.png"] * 3).items() if k != "image"}, "frames that are not four: a grid "
         "takes four (line 2; the first: has 3 frames: a grid takes four)", ""),
        ({"data": [entry()]}, "holds its records under 'data': put that list into a file of its own (line 2)",
         FORMAT_HINT),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_is_left_out_and_alone_it_is_refused(
    tmp_path: Path, line: Any, what: str, cure: str | None
) -> None:
    path = write(tmp_path, entry(), line)
    names = {"{folder}": str(tmp_path), "{convert}": training_command("trainer", "convert")}
    for name, text in names.items():
        what, cure = what.replace(name, text), cure and cure.replace(name, text)
    what = what.replace("(line 2", "(train.jsonl line 2")
    dataset = load_dataset(str(path), eval_fraction=0)
    assert (len(dataset.train), dataset.unusable) == (1, 1)
    assert dataset.left_out == (f"1 of 2 records left out: {what}",)
    if cure is None:
        return  # a file that begins so is no file of lines
    path = write(tmp_path, *[line] * 2)
    with pytest.raises(ConfigError) as caught:
        load_dataset(str(path))
    assert str(caught.value).startswith(f"{path}: 0 of 2 records would be left: 2 of 2 records left out: ")
    assert str(caught.value).endswith(f"; {cure}" if cure else ")")


def test_missing_images_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, entry(), *(entry(image=f"gone{i}.png") for i in range(5)))
    assert load_dataset(str(path)).left_out == (
        "5 of 6 records left out: a picture is not there (train.jsonl line 2, 3, 4 and 2 more; the first: "
        f"{tmp_path}/gone0.png is not there)",
    )


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist: give a file of JSON records, or a folder with"):
        load_dataset(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"is a folder without train\.jsonl"):
        load_dataset(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else for a moment")
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_data_of_somebody_else_is_refused(closed: str) -> None:
    # Not below pytest's own folder, which is closed to others anyway.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755 if closed == "file" else 0o700)
        file = Path(folder) / "train.jsonl"
        file.touch(mode=0o600 if closed == "file" else 0o644)
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError) as raised:
                load_dataset(folder)
        finally:
            os.seteuid(0)
    assert str(raised.value) == (
        f"DATA={folder}: cannot be read (Permission denied): make it readable for whoever runs the job"
    )


def test_whole_sessions_are_held_out_the_same_ones_every_time(tmp_path: Path) -> None:
    rows = [entry(metadata={"session_id": f"s{i // 10}"}) for i in range(200)]
    path = write(tmp_path, *rows)
    dataset = load_dataset(str(path), eval_fraction=0.1, seed=1)
    held_out, kept = ({r.session for r in side} for side in (dataset.eval, dataset.train))
    assert (len(dataset.eval), len(held_out), held_out & kept) == (20, 2, set())
    assert dataset == load_dataset(str(path), eval_fraction=0.1, seed=1)
    assert dataset.split == "2 of 20 sessions held out"


def test_a_session_on_both_sides_is_refused(tmp_path: Path) -> None:
    write(tmp_path, entry(metadata={"session_id": "x"}))
    write(tmp_path, entry(metadata={"session_id": "x"}), name="eval.jsonl")
    with pytest.raises(ConfigError, match=r"1 session\(s\) in train.jsonl and eval.jsonl alike, for example 'x'"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("sessions", [2, 3, 4])
def test_of_few_sessions_one_is_held_out_all_the_same(tmp_path: Path, sessions: int) -> None:
    rows = [entry(metadata={"session_id": f"s{i % sessions}"}) for i in range(20 * sessions)]
    dataset = load_dataset(str(write(tmp_path, *rows)))
    assert (len(dataset.eval), len({r.session for r in dataset.eval})) == (20, 1)
    assert dataset.split == f"1 of {sessions} sessions held out"


def test_one_session_alone_is_said_to_leave_no_score(tmp_path: Path) -> None:
    dataset = load_dataset(str(write(tmp_path, *[entry(metadata={"session_id": "only"})] * 3)))
    assert (len(dataset.train), dataset.eval) == (3, ())
    assert dataset.split == "nothing can be held out of one session: there will be no score"


def test_nothing_is_held_out_where_nothing_was_asked_for(tmp_path: Path) -> None:
    rows = [entry(metadata={"session_id": f"s{i}"}) for i in range(16)]
    dataset = load_dataset(str(write(tmp_path, *rows)), eval_fraction=0)
    assert (len(dataset.train), dataset.eval) == (16, ())
    assert dataset.split == "nothing can be held out with eval_fraction 0: there will be no score"
