"""The part of the report that shows records: pictures with truth and answer, and code that makes one more."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from PIL import Image

from trainer.data.grid import compose_grid
from trainer.report.charts import Entry, esc, missing, quoted

SAMPLES = 12
ANSWER_CHARS = 2000
SHORT_ANSWER_CHARS = 60
SHOWN_PROBABILITIES = 3
PICTURE_PX = 480  # twice what a card shows, for sharp screens
PICTURE_BYTES = 80_000  # twelve of them, in base64, keep the page under 1.5 MB
_PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def samples(predictions: Sequence[Entry]) -> str:
    if not predictions:
        return missing("No answers to show: <code>predictions.jsonl</code> is missing or empty.")
    chosen = choose_samples(predictions)
    wrong = sum(not _is_right(p) for p in predictions)
    frames = any(len(p.get("images") or []) == 4 for p in chosen)
    order = " Four frames a picture, oldest top left, newest bottom right." if frames else ""
    return (
        f"<p>{len(chosen)} of {len(predictions):,} answers, of which {wrong:,} are wrong; "
        f"wrong ones come first here.{order}</p>"
        f'<div class="cards">{"".join(_card(p) for p in chosen)}</div>'
    )


def choose_samples(predictions: Sequence[Entry]) -> list[Entry]:
    """At most SAMPLES: half wrong and half right where there are enough of both, true actions by turns."""
    wrong = _take_turns(p for p in predictions if not _is_right(p))
    right = _take_turns(p for p in predictions if _is_right(p))
    most_wrong = max(SAMPLES // 2, SAMPLES - len(right))
    chosen = wrong[:most_wrong]
    return chosen + right[: SAMPLES - len(chosen)]


def _take_turns(predictions: Iterable[Entry]) -> list[Entry]:
    by_truth: dict[str, list[Entry]] = {}
    for prediction in predictions:
        by_truth.setdefault(str(prediction["truth"]), []).append(prediction)
    return [p for p in chain.from_iterable(zip_longest(*by_truth.values())) if p is not None]


def _is_right(prediction: Entry) -> bool:
    return prediction["truth"] == prediction.get("prediction")


def _card(prediction: Entry) -> str:
    uri = picture_uri([str(path) for path in prediction.get("images") or []])
    said, answer = prediction.get("prediction"), str(prediction.get("answer") or "")
    verdict = "right" if _is_right(prediction) else "wrong"
    # Shape and word besides the colour: a tick in a disc, a cross in a square.
    shape = {
        "right": '<circle cx="8" cy="8" r="8"/><path d="M4.5 8.3l2.4 2.4 4.6-5"/>',
        "wrong": '<rect width="16" height="16" rx="2"/><path d="M5 5l6 6M11 5l-6 6"/>',
    }[verdict]
    image = f'<img src="{uri}" alt="the input picture">' if uri else '<p class="gone">picture not found</p>'
    shown = esc(answer[:ANSWER_CHARS] + ("…" if len(answer) > ANSWER_CHARS else "")) or "(no text)"
    if "answer" not in prediction and "probabilities" in prediction:
        ranked = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])[:SHOWN_PROBABILITIES]
        shown = esc(", ".join(f"{action} {share:.0%}" for action, share in ranked))
    whole = f'<p class="answer"><code>{shown}</code></p>'
    if len(answer) > SHORT_ANSWER_CHARS or "\n" in answer:
        whole = f"<details><summary>Whole answer</summary><pre>{shown}</pre></details>"
    return (
        f'<figure class="card {verdict}">{image}<figcaption><p class="verdict"><svg viewBox="0 0 16 16" '
        f'aria-hidden="true">{shape}</svg>{verdict}</p><dl><dt>truth</dt><dd><bdi>{esc(prediction["truth"])}</bdi></dd>'
        f"<dt>model</dt><dd><bdi>{'unreadable' if said is None else esc(said)}</bdi></dd></dl>{whole}"
        "</figcaption></figure>"
    )


def picture_uri(paths: Sequence[str]) -> str | None:
    """The record's picture as a PNG data URI; None when unreadable."""
    picture = load_picture(paths, PICTURE_PX)
    return picture and "data:image/png;base64," + base64.b64encode(_png(picture)).decode()


def load_picture(paths: Sequence[str], most_px: int) -> Image.Image | None:
    """The record's picture (ready, or four frames as a grid); None when unreadable.

    At most `most_px` wide and high, and near that: small ones are enlarged by a whole factor.
    """
    try:
        images = []
        for path in paths:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        picture = images[0] if len(images) == 1 else compose_grid(images)
    except _PICTURE_ERRORS:
        return None
    factor = most_px // max(picture.size)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    return picture


def _png(picture: Image.Image) -> bytes:
    """Lossy, or smaller, until it is no more than PICTURE_BYTES."""
    data = b""
    for largest_px, colors in ((PICTURE_PX, None), (PICTURE_PX, 256), (360, 256), (240, 128), (160, 64)):
        smaller = picture.copy()
        smaller.thumbnail((largest_px, largest_px), Image.Resampling.LANCZOS)
        if colors:
            smaller = smaller.quantize(colors)
        file = io.BytesIO()
        smaller.save(file, "PNG", optimize=True)
        if len(data := file.getvalue()) <= PICTURE_BYTES:
            break
    return data


def usage(run_dir: Path, config: Entry, predictions: Sequence[Entry]) -> str:
    model = str(config.get("model") or "the base model")
    if Path(model).is_dir():
        model = str(Path(model).absolute())
    recorded = predictions[0].get("images") if predictions else None
    images = [str(path) for path in recorded or ["picture.png"]]
    grid = len(images) == 4
    picture = [f'picture = Image.open({quoted(images[0])}).convert("RGB")']
    if grid:
        picture = ["picture = compose_grid([", *(f"    Image.open({quoted(p)})," for p in images), "])"]
    code = "\n".join(
        (
            "from peft import PeftModel",
            "from PIL import Image",
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            *(("", "from trainer.data.grid import compose_grid  # of this repository") if grid else ()),
            "",
            f"adapter = {quoted(str(run_dir.absolute() / 'adapter'))}",
            f"name = {quoted(model)}",
            'base = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", device_map="auto")',
            "model = PeftModel.from_pretrained(base, adapter).eval()",
            "processor = AutoProcessor.from_pretrained(adapter)",
            "",
            *picture,
            'prompt = "context, an empty line, question"  # as in the training records',
            'content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]',
            "inputs = processor.apply_chat_template(",
            '    [{"role": "user", "content": content}],',
            '    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",',
            ").to(model.device, model.dtype)",
            "tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
            'print(processor.decode(tokens[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
        )
    )
    there = (run_dir / "adapter").is_dir()
    lacking = "" if there else missing("This run has no <code>adapter</code> folder yet.")
    note = ""
    if config.get("quantization") == "nf4":
        note = "<p>Scored with the base in 4 bits (NF4); unquantized, answers can differ a little.</p>"
    return f"{lacking}<pre>{esc(code)}</pre>{note}"
