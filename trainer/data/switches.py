"""Keys by which other trainers say how much of a record is learned, in ways that Trainyard does not follow."""

from __future__ import annotations

import re
from typing import Any

from trainer.data.answers import json_object
from trainer.data.columns import ANSWERS, CONVERSATIONS, PAIRS
from trainer.data.turns import Form

# By key, the value that changes nothing: answers alone are learned, and all alike. 1 is true, and 0 is false.
HARMLESS = {
    **dict.fromkeys(("loss_weight", "loss_weights", "loss_mask", "loss_scale", "label_mask", "train_mask"), 1),
    **dict.fromkeys(("train_detail", "trainable", "sample_weight", "kto_tag"), 1),
    **dict.fromkeys(("train_on_input", "train_on_inputs", "train_on_prompt", "train_on_source", "mask_history"), 0),
    **dict.fromkeys(("mask_prompt", "mask_input", "mask_inputs", "assistant_only_loss", "completion_only_loss"), 1),
}  # fmt: skip
# The same of yes and no alone: a mask may also be a picture, and train the name of a side.
HARMLESS_FLAGS = {"mask": False, "masked": False, "train": True, "training": True}
# An answer that is worse than the record's own, as ms-swift and TRL write it.
WORSE = {PAIRS[1], *(f"rejected_{name}" for name in ("responses", "answers", *ANSWERS, *CONVERSATIONS))}


def switches(name: str, value: Any, form: Form) -> bool:
    """Whether a key asks for a record, or a part of it, to be learned less than the others, or otherwise."""
    name = name.lower()
    if name in HARMLESS:
        return any(_said(each) != HARMLESS[name] for each in (value if isinstance(value, list) else [value]))
    if name in HARMLESS_FLAGS:
        flags = map(_said, value if isinstance(value, list) else [value])
        return any(isinstance(each, bool) and each is not HARMLESS_FLAGS[name] for each in flags)
    if name in WORSE:
        return isinstance(value, (str, list, dict))
    if name == "label":  # of KTO; elsewhere the class of a picture, which the answer then says
        return value is False and not any(_says_no(turn.text) for turn in form.turns if turn.role == "assistant")
    return name == "weight" and isinstance(value, float) and 0 < value < 1


def _said(value: Any) -> Any:
    """What the text of a cell, such as "false" or "1.0", says: a table has texts alone."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    return text == "true" if text in ("true", "false") else value


def _says_no(answer: str) -> bool:
    """Whether an answer is a no, or JSON that holds one."""
    held = (json_object(answer) or {}).values()
    return any(value is False for value in held) or bool(re.fullmatch(r"\W*(no|false|0)\W*", answer, re.IGNORECASE))
