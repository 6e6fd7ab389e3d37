"""Records to batches: several pictures a record, none at all, several turns; lengths as they will be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from PIL import Image
from training import train_forked

from trainer.config import Learn
from trainer.data.examples import Encoder, describe_example
from trainer.data.grid import load_picture
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset, Record, load_dataset
from trainer.data.tensors import pad_and_stack, processed
from trainer.training.first_checks import check_text_only

ANSWER = '{"button": "up"}'
IMAGE_TOKENS = 36


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def mixed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture; none; two in one turn; two turns with one each, behind a system turn."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, size in (("a.png", (96, 64)), ("b.png", (64, 64))):
        Image.new("RGB", size, "red").save(folder / name)
    rows: list[dict[str, Any]] = [
        {"image": "a.png", "context": "c", "question": "q", "output": ANSWER},
        {"image": None, "context": "c", "question": "text alone", "output": ANSWER},
        {"messages": [{"role": "user", "content": "<image> then <image>: which?"},
                      {"role": "assistant", "content": ANSWER}], "images": ["a.png", "b.png"]},
        {"conversations": [{"from": "system", "value": "be brief"}, {"from": "human", "value": "<image>\nnow?"},
                           {"from": "gpt", "value": "wait"}, {"from": "human", "value": "and now?<image>"},
                           {"from": "gpt", "value": ANSWER}], "images": ["b.png", "a.png"]},
    ]  # fmt: skip
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "d.jsonl"


@pytest.fixture(scope="module")
def mixed(mixed_data: Path) -> tuple[Record, ...]:
    return load_dataset(str(mixed_data), eval_fraction=0).train


def test_pictures_and_text_alone_share_a_batch(processor: Any, mixed: tuple[Record, ...]) -> None:
    encoder = Encoder(processor, mixed)
    batch = encoder.collate([{"index": i} for i in range(4)])
    image = processor.tokenizer.image_token_id
    assert (batch["input_ids"] == image).sum(1).tolist() == [IMAGE_TOKENS * n for n in (1, 0, 2, 2)]
    assert torch.equal(batch["token_type_ids"] == 1, batch["input_ids"] == image)
    alone = [encoder(i)["pixel_values"] for i in (0, 2, 3)]
    assert torch.equal(batch["pixel_values"], torch.cat(alone))
    assert batch["pixel_values"].shape[0] == 5
    assert batch["attention_mask"].sum(1).tolist() == [encoder(i)["input_ids"].shape[1] for i in range(4)]


def test_a_batch_of_text_alone_has_no_pictures_but_token_types(processor: Any, mixed: tuple[Record, ...]) -> None:
    batch = Encoder(processor, mixed).collate([{"index": 1}, {"index": 1}])
    assert "pixel_values" not in batch
    assert torch.equal(batch["token_type_ids"], torch.zeros_like(batch["input_ids"]))


def test_pictures_of_more_and_fewer_tiles_share_a_batch() -> None:
    def example(tiles: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.ones(1, 9, dtype=torch.long), "pixel_values": torch.ones(1, tiles, 3, 4, 4)}

    pixels = pad_and_stack([example(2), example(5)], pad_id=0, side="right")["pixel_values"]
    assert pixels.shape == (2, 5, 3, 4, 4)
    assert pixels.sum(dim=(2, 3, 4)).tolist() == [[48.0] * 2 + [0.0] * 3, [48.0] * 5]


@pytest.mark.parametrize(("learn", "first"), [("all", "wait<end_of_turn>\n"), ("last", "")])
def test_the_answers_are_learned_or_the_last_alone(processor: Any, mixed_data: Path, learn: Learn, first: str) -> None:
    encoder = Encoder(processor, load_dataset(str(mixed_data), eval_fraction=0, learn=learn).train)
    for index in range(4):
        example = encoder(index)
        learned = example["input_ids"][0][example["labels"][0] != -100]
        assert processor.tokenizer.decode(learned) == (first if index == 3 else "") + ANSWER + "<end_of_turn>\n"


def test_lengths_are_those_of_the_encoded_records(processor: Any, mixed: tuple[Record, ...]) -> None:
    encoder = Encoder(processor, mixed)
    examples = [encoder(i) for i in range(4)]
    counted = [(e["input_ids"].shape[1], int((e["labels"] != -100).sum())) for e in examples]
    counts = inspect_dataset(Dataset(train=mixed, eval=(), split=""), processor, max_length=9999).checked["train"]
    assert [(count.tokens, count.supervised) for count in counts] == counted
    # Besides the 36 there are begin, end and blank lines around each.
    per_picture = counts[0].picture_tokens
    assert IMAGE_TOKENS < per_picture <= IMAGE_TOKENS + 6
    assert [count.picture_tokens for count in counts] == [n * per_picture for n in (1, 0, 2, 2)]


def test_an_example_shows_what_is_masked_and_what_is_trained(processor: Any, mixed: tuple[Record, ...]) -> None:
    masked, trained = describe_example(processor, Encoder(processor, mixed)(0)).splitlines()
    assert masked.endswith(
        ": '<bos><start_of_turn>user\\n\\n\\n<start_of_image>[<image_soft_token> x 36]<end_of_image>\\n\\n"
        "c\\n\\nq<end_of_turn>\\n<start_of_turn>model\\n'"
    )
    assert trained.endswith(""": '{"button": "up"}<end_of_turn>\\n'""")


def test_text_alone_beside_pictures_is_refused_where_ranks_would_wait_for_the_tower(
    mixed: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.config import TrainConfig
    from trainer.outcome import ConfigError

    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-", world_size=2)
    tuned = replace(config, vision="lora")
    dataset = Dataset(train=mixed, eval=(), split="")
    check_text_only(config, dataset)
    check_text_only(replace(tuned, world_size=1), dataset)
    refusal = "^1 records have no picture and the others do, which {} cannot train together: "
    with pytest.raises(ConfigError, match=refusal.format("vision=lora on several GPUs")):
        check_text_only(tuned, dataset)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=refusal.format("ZeRO-3")):
        check_text_only(config, dataset)
    check_text_only(config, Dataset(train=mixed[:1], eval=mixed[2:], split=""))


@pytest.mark.slow
def test_records_of_every_kind_train_and_are_answered(tmp_path: Path, tiny_model: Path, mixed_data: Path) -> None:
    """One sample a batch, so some batches have no picture at all; half the records are held out and answered."""
    ended = train_forked(
        tmp_path, model=tiny_model, data=mixed_data, micro_batch_size=1, eval_fraction=0.5, max_steps=4
    )
    assert ended.codes == (0,), ended.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["after"]["samples"] == 2
    assert len([entry for entry in metrics["history"] if "loss" in entry]) == 4


def test_a_picture_that_does_not_open_is_named(tmp_path: Path) -> None:
    whole, cut, text = (tmp_path / name for name in ("whole.png", "cut.png", "text.png"))
    Image.effect_noise((32, 32), 50).save(whole)
    cut.write_bytes(whole.read_bytes()[:200])
    text.write_text("hello")
    for path, said in (
        (cut, f"{cut}: image file is truncated"),
        (text, f"{text} is no image (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM or AVIF), 5 bytes"),
    ):
        with pytest.raises(OSError) as caught:
            load_picture((str(whole), str(whole), str(path), str(whole)))
        assert str(caught.value) == said


def test_pictures_stand_upright_and_keep_their_greys(tmp_path: Path) -> None:
    """As a phone's EXIF says; what a picture would lose without a word is no picture."""
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    picture = Image.new("RGB", (64, 32), "black")
    picture.paste("white", (0, 0, 64, 16))
    picture.save(tmp_path / "phone.png", exif=turned)
    grey = Image.new("I;16", (4, 1))
    for x, value in enumerate((0, 255, 0x8000, 0xFFFF)):
        grey.putpixel((x, 0), value)
    grey.save(tmp_path / "grey.png")
    Image.new("F", (4, 1), 0.5).save(tmp_path / "range.tiff")

    upright = load_picture([str(tmp_path / "phone.png")])
    assert (upright.size, upright.getpixel((31, 0)), upright.getpixel((0, 0))) == ((32, 64), (255,) * 3, (0,) * 3)
    scaled = load_picture([str(tmp_path / "grey.png")])
    assert [scaled.getpixel((x, 0)) for x in range(4)] == [(level,) * 3 for level in (0, 0, 128, 255)]
    with pytest.raises(OSError, match=r"range.tiff: pixels of 32 bits \(mode F\), of a range that no one says"):
        load_picture([str(tmp_path / "range.tiff")])


