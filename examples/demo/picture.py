"""The report of a finished run as one picture, for a page that cannot show HTML.

    .venv/cpu/bin/python -m examples.demo.picture demo/runs/demo >docs/report.svg

Every number is read from the run's metrics.json, and the curves are those of the report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainer.outcome import FINISHED, ConfigError
from trainer.report.charts import line_charts, matrix, percent

WIDTH, HEIGHT = 860, 580
SHOWN_CURVES = ("Loss", "Token accuracy")
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222 }
  .title { font-size: 20px; font-weight: 600 } .head { font-weight: 600 } .faint { fill: #666; font-size: 12px }
  .mid { text-anchor: middle } .end { text-anchor: end }
  .grid { stroke: #ddd; fill: none } .curve { stroke: #1f6feb; stroke-width: 2; fill: none }
  .grid, .curve { vector-effect: non-scaling-stroke }
"""


def main(argv: Sequence[str]) -> int:
    if len(argv) != 1:
        raise ConfigError("picture takes one finished run: python -m examples.demo.picture demo/runs/demo")
    sys.stdout.write(picture(json.loads(Path(argv[0], "metrics.json").read_text(encoding="utf-8"))))
    return FINISHED


def picture(record: dict[str, Any]) -> str:
    """An SVG of `record`, a run's metrics.json: accuracy, two curves, the confusion matrix before and after."""
    before, after = record["before"], record["after"]
    charts = [chart for chart in line_charts(record) if chart["title"] in SHOWN_CURVES]
    title = f"Action accuracy {percent(after['accuracy'])}, before training {percent(before['accuracy'])}"
    beside = (
        f"{after['samples']} held-out records; always answering {after['majority']}: "
        f"{percent(after['majority_accuracy'])}; macro F1 {after['macro_f1']:.2f}, before {before['macro_f1']:.2f}"
    )
    parts = [
        _text(30, 42, title, "title"),
        _text(30, 66, beside, "faint"),
        *(_chart(chart, x=80 + 420 * place, y=120) for place, chart in enumerate(charts)),
        _matrix(before["confusion"], "Before training", x=80, y=390),
        _matrix(after["confusion"], "After training", x=500, y=390),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">\n'
        f'<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _chart(chart: dict[str, Any], *, x: int, y: int, width: int = 300, height: int = 180) -> str:
    """A curve of the report, which draws in a square of 100 units."""
    scale = f'transform="translate({x} {y}) scale({width / 100} {height / 100})"'
    lines = [f'<path class="grid" d="M0 {at}H100"/>' for at, _ in chart["y_ticks"]]
    lines.append(f'<path class="curve" d="{chart["lines"][-1][2]}"/>')
    return "\n".join(
        [
            _text(x, y - 18, chart["title"], "head"),
            f"<g {scale}>{''.join(lines)}</g>",
            *(_text(x - 8, y + at * height / 100 + 4, label, "faint end") for at, label in chart["y_ticks"]),
            *(_text(x + at * width / 100, y + height + 18, label, "faint mid") for at, label in chart["x_ticks"]),
            _text(x + width / 2, y + height + 36, "optimizer step", "faint mid"),
        ]
    )


def _matrix(confusion: dict[str, dict[str, int]], title: str, *, x: int, y: int) -> str:
    """Truths in rows, answers in columns; the shade is the share of the row."""
    table, wide, high = matrix(confusion), 50, 26
    parts = [_text(x, y, title, "head"), _text(x + 110, y, "rows: truth, columns: answer", "faint")]
    parts += [_text(x + wide * n + 25, y + 26, name, "faint mid") for n, (name, _) in enumerate(table["columns"])]
    for row, (truth, cells, total) in enumerate(table["rows"]):
        top = y + 34 + high * row
        parts.append(_text(x - 8, top + 17, truth, "faint end"))
        for column, (count, right) in enumerate(cells):
            if count:
                parts.append(
                    f'<rect x="{x + wide * column}" y="{top}" width="{wide - 2}" height="{high - 2}" '
                    f'fill="{"#2da44e" if right else "#cf222e"}" fill-opacity="{0.1 + 0.5 * count / total:.3f}"/>'
                )
            parts.append(_text(x + wide * column + 24, top + 17, str(count), "mid"))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
