"""Text of others on its way to W&B, where it names runs, columns and groups: escaped, without secrets, of bounded
length."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

from trainer.secret_shapes import told

# Characters; for a project and a tag they are W&B's own bounds, above which it opens no run.
NAME_CHARS, TAG_CHARS, TEXT_CHARS = 128, 64, 4096
MOST_ENTRIES, MOST_DEPTH = 1000, 8
TAGS = "WANDB_TAGS"
LONGEST = {
    "WANDB_PROJECT": NAME_CHARS, "WANDB_ENTITY": NAME_CHARS, "WANDB_RUN_GROUP": NAME_CHARS,
    "WANDB_JOB_TYPE": NAME_CHARS, "WANDB_NOTES": TEXT_CHARS,
}  # fmt: skip
"""The variables whose values W&B shows as they are."""


def short(text: str, most: int = TEXT_CHARS) -> str:
    """`text` on one line, as it may be shown, in at most `most` characters."""
    head = text[: 4 * most]
    if len(head) < len(text):  # no token is cut before it is known
        head = head.rpartition(" ")[0] or head
    shown = told(head)
    return shown if max(len(text), len(shown)) <= most else f"{shown[: most - 3]}..."


def sendable(value: Any, depth: int = MOST_DEPTH) -> Any:
    """A copy of `value`, each text and each key in it as `short`; what nests deeper than `depth` is left out, and so
    are the entries of a mapping or a list behind the first MOST_ENTRIES."""
    if isinstance(value, str):
        return short(value)
    if isinstance(value, Mapping):
        entries = islice(value.items(), MOST_ENTRIES)
        return {short(str(key), NAME_CHARS): sendable(part, depth - 1) for key, part in entries} if depth else {}
    if isinstance(value, (list, tuple)):
        return [sendable(part, depth - 1) for part in value[:MOST_ENTRIES]] if depth else []
    return value


def bound_names() -> None:
    """Make the names that W&B's client reads from the environment `short`."""
    for name, most in LONGEST.items():
        if said := os.environ.get(name):
            os.environ[name] = short(said, most)
    tags = [short(tag, TAG_CHARS) for tag in os.environ.pop(TAGS, "").split(",")[:MOST_ENTRIES] if tag]
    if tags:  # the client refuses an empty one
        os.environ[TAGS] = ",".join(tags)
