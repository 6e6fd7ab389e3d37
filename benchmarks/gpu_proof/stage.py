"""Model and records for all rows, written once: Gemma 3 4B's own shape with random weights, or the demo's tiny one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.files import read_json, write_whole

PUBLISHED = "google/gemma-3-4b-it"  # whose shape the plan takes
RECORDS = 64
ANSWERS = ("up", "down", "left", "right")
TOY_TOKENS = {330: 90, 900: 160, 2048: 260}  # in a rehearsal, where a picture takes 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    folder: str
    rehearsal: bool

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsal else "cuda"

    @property
    def model(self) -> str:
        return f"{self.folder}/model"

    @property
    def tiny_model(self) -> str:
        return f"{self.folder}/tiny"

    def data(self, tokens: int) -> str:
        """Folder of records with so many tokens each."""
        return f"{self.folder}/records-{tokens}"

    def tokens(self, tokens: int) -> int:
        """That length, or its counterpart in a rehearsal."""
        return TOY_TOKENS[tokens] if self.rehearsal else tokens

    def config(self, tokens: int, **settings: Any) -> TrainConfig:
        """Settings of a run on records of that length."""
        given = {"model": self.model, "data": self.data(tokens), "output_dir": self.folder, "run_id": "gpu-proof"}
        return TrainConfig(**{**given, "device": self.device, **settings})

    def save(self) -> None:
        write_whole(Path(self.folder, "stage.json"), json.dumps(asdict(self)))


def stage_in(folder: str) -> Stage:
    return Stage(**read_json(Path(folder, "stage.json")))


def set_up(stage: Stage, lengths: Iterable[int]) -> None:
    """Write model and records for all rows. Takes a minute for the whole model."""
    from examples.demo.tiny import write_tiny_model

    write_tiny_model(Path(stage.tiny_model))
    if stage.rehearsal:
        Path(stage.model).symlink_to("tiny")
    else:
        write_full_model(Path(stage.model))
    for tokens in lengths:
        write_records(stage, tokens)
    stage.save()


def write_full_model(folder: Path) -> None:
    """Gemma 3 4B in bf16 with random weights, drawn on the GPU, beside the demo's tokenizer."""
    import torch
    from transformers import Gemma3ForConditionalGeneration

    from benchmarks.flops import SHAPE
    from examples.demo.tiny import build_config, build_processor
    from trainer.architecture.shapes import resolve_shape
    from trainer.measure.keep import keep

    processor = build_processor(image_px=896, image_tokens=SHAPE.mm_tokens_per_image)
    ids = build_config(processor.tokenizer)
    shape: Any = copy.deepcopy(SHAPE)
    for name in (
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    ):
        setattr(shape, name, getattr(ids, name))
    shape.image_token_id = ids.image_token_index
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Gemma3ForConditionalGeneration(shape)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    keep(str(folder), resolve_shape(PUBLISHED, measure=False))


def write_records(stage: Stage, tokens: int) -> None:
    """RECORDS records of one picture and a question that make so many tokens with the answer."""
    from PIL import Image

    from trainer.data.examples import encode_learned
    from trainer.data.records import dataset_of
    from trainer.model.base import load_processor

    folder = Path(stage.data(tokens))
    folder.mkdir(parents=True)
    for number in range(RECORDS):
        Image.new("RGB", (64, 64), (number * 3, 90, 255 - number * 3)).save(folder / f"{number}.png")

    def write(words: int) -> None:
        lines = [
            {"image": f"{number}.png", "question": "go" + " left" * words,
             "output": json.dumps({"button": ANSWERS[number % len(ANSWERS)]}), "session_id": str(number // 4)}
            for number in range(RECORDS)
        ]  # fmt: skip
        (folder / "train.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")

    processor = load_processor(stage.model)
    write(1)
    record = dataset_of(stage.config(tokens)).train[0]
    write(1 + max(0, stage.tokens(tokens) - encode_learned(processor, record)["input_ids"].shape[1]))
