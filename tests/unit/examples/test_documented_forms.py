"""Each form that docs/your-data.md has in its table: its file in examples/records says the same, read or converted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paths import ROOT

from trainer.data.grid import load_image
from trainer.data.no_records import convert_command
from trainer.data.records import load_dataset
from trainer.outcome import ConfigError

RECORDS = ROOT / "examples" / "records"
ROW = re.compile(
    r"^\| ([^|]+) \| \[[^\]]+\]\(\.\./examples/records/([^)]+)\) \| (read|converted)(?:, `([^`]+)`)? \|$", re.M
)
ROWS = ROW.findall((ROOT / "docs" / "your-data.md").read_text())
WANTED = [('{"button": "down"}', "0.png"), ('{"button": "right"}', "1.png")]
# They have four frames, several answers or no picture: test_example_files.py says what they are.
OTHERS = {"flat", "messages", "messages-parts", "conversations", "several-answers", "text"}


def said(path: str, columns: str = "auto") -> list[tuple[str, str, int]]:
    """(question, answer, the picture's pixels) of each record."""
    dataset = load_dataset(path, columns=columns, eval_fraction=0)
    assert dataset.left_out == ()
    records = sorted((*dataset.train, *dataset.eval), key=lambda record: record.answer)
    return [
        (record.prompt.strip(), record.answer, hash(load_image(str(record.images[0])).tobytes()))
        for record in records
        if len(record.images) == 1
    ]


def wanted() -> list[tuple[str, str, int]]:
    return [
        ("Which button is next?", answer, hash(load_image(str(RECORDS / "frames" / name)).tobytes()))
        for answer, name in WANTED
    ]


def test_the_table_has_every_form() -> None:
    files = {path.stem for path in RECORDS.iterdir() if path.suffix in (".json", ".jsonl") or path.is_dir()}
    assert {Path(name).stem for _, name, *_ in ROWS} == files - OTHERS - {"frames"}
    trainers = [
        "LLaMA-Factory",
        "LLaVA",
        "ms-swift",
        "Qwen-VL",
        "InternVL",
        "Axolotl",
        "OpenAI",
        "TRL",
        "imagefolder",
        "parquet",
    ]
    assert [trainer for trainer in trainers if not any(trainer in form for form, *_ in ROWS)] == []


@pytest.mark.parametrize(("name", "columns"), [(name, more) for _, name, how, more in ROWS if how == "read"])
def test_a_form_that_is_read_says_what_the_others_say(name: str, columns: str) -> None:
    setting = columns.removeprefix("columns: ") or "auto"
    assert said(str(RECORDS / name), setting) == wanted()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for _, name, how, _ in ROWS if how == "converted"])
def test_a_form_that_is_converted_says_so_and_then_says_the_same(name: str, tmp_path: Path) -> None:
    from trainer.__main__ import main

    data = str(RECORDS / name).rstrip("/")
    if name.startswith("parquet"):
        with pytest.raises(ConfigError, match=re.escape(convert_command(data))):
            load_dataset(data)
    assert main(["convert", data, str(tmp_path / "out")]) == 0
    assert said(str(tmp_path / "out")) == wanted()
