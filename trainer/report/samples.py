"""Which records are shown, and their pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from PIL import Image

from trainer.data import grid
from trainer.report.charts import Entry

SAMPLES = 12
PICTURE_PX = 480  # twice what a card shows, for sharp screens
PICTURE_BYTES = 80_000  # twelve of them, in base64, keep the page under 1.5 MB


def is_right(prediction: Entry) -> bool:
    return bool(prediction["truth"] == prediction.get("prediction"))


def choose_samples(predictions: Sequence[Entry]) -> list[Entry]:
    """At most SAMPLES: half wrong and half right where there are enough of both, true actions by turns."""
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
    """The record's picture as a data URI: a PNG, or a JPEG where that would be large; None when unreadable."""
    picture = load_picture(paths, PICTURE_PX)
    if picture is None:
        return None
    for form, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80}), ("jpeg", {"quality": 40})):
        file = io.BytesIO()
        picture.save(file, form, **options)
        if file.tell() <= PICTURE_BYTES:
            break
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def load_picture(paths: Sequence[str], most_px: int) -> Image.Image | None:
    """The record's picture (ready, or four frames as a grid); None when unreadable.

    At most `most_px` wide and high, and near that: small ones are enlarged by a whole factor.
    """
    try:
        picture = grid.load_picture(paths)
    except (OSError, ValueError):
        return None
    factor = most_px // max(picture.size)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    return picture
