"""Records that a model's processor refuses, and lengths that depend on more than a picture's first file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training import run_forked, train_forked

from trainer.__main__ import main
from trainer.data.examples import Encoder, encode
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset, Record, load_dataset
from trainer.outcome import RecordError, SickNode, node_name

UP = '{"button": "up"}'
FRAMES = ["a.png", "b.png", "a.png", "b.png"]


def load_processor(name: str) -> Any:
    """Processor and tokenizer of a family, without a model: nothing here computes."""
    if name == "gemma":
        from examples.demo.tiny import build_processor

        return build_processor()
    from tiny_families import qwen_processor

    return qwen_processor(max_pixels=112 * 112)


@pytest.fixture(scope="module")
def qwen() -> Any:
    return load_processor("qwen")


def records_of(folder: Path, *rows: dict[str, Any]) -> tuple[Record, ...]:
    (folder / "d.jsonl").write_text("".join(json.dumps({"output": UP, **row}) + "\n" for row in rows))
    return load_dataset(str(folder / "d.jsonl"), eval_fraction=0).train


def flat(question: str, context: str = "c", **pictures: Any) -> dict[str, Any]:
    return {"context": context, "question": question, **pictures}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("a.png", (56, 28)), ("b.png", (56, 28)), ("thin.png", (1, 300)), ("tall.png", (28, 84))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    return tmp_path


def test_what_the_processor_refuses_is_left_out_counted_and_named(folder: Path, qwen: Any) -> None:
    rows = [flat("one", image="a.png"), flat("two", image="thin.png"), flat("three", image="b.png"),
            flat("four", images=["a.png", "thin.png"])]  # fmt: skip
    records = records_of(folder, *rows)
    inspection = inspect_dataset(Dataset(train=records, eval=(), split=""), qwen, max_length=999)
    assert [record.prompt for record in inspection.kept().train] == ["c\n\none", "c\n\nthree"]
    (line,) = inspection.left_out()
    assert line.startswith(
        "2 of 4 train records left out: the processor refuses it (d.jsonl line 2, d.jsonl line 4; the first: "
        f"{folder}/thin.png: absolute aspect ratio must be"
    )
    assert "\n" not in line


def test_one_record_that_cannot_be_encoded_is_named_on_one_line(folder: Path, qwen: Any) -> None:
    thin, gone, textual = records_of(
        folder, flat("q", images=["a.png", "thin.png"]), flat("q", image="b.png"), flat("said", image=None)
    )
    with pytest.raises(RecordError, match=rf"^{node_name()}: {folder}/a.png and 1 more: absolute aspect ratio"):
        encode(qwen, thin)
    (folder / "b.png").unlink()
    with pytest.raises(RecordError, match=rf"^{node_name()}: {folder}/b.png: No such file"):
        Encoder(qwen, [gone])(0)

    class Broken:
        tokenizer = qwen.tokenizer

        def apply_chat_template(self, *_: Any, **__: Any) -> Any:
            return 1 / 0

    with pytest.raises(RecordError, match=rf"^{node_name()}: 'c\\n\\nsaid': division by zero"):
        Encoder(Broken(), [textual])(0)


def test_a_loaders_process_hands_on_the_record_it_failed_at(folder: Path, qwen: Any) -> None:
    encoder = Encoder(qwen, records_of(folder, flat("q", image="thin.png")))
    loader = torch.utils.data.DataLoader([{"index": 0}], collate_fn=encoder.collate, num_workers=1)  # type: ignore[arg-type]
    with pytest.raises(SickNode) as caught:
        next(iter(loader))
    said = str(caught.value)
    assert said.startswith(f"{node_name()}: {folder}/thin.png: absolute aspect ratio must be smaller than 200")
    assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen", "gemma"])
def test_lengths_are_those_of_the_encoded_records_whatever_came_before(family: str, folder: Path) -> None:
    """Four frames are twice as wide and high as one; what a processor puts around a picture may join its neighbours."""
    processor = load_processor(family)
    joined_newlines(processor)
    processor.chat_template = processor.chat_template.replace(" | trim", "")  # as many templates do without
    turns = {"from": "human", "value": "<image>\n\nnow?<image>"}
    rows = [flat("q", image="a.png"), flat("q", frames=FRAMES), flat("q", image="tall.png"), flat("q", frames=FRAMES),
            flat("q", "\n\nnext", image="a.png"), flat("q", images=["tall.png", "a.png"]),
            flat("q", images=["a.png", "tall.png"]), flat("alone", image=None),
            {"conversations": [turns, {"from": "gpt", "value": UP}], "images": ["a.png", "tall.png"]},
            {"system": "sys\n", **flat("q", "\n\nnext", image="a.png")}]  # fmt: skip
    for ordered in (rows, rows[::-1]):
        records = records_of(folder, *ordered)
        encoder = Encoder(processor, records)
        checked = inspect_dataset(Dataset(train=records, eval=(), split=""), processor, max_length=9999).checked
        counted = [found.tokens for found in checked["train"]]
        assert counted == [encoder(n)["input_ids"].shape[1] for n in range(len(rows))]


@pytest.mark.slow
def test_a_run_leaves_out_what_is_refused_and_infer_says_so(folder: Path, tiny_qwen: Path) -> None:
    rows = [flat(f"q{n}", image="a.png", output=json.dumps({"button": ("up", "down")[n % 2]})) for n in range(12)]
    thin, good = flat("q", image=f"{folder}/thin.png"), flat("q", image=f"{folder}/a.png")
    records_of(folder, *rows, thin)
    ended = train_forked(folder, model=tiny_qwen, data=folder / "d.jsonl", eval_fraction=0.2, max_steps=2)
    assert ended.codes == (0,), ended.output
    assert (
        f"records left out: the processor refuses it (d.jsonl line 13; the first: {folder}/thin.png: absolute"
        in ended.output
    )
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, thin, good)))
    words = ["infer", "--run", str(folder / "run")]
    ended = run_forked(folder / "lines", main, [*words, "--records", str(folder / "asked.jsonl")])
    one, refused, other = (json.loads(line) for line in ended.output.splitlines() if line.startswith("{"))
    assert ended.codes == (1,) and one == other and one["action"] in ("up", "down")
    assert refused["error"].startswith(f"line 2: {folder}/thin.png: absolute aspect ratio must be smaller than 200")
    ended = run_forked(folder / "one", main, [*words, "--context=c", "--question=q", str(folder / "thin.png")])
    assert ended.codes == (78,) and "Traceback" not in ended.output
    assert ended.output.splitlines()[-1].startswith(
        f"trainyard: the images cannot be used: {folder}/thin.png: absolute aspect ratio must be smaller than 200"
    )


@pytest.mark.slow
def test_a_picture_that_goes_away_in_the_middle_of_a_run_is_one_line_and_1(folder: Path, tiny_qwen: Path) -> None:
    rows = [flat(f"q{n}", image="a.png", output=json.dumps({"button": ("up", "down")[n % 2]})) for n in range(12)]
    records_of(folder, *rows)

    def take_away(said: str) -> bool:
        if "actions (button)" in said:  # they have all been looked at
            (folder / "a.png").unlink(missing_ok=True)
        return False

    ended = train_forked(
        folder, model=tiny_qwen, data=folder / "d.jsonl", eval_fraction=0.2, max_steps=2, kill_when=take_away
    )
    assert ended.codes == (1,) and "Traceback" not in ended.output, ended.output
    assert ended.output.splitlines()[-1].startswith(f"trainyard: {node_name()}: {folder}/a.png: No such file")


def joined_newlines(processor: Any) -> None:
    """Let two newlines be one token, and four, as in the vocabularies of real models."""
    from tokenizers import Tokenizer

    fast = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for pair in (("Ċ", "Ċ"), ("ĊĊ", "ĊĊ")):
        fast["model"]["merges"].append(list(pair))
        fast["model"]["vocab"].setdefault("".join(pair), len(fast["model"]["vocab"]) + 1000)
    processor.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(fast))
