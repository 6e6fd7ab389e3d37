"""One evaluation as something to look at: the confusion matrix, and some records with truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from trainer.report.samples import choose_samples, load_picture

PICTURE_PX = 192  # small: a dozen of them travel with every evaluation that is shown
CAPTION_PX = 38
GAP_PX = 12
SHEET_COLUMNS = 4

Confusion = Mapping[str, Mapping[str, int]]
"""confusion[truth][prediction], every row with the same predictions."""
Sample = Mapping[str, Any]
"""An entry of predictions.jsonl, and its `picture`: None when there is none that can be read."""


def pick_samples(predictions: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """A few of the entries of predictions.jsonl, the wrong ones first, with their pictures."""
    return [
        {**entry, "picture": load_picture(entry["images"], PICTURE_PX)} for entry in choose_samples(predictions)
    ]  # fmt: skip


def confusion_table(confusion: Confusion) -> str:
    """Markdown: a row a true action, a column an answer, counts."""
    names = list(next(iter(confusion.values())))
    rows = [["truth \\ answer", *names], ["---"] * (len(names) + 1)]
    rows += [[truth, *(str(row[name]) for name in names)] for truth, row in confusion.items()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def sheet(samples: Sequence[Sample]) -> Image.Image:
    """The samples in one picture, truth and prediction under each, the wrong ones in red."""
    columns = min(SHEET_COLUMNS, len(samples))
    wide, high = PICTURE_PX + GAP_PX, PICTURE_PX + CAPTION_PX
    page = Image.new("RGB", (columns * wide, -(-len(samples) // columns) * high), "white")
    draw = ImageDraw.Draw(page)
    for index, sample in enumerate(samples):
        x, y = index % columns * wide, index // columns * high
        if picture := sample["picture"]:
            page.paste(picture, (x + (PICTURE_PX - picture.width) // 2, y))
        truth, said = sample["truth"], sample["prediction"]
        lines = (f"truth {truth}"[:30], f"model {'unreadable' if said is None else said}"[:30])
        color = "black" if said == truth else "#b02000"
        draw.multiline_text((x + 4, y + PICTURE_PX + 2), "\n".join(lines), fill=color)
    return page
