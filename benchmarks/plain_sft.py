"""The script that start_speed.py compares with: QLoRA by TRL's SFTTrainer, as its documentation has it, without checks.

    python -m benchmarks.plain_sft MODEL DATA RESULT BATCH

It makes one optimizer step on the demo's records, and writes down how long each part took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

IN_16_BITS = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def leave(result: Path, parts: Mapping[str, tuple[float, float]]) -> None:
    """Write down the (seconds, CPU seconds) of each part and when the first step was done, and end this process."""
    result.write_text(json.dumps({"parts": parts, "at": time.time()}), encoding="utf-8")
    os._exit(0)


def main(model_name: str, data: str, result: str, batch: str) -> None:
    marks = [("", time.time(), time.process_time())]

    def passed(part: str) -> None:
        marks.append((part, time.time(), time.process_time()))

    from datasets import Dataset
    from peft import LoraConfig
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    passed("libraries")

    def example(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"images": [], "prompt": [], "completion": []}
        for line in batch["line"]:
            record = json.loads(line)
            frames = [Image.open(f"{data}/{path}").convert("RGB") for path in record["frames"]]
            width, height = frames[0].size
            grid = Image.new("RGB", (2 * width, 2 * height))
            for number, frame in enumerate(frames):
                grid.paste(frame, (number % 2 * width, number // 2 * height))
            found["images"].append([grid])
            found["prompt"].append([{"role": "user", "content": f"{record['context']}\n{record['question']}"}])
            found["completion"].append([{"role": "assistant", "content": record["output"]}])
        return found

    # Pictures are opened when a batch is made: a list of them all would be encoded here, which takes longer.
    lines = Path(data, "train.jsonl").read_text(encoding="utf-8").splitlines()
    records = Dataset.from_dict({"line": lines}).with_transform(example)
    passed("records")
    quantized = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=IN_16_BITS
    )
    model = AutoModelForImageTextToText.from_pretrained(model_name, quantization_config=quantized, device_map="cpu")
    processor = AutoProcessor.from_pretrained(model_name)
    passed("model")

    class FirstStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            passed("first step")
            leave(Path(result), {after[0]: (after[1] - at[1], after[2] - at[2]) for at, after in pairwise(marks)})

    arguments = SFTConfig(
        output_dir=str(Path(result).parent / "plain"), per_device_train_batch_size=int(batch), max_length=None,
        max_steps=200, learning_rate=2e-3, gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none",
        remove_unused_columns=False,
    )  # fmt: skip
    lora = LoraConfig(r=64, lora_alpha=128, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=records,
        processing_class=processor,
        peft_config=lora,
        callbacks=[FirstStep()],
    )
    passed("trainer")
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
