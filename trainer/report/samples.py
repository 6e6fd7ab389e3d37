"""Chooses the records that are shown, and loads their pictures: one by one, and on one sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from PIL import Image, ImageDraw

from trainer.data import grid
from trainer.report.charts import Entry

SAMPLES = 12
PICTURE_PX = 480  # twice a card's size, for sharp screens
PICTURE_BYTES = 80_000  # twelve of them, in base64, keep the page under 1.5 MB
THUMBNAIL_PX = 64  # in a row; a few hundred of them keep the page under 1 MB
SHEET_PX = 192  # of a picture; small, because a dozen of them are logged with every evaluation that is shown
SHEET_COLUMNS = 4
CAPTION_PX = 38
GAP_PX = 12


def is_right(prediction: Entry) -> bool:
    return bool(prediction["truth"] == prediction.get("prediction"))


def choose_samples(predictions: Sequence[Entry]) -> list[Entry]:
    """At most SAMPLES predictions: half wrong and half right if there are enough of both, alternating between true
    actions."""
    wrong = _take_turns(p for p in predictions if not is_right(p))
    right = _take_turns(p for p in predictions if is_right(p))
    chosen = wrong[: max(SAMPLES // 2, SAMPLES - len(right))]
    return chosen + right[: SAMPLES - len(chosen)]


def _take_turns(predictions: Iterable[Entry]) -> list[Entry]:
    by_truth: dict[str, list[Entry]] = {}
    for prediction in predictions:
        by_truth.setdefault(str(prediction["truth"]), []).append(prediction)
    return [p for p in chain.from_iterable(zip_longest(*by_truth.values())) if p is not None]


def picture_uri(paths: Sequence[str]) -> str | None:
    """The record's picture as a data URI: a PNG, or a JPEG if a PNG would be large; None when unreadable."""
    picture = load_picture(paths, PICTURE_PX)
    if picture is None:
        return None
    for form, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80}), ("jpeg", {"quality": 40})):
        file = io.BytesIO()
        picture.save(file, form, **options)
        if file.tell() <= PICTURE_BYTES:
            break
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def thumbnail_uri(paths: Sequence[str]) -> str | None:
    """The record's picture for a row of a table, as a data URI; None when unreadable."""
    picture = load_picture(paths, THUMBNAIL_PX)
    if picture is None:
        return None
    file = io.BytesIO()
    picture.convert("RGB").save(file, "jpeg", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def load_picture(paths: Sequence[str], most_px: int) -> Image.Image | None:
    """The record's picture (ready, or four frames as a grid); None when unreadable. It is at most `most_px` wide and
    high, and near that size: small pictures are enlarged by a whole factor."""
    try:
        picture = grid.load_picture(paths)
    except (OSError, ValueError):
        return None
    factor = most_px // max(picture.size)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    return picture


def sheet(samples: Sequence[Entry]) -> Image.Image:
    """The samples, each with its `picture` or None, on one sheet: truth and prediction below, wrong predictions in
    red."""
    columns = min(SHEET_COLUMNS, len(samples))
    wide, high = SHEET_PX + GAP_PX, SHEET_PX + CAPTION_PX
    page = Image.new("RGB", (columns * wide, -(-len(samples) // columns) * high), "white")
    draw = ImageDraw.Draw(page)
    for index, sample in enumerate(samples):
        x, y = index % columns * wide, index // columns * high
        if picture := sample["picture"]:
            page.paste(picture, (x + (SHEET_PX - picture.width) // 2, y))
        truth, said = sample["truth"], sample["prediction"]
        lines = (f"truth {truth}"[:30], f"model {'unreadable' if said is None else said}"[:30])
        color = "black" if said == truth else "#b02000"
        draw.multiline_text((x + 4, y + SHEET_PX + 2), "\n".join(lines), fill=color)
    return page