def test_a_large_picture_is_read_without_a_warning(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    read = (
        "from PIL import Image; from trainer.data.grid import load_image; Image.MAX_IMAGE_PIXELS = 3000; "
        f"print(load_image({str(tmp_path / 'large.png')!r}).size)"
    )
    done = subprocess.run([sys.executable, "-c", read], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(64, 64)\n", "")


class OneList:
    """Takes the pictures of all texts in one list, and gives them in half precision, as two families' processors do."""

    def __call__(self, *, text: list[str], images: Any, **options: Any) -> dict[str, Any]:
        if images and isinstance(images[0], list):
            raise ValueError("Nested images are only supported with `multi_page` set to `True`.")
        if images == ["broken"]:
            raise KeyError("broken")
        pixels = torch.ones(len(images or ()), 3, 2, 2, dtype=torch.bfloat16)
        return {"input_ids": torch.ones(1, 4, dtype=torch.long), "pixel_values": pixels, "sizes": [(2, 2)]}


def test_pictures_go_to_a_processor_as_it_takes_them_and_come_in_full_precision() -> None:
    tensors = processed(OneList(), "what?", ["one", "two"])  # type: ignore[list-item]
    assert tensors["pixel_values"].shape == (2, 3, 2, 2) and tensors["pixel_values"].dtype == torch.float32
    assert tensors["input_ids"].dtype == torch.long and tensors["sizes"] == [(2, 2)]
    assert len(processed(OneList(), "what?", [])["pixel_values"]) == 0
    with pytest.raises(ValueError, match="Nested images"):  # what it said first
        processed(OneList(), "what?", ["broken"])  # type: ignore[list-item]
