"""Parts that all pages share: the format of values, the style, and the one script that their policy allows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from trainer.evaluation.metrics import interval, wilson
from trainer.flags import word
from trainer.report.charts import logged, matrix, ordered, percent, short, whole_percent
from trainer.report.samples import is_right, picture_uri, thumbnail_uri
from trainer.text import gib


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def flags_whole(command: str) -> Markup:
    """The command for a page, where a browser does not break a flag after one of its dashes."""
    return Markup(
        re.sub(r"(?<!\S)--?[A-Za-z][\w-]{,40}(?!\S)", r'<span class="flag">\g<0></span>', str(escape(command)))
    )


FILTERS: dict[str, Callable[..., object]] = {
    "duration": duration,
    "flags_whole": flags_whole,
    "gib": lambda size: f"{gib(size)} GiB",
    "interval": interval,
    "is_right": is_right,
    "logged": logged,
    "matrix": matrix,
    "median": median,
    "ordered": ordered,
    "percent": percent,
    "picture": picture_uri,
    "quoted": lambda text: json.dumps(text, ensure_ascii=False),
    "short": short,
    "thumbnail": thumbnail_uri,
    "two_digits": "{:.2f}".format,
    "whole_percent": whole_percent,
    "wilson": wilson,
    "word": word,
}
# Characters that HTML cannot hold, and marks that reverse the text behind them. Answers are a model's output and may
# hold anything, also half a surrogate pair.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@cache
def _templates(folder: Path) -> Environment:
    """The templates of `folder`, kept: compiling them takes longer than filling them in."""
    templates = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= FILTERS
    return templates


def render(template: str, **values: object) -> str:
    """A page from a template of this folder, with the style and the one script that its policy allows."""
    script = f"\n{Path(__file__).with_name('script.js').read_text(encoding='utf-8')}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = _templates(Path(__file__).parent).get_template(template).render(script=script, policy=policy, **values)
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", page.encode("utf-8", "replace").decode("utf-8"))
