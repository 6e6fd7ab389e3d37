"""The model card, README.md beside the weights: what they are, their training data, their scores, and how to load
them with plain transformers and peft. It is made from metrics.json; nothing about the machine is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.endings import AnswerEnd
from trainer.evaluation.metrics import interval
from trainer.flags import word
from trainer.text import gib, markdown_cell, printable

if TYPE_CHECKING:
    from trainer.results.trained import Usage

# Settings of the machine, of one attempt or of measuring, on which the weights do not depend.
LEFT_OUT = (
    "model", "data", "output_dir", "run_id", "image_root", "device", "logging_steps", "eval_steps", "save_steps",
    "keep_checkpoints", "collective_timeout_s", "feature_cache_gib", "feature_store", "features_ahead",
)  # fmt: skip


def model_card(
    run: Mapping[str, Any],
    folder: Path,
    usage: Usage,
    *,
    unquantized: Sequence[str] = (),
    merged: Mapping[str, Any] | None = None,
) -> str:
    """card.md.j2 for the adapter of `run` (metrics.json) in `folder`, to be asked as `usage` says, on a base whose
    parts `unquantized` are not in 4 bits; or for whole weights, with `merged` as measured by `python -m trainer
    merge`."""
    import jinja2

    config = run["config"]
    # Every value stays on its line, without characters that a terminal would act on.
    pages = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, finalize=_plain)
    pages.filters.update(gib=gib, accuracy=_accuracy, cell=markdown_cell, quoted=_quoted)
    return pages.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")).render(
        run,
        base=printable(base_name(config["model"])),
        unquantized=list(unquantized),
        settings=[(name, base_name(word(value))) for name, value in config.items() if name not in LEFT_OUT],
        merged=merged,
        usage=usage,
        end=usage.end or AnswerEnd(),
        named=None not in (usage.context, usage.question, usage.system),
        # Relative to Trainyard's folder; of an absolute path only the last part.
        folder=folder.name if folder.is_absolute() else str(folder),
    )


def _accuracy(scores: Mapping[str, Any]) -> str:
    """The accuracy with its confidence interval."""
    return f"{scores['accuracy']:.1%} ({interval(scores['accuracy'], scores['samples'])})"


def _plain(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _quoted(text: str) -> str:
    """A string in JSON's quotes, without characters that a terminal would act on."""
    return printable(json.dumps(text, ensure_ascii=False))


def base_name(model: str) -> str:
    """A hub id unchanged; of a path only the last part, since the location is private."""
    hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith(".") and not Path(model).exists()
    return model if hub_id else model.rstrip("/").rpartition("/")[2]
