"""One evaluation as something to look at: the confusion matrix, and some records with truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from trainer.report.samples import choose_samples, load_picture

PICTURE_PX = 192  # small: a dozen of them travel with every evaluation that is shown
CAPTION_PX = 38
GAP_PX = 12
SHEET_COLUMNS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    picture: Image.Image | None
    truth: str
    prediction: str | None
    answer: str
    """Written out; empty where only actions were scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One evaluation, to be looked at."""

    step: int
    confusion: Mapping[str, Mapping[str, int]]
    samples: Sequence[Sample]


def show(step: int, confusion: Mapping[str, Mapping[str, int]], predictions: Sequence[Mapping[str, Any]]) -> Shown:
    """The evaluation at `step`, with a few of its predictions (entries of predictions.jsonl), the wrong ones first."""
    samples = [
        Sample(
            picture=load_picture(entry["images"], PICTURE_PX), truth=entry["truth"],
            prediction=entry["prediction"], answer=entry.get("answer", ""),
        )
        for entry in choose_samples([entry for entry in predictions if "prediction" in entry])
    ]  # fmt: skip
    return Shown(step=step, confusion=confusion, samples=samples)


def confusion_table(confusion: Mapping[str, Mapping[str, int]]) -> str:
    """Markdown: a row a true action, a column an answer, counts."""
    names = list(dict.fromkeys(name for row in confusion.values() for name in row))
    rows = [["truth \\ answer", *names], ["---"] * (len(names) + 1)]
    rows += [[truth, *(str(row.get(name, 0)) for name in names)] for truth, row in confusion.items()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def sheet(samples: Sequence[Sample]) -> Image.Image:
    """The samples in one picture, truth and prediction under each, the wrong ones in red."""
    columns = min(SHEET_COLUMNS, len(samples))
    wide, high = PICTURE_PX + GAP_PX, PICTURE_PX + CAPTION_PX
    page = Image.new("RGB", (columns * wide, -(-len(samples) // columns) * high), "white")
    draw = ImageDraw.Draw(page)
    for index, sample in enumerate(samples):
        x, y = index % columns * wide, index // columns * high
        if sample.picture:
            page.paste(sample.picture, (x + (PICTURE_PX - sample.picture.width) // 2, y))
        color = "black" if sample.truth == sample.prediction else "#b02000"
        said = "unreadable" if sample.prediction is None else sample.prediction
        lines = (f"truth {sample.truth}"[:30], f"model {said}"[:30])
        draw.multiline_text((x + 4, y + PICTURE_PX + 2), "\n".join(_latin(line) for line in lines), fill=color)
    return page


def _latin(text: str) -> str:
    """What the built-in font can draw."""
    return text.encode("latin-1", "replace").decode("latin-1")
