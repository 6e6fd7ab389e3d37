"""The model card, README.md beside the weights: what they are, what they were trained on, how good they are, how to
load them with plain transformers and peft. From what metrics.json says; nothing of the machine is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.flags import word
from trainer.text import gib

Entry = Mapping[str, Any]

# Of the machine, of one attempt, or about measuring: nothing that the weights depend on.
LEFT_OUT = (
    "model", "data", "output_dir", "run_id", "image_root", "device", "logging_steps", "eval_steps", "save_steps",
    "keep_checkpoints", "collective_timeout_s",
)  # fmt: skip
ROWS = (("", "likeliest allowed action"), ("generated_", "answer written out"))

ADAPTER_CODE = """\
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor{more_imports}

base = AutoModelForImageTextToText.from_pretrained("{base}", dtype=torch.{dtype}{quantization})
model = PeftModel.from_pretrained(base, "adapter")  # this folder
processor = AutoProcessor.from_pretrained("adapter")
"""
QUANTIZATION = """\
, quantization_config=BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.{dtype},
    llm_int8_skip_modules={skipped},
)"""
MERGED_CODE = """\
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("merged", dtype=torch.{dtype})  # this folder
processor = AutoProcessor.from_pretrained("merged")
"""
ASK_CODE = """\
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "context, empty line, question"}]}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
inputs = processor(text=[prompt], images=[[image]], add_special_tokens=False, return_tensors="pt").to(model.device)
tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
"""


def adapter_card(run: Entry, skipped: Sequence[str] = ()) -> str:
    config, dtype = run["config"], _dtype(run)
    nf4 = config["quantization"] == "nf4"
    quantization = QUANTIZATION.format(dtype=dtype, skipped=list(skipped)) if nf4 else ""
    code = ADAPTER_CODE.format(
        base=base_name(config["model"]), dtype=dtype, quantization=quantization,
        more_imports=", BitsAndBytesConfig" if nf4 else "",
    )  # fmt: skip
    on = "the 4-bit (NF4) base that it was trained on" if nf4 else "its base"
    return _card(run, "peft", f"A LoRA adapter for {base_name(config['model'])}, to be put on {on}.", code)


def merged_card(run: Entry, merged: Entry) -> str:
    """`merged` is what `python -m trainer merge` measured, see trainer.merge."""
    base = base_name(run["config"]["model"])
    about = f"{base} with a LoRA adapter merged into its weights ({_dtype(run)}), on {merged['onto']}."
    rows = [
        ["", "adapter", "merged"],
        ["accuracy", *(f"{merged[side]['accuracy']:.2%}" for side in ("before", "after"))],
        ["records that both answer alike", "", f"{merged['same']} of {merged['records']}"],
    ]
    return _card(run, "transformers", about, MERGED_CODE.format(dtype=_dtype(run)), rows)


def base_name(model: str) -> str:
    """A hub id as it is; of a path the last part, since where it lies is nobody else's business."""
    hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith(".") and not Path(model).exists()
    return model if hub_id else model.rstrip("/").rpartition("/")[2]


def _dtype(run: Entry) -> str:
    return "float32" if run["config"]["device"] == "cpu" else "bfloat16"


def _card(run: Entry, library: str, about: str, code: str, merged: Sequence[Sequence[str]] = ()) -> str:
    base, data, memory = base_name(run["config"]["model"]), run["data"], run["peak_memory"]
    settings = [[f"`{k}`", base_name(word(v))] for k, v in run["config"].items() if k not in LEFT_OUT]
    parts = [
        f"---\n{f'base_model: {base}' if '/' in base else ''}\nlibrary_name: {library}\n"
        "pipeline_tag: image-text-to-text\n---".replace("\n\n", "\n"),
        f"# {base}, fine-tuned",
        about,
        "## Use\n\n`python -m trainer infer --run FOLDER IMAGE` of Trainyard builds the prompt as in training, and "
        f"answers in JSON. With plain transformers:\n\n```python\n{code}\nimage = ...  # PIL.Image{_grid(run)}\n"
        f"{ASK_CODE}```",
        "## Accuracy\n\n" + _accuracy(run),
        *(["## Merging\n\n" + _table(merged)] if merged else []),
        f"## Data\n\n{data['train']} records to train on, {data['eval']} held out ({data['split']}); "
        f"SHA-256 of the JSONL `{data['sha256']}`.",
        f"## Training\n\nThe adapter of step {run['step']}.\n\n" + _table([["setting", "value"], *settings])
        + f"\n\nPeak memory of a process, evaluation included: {gib(memory['bytes'])} GiB ({memory['of']}).",
        "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _grid(run: Entry) -> str:
    return "; four frames make one grid, oldest top left, newest bottom right" if run["data"]["frames"] > 1 else ""


def _accuracy(run: Entry) -> str:
    rows = [["", "records", "majority baseline", "before", "after", "macro F1 after", "valid JSON after"]]
    for prefix, name in ROWS:
        before, after = run[f"{prefix}before"], run[f"{prefix}after"]
        if after:
            rows.append(
                [
                    name, str(after["samples"]), f"{after['majority_accuracy']:.1%} ({after['majority']})",
                    f"{before['accuracy']:.1%}" if before else "-", f"{after['accuracy']:.1%}",
                    f"{after['macro_f1']:.3f}", f"{after['valid_json']:.1%}",
                ]
            )  # fmt: skip
    return _table(rows) if len(rows) > 1 else "Nothing was held out to measure on."


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
