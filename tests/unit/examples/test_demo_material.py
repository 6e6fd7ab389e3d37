"""The demo's data and model are what they claim: reproducible, fair to measure on, and really about the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

Image = pytest.importorskip("PIL.Image")

from examples.demo.frames import BUTTONS, FRAME_PX, STEPS, VIEW_TILES, DatasetSummary, write_dataset  # noqa: E402
from examples.demo.sprites import SAND, TILE_PX  # noqa: E402

UNICODE = 'naïve 🎮 ┌─┬─┐ → 漢字 \t\r\n  two  spaces\x00 {"button": "up"} ▁ \u202e é'


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetSummary:
    return write_dataset(tmp_path_factory.mktemp("demo-data"), episodes=8, eval_episodes=4, seed=3)


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _button_seen(frame: Any) -> str:
    """Reads the rule off the pixels alone: what lies on the four tiles around the player in the middle."""
    middle = VIEW_TILES // 2

    def tile(step: tuple[int, int]) -> Any:
        left, top = (middle + step[0]) * TILE_PX, (middle + step[1]) * TILE_PX
        return frame.crop((left, top, left + TILE_PX, top + TILE_PX))

    def bare_share(picture: Any) -> float:
        pixels = [picture.getpixel((x, y)) for x in range(TILE_PX) for y in range(TILE_PX)]
        return pixels.count(SAND) / len(pixels)

    around = {button: tile(step) for button, step in STEPS.items()}
    road = {button: picture for button, picture in around.items() if picture.getpixel((0, 0)) == SAND}
    fresh = [button for button, picture in road.items() if bare_share(picture) > 0.95]
    assert len(road) in (1, 2) and len(fresh) <= 1, "the road forks"
    return fresh[0] if fresh else "a"


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    """Two calls agree in every file; the seed is what the data depends on."""
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        write_dataset(tmp_path / name, episodes=2, eval_episodes=1, seed=seed)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert _files(tmp_path / "one")["train.jsonl"] != _files(tmp_path / "other")["train.jsonl"]


def test_no_episode_is_in_both_splits(dataset: DatasetSummary) -> None:
    """Neither session ids nor pictures are shared: a held-out frame was never seen in training."""
    train, held_out = _records(dataset.train), _records(dataset.eval)
    assert not {r["metadata"]["session_id"] for r in train} & {r["metadata"]["session_id"] for r in held_out}
    folder = dataset.train.parent
    pictures = [{(folder / f).read_bytes() for r in split for f in r["frames"][-1:]} for split in (train, held_out)]
    assert not pictures[0] & pictures[1]


def test_every_button_is_the_answer_equally_often(dataset: DatasetSummary) -> None:
    """The majority answer scores 20 % on the held-out records, well under the 35 % that the demo promises."""
    counted = [json.loads(r["output"])["button"] for r in _records(dataset.eval)]
    assert {b: counted.count(b) for b in BUTTONS} == dataset.eval_answers
    assert len(set(dataset.eval_answers.values())) == 1
    assert dataset.eval_majority_share == pytest.approx(1 / len(BUTTONS))


def test_every_answer_can_be_read_off_the_last_frame(dataset: DatasetSummary) -> None:
    """A reader that knows only the rule and the road's colour agrees with every answer in both splits."""
    for record in _records(dataset.train) + _records(dataset.eval):
        with Image.open(dataset.train.parent / record["frames"][-1]) as frame:
            assert frame.size == (FRAME_PX, FRAME_PX)
            assert _button_seen(frame.convert("RGB")) == json.loads(record["output"])["button"], record


def test_the_text_of_a_record_says_nothing_about_its_answer(dataset: DatasetSummary) -> None:
    """All prompts are one and the same, and a record's four frames are consecutive moments of one session."""
    records = _records(dataset.train)
    assert len({(r["context"], r["question"]) for r in records}) == 1
    for record in records:
        session, turns = record["metadata"]["session_id"], record["metadata"]["turns"]
        assert turns == list(range(turns[0], turns[0] + 4))
        assert record["frames"] == [f"frames/{session}-{turn:02d}.png" for turn in turns]


def test_no_episodes_is_refused(tmp_path: Path) -> None:
    """A split without episodes is a mistake, and nothing is written for it."""
    with pytest.raises(ValueError, match="eval_episodes=0"):
        write_dataset(tmp_path / "data", episodes=4, eval_episodes=0)
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from examples.demo.tiny import write_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def processor(tiny: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny)


@pytest.fixture(scope="module")
def prompt(processor: Any) -> str:
    content = [{"type": "image"}, {"type": "text", "text": "Which button is next?"}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@pytest.mark.slow
def test_the_tiny_model_is_the_same_bytes_for_the_same_seed(tiny: Path, tmp_path: Path) -> None:
    """Weights, tokenizer, template and configurations are all decided by the seed, and torch's own seed is kept."""
    import torch

    from examples.demo.tiny import write_tiny_model

    torch.manual_seed(0)
    before = torch.get_rng_state()
    write_tiny_model(tmp_path / "again", seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert _files(tmp_path / "again") == _files(tiny)


def test_the_tokenizer_returns_any_text_unchanged(processor: Any) -> None:
    """Bytes are the alphabet, so nothing is unknown; prompt and answer encoded apart are the same as together."""
    tokenizer = processor.tokenizer
    encode = tokenizer.encode
    assert tokenizer.decode(encode(UNICODE, add_special_tokens=False)) == UNICODE
    assert tokenizer.unk_token_id not in encode(UNICODE)
    head, tail = "<start_of_turn>model\n", '{"button": "up"}'
    apart = encode(head, add_special_tokens=False) + encode(tail, add_special_tokens=False)
    assert apart == encode(head + tail, add_special_tokens=False)


def test_every_button_is_one_token_of_its_own(processor: Any) -> None:
    """The answers are equally long and differ in exactly one position."""
    answers = [processor.tokenizer.encode(json.dumps({"button": b}), add_special_tokens=False) for b in BUTTONS]
    assert {len(answer) for answer in answers} == {6}
    assert [len(set(column)) for column in zip(*answers, strict=True)] == [1, 1, 1, 1, len(BUTTONS), 1]


def test_a_template_renders_like_gemma_3_with_one_bos(processor: Any) -> None:
    """System text joins the first user turn, the assistant is called model, and encoding adds no second <bos>."""
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Hi "}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]},
    ]
    text = processor.apply_chat_template(conversation)
    assert text == (
        "<bos><start_of_turn>user\nBe brief.\n\n<start_of_image>Hi<end_of_turn>\n"
        "<start_of_turn>model\nHo<end_of_turn>\n"
    )
    picture = Image.new("RGB", (40, 30))
    ids = processor(images=[picture], text=[text], add_special_tokens=False)["input_ids"][0]
    assert list(ids).count(processor.tokenizer.bos_token_id) == 1
    assert processor.tokenizer.encode("Hi")[0] == processor.tokenizer.bos_token_id


def test_the_processor_expands_an_image_to_the_models_tokens(processor: Any, prompt: str) -> None:
    """One image is IMAGE_TOKENS soft tokens, and token_type_ids mark exactly those."""
    from examples.demo.tiny import IMAGE_PX, IMAGE_TOKENS

    picture = Image.new("RGB", (480, 320), (200, 40, 40))
    batch = processor(images=[picture], text=[prompt], add_special_tokens=False, return_tensors="pt")
    soft = batch["input_ids"] == processor.tokenizer.image_token_id
    assert soft.sum().item() == IMAGE_TOKENS
    assert batch["token_type_ids"].bool().equal(soft)
    assert tuple(batch["pixel_values"].shape) == (1, 3, IMAGE_PX, IMAGE_PX)


@pytest.mark.slow
def test_the_model_loads_in_4_bits_and_sees_its_image(
    tiny: Path, processor: Any, prompt: str, dataset: DatasetSummary
) -> None:
    """Every linear of the language model becomes NF4, the tower does not, and another picture gives other logits."""
    pytest.importorskip("bitsandbytes")
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    model = AutoModelForImageTextToText.from_pretrained(tiny, quantization_config=quantization, dtype="float32")
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if "Linear" in type(m).__name__}
    in_4_bits = {name for name, kind in kinds.items() if kind == "Linear4bit"}
    assert in_4_bits == {name for name in kinds if "language_model" in name} and len(in_4_bits) == 14

    logits = []
    for record in _records(dataset.eval)[:2]:
        with Image.open(dataset.eval.parent / record["frames"][-1]) as frame:
            batch = processor(images=[frame], text=[prompt], add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**batch).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
