"""The pictures of a report as text: line charts, bars, and the confusion matrix."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.metrics import UNREADABLE

MATRIX_ACTIONS = 12  # more columns than this nobody reads
SMOOTH_FROM = 60  # logged values; fewer are readable as they are
MARKERS = 200  # places on a curve that answer to the pointer

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Entry = Mapping[str, Any]


def missing(text: str) -> str:
    return f'<p class="missing">{text}</p>'


def esc(value: object) -> str:
    """`value` as HTML text: escaped, on valid UTF-8, free of control characters: answers hold anything."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def quoted(text: str) -> str:
    """`text` as a Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def percent(share: float) -> str:
    return f"{share:.1%}"


def rate(value: float) -> str:
    """A learning rate the way it is typed: 2e-4."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def short(value: float) -> str:
    """Three digits, with an exponent where it is shorter; "not a number" and infinities as they are."""
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e5:
        return rate(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    title: str
    unit: str
    points: Sequence[tuple[int, float]]
    """(step, value); a value that is not finite leaves a gap."""
    form: Callable[[float], str] = short
    top: float = 0.0
    """The axis reaches at least this value."""
    noisy: bool = True
    """Whether a long curve is drawn smoothed, with the values as logged faintly behind it."""

    @property
    def smoothed(self) -> bool:
        return self.noisy and len(self.points) >= SMOOTH_FROM


def nice_ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most `most` + 1 round numbers from at or below `low` to at or above `high`, evenly apart."""
    rough = (high - low) / most or 1.0
    rough = max(rough, 1.0) if whole else rough
    unit = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(unit * factor for factor in factors if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.6g}") for index in range(first, max(last, first + 1) + 1)]


def smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, centred so that nothing moves sideways; both ends stay."""
    half, last, means = max(1, len(values) // 30), len(values) - 1, []
    for index in range(len(values)):
        reach = min(half, index, last - index)
        means.append(sum(values[index - reach : index + reach + 1]) / (2 * reach + 1))
    return means


def line_chart(curve: Curve, *, width: int, height: int) -> str:
    """`curve` over the optimizer steps, as an SVG of `width` x `height` units; "" when no value is finite."""
    finite = [(step, value) for step, value in curve.points if math.isfinite(value)]
    if not finite:
        return ""
    values = [value for _, value in finite]
    left, right, top, bottom = 50, 14, 12, 38
    y_ticks = nice_ticks(min(0.0, *values), max(curve.top, *values) or 1.0, height // 45)
    x_end = max(step for step, _ in curve.points) or 1
    x_ticks = [t for t in nice_ticks(0, x_end, width // 80, whole=True) if t <= x_end]

    def x(step: float) -> str:
        return f"{left + step / x_end * (width - left - right):.1f}"

    def y(value: float) -> str:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return f"{height - bottom - share * (height - top - bottom):.1f}"

    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick)}" y2="{y(tick)}"/>')
        label = esc(curve.form(tick))
        parts.append(f'<text class="end" x="{left - 7}" y="{y(tick)}" dy=".33em">{label}</text>')
    base = height - bottom
    for tick in x_ticks:
        parts.append(f'<line class="axis" x1="{x(tick)}" x2="{x(tick)}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text class="mid" x="{x(tick)}" y="{base + 17}">{tick:,.0f}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="end" x="{width - right}" y="{height - 4}">optimizer step</text>')
    for run in _unbroken(curve.points):
        line = " ".join(f"{x(step)},{y(value)}" for step, value in run)
        parts.append(f'<polyline class="{"raw" if curve.smoothed else "curve"}" points="{line}"/>')
    if curve.smoothed:
        mean = zip(finite, smooth(values), strict=True)
        line = " ".join(f"{x(step)},{y(value)}" for (step, _), value in mean)
        parts.append(f'<polyline class="curve" points="{line}"/>')
    for step, value in {**dict(finite[:: -(-len(finite) // MARKERS)]), **dict(finite[-1:])}.items():
        label = f"step {step:,}: {esc(curve.form(value))}"
        parts.append(f'<circle cx="{x(step)}" cy="{y(value)}" r="4"><title>{label}</title></circle>')
    said = esc(f"{curve.title}, from {curve.form(values[0])} to {curve.form(values[-1])}")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _unbroken(points: Sequence[tuple[int, float]]) -> Iterator[list[tuple[int, float]]]:
    run: list[tuple[int, float]] = []
    for step, value in [*points, (0, math.nan)]:
        if math.isfinite(value):
            run.append((step, value))
        elif run:
            yield run
            run = []


def bars(rows: Sequence[tuple[str, str, float]], *, mark: float | None) -> str:
    """Horizontal bars from 0 to 100 %: (label, CSS class, share) each; a dashed line at `mark`."""
    style = "" if mark is None else f' style="--mark:{mark:.2%}"'
    cells = "".join(
        f'<dt><bdi>{esc(label)}</bdi></dt><dd><span class="track"><span class="bar {kind}" '
        f'style="width:{share:.2%}"></span></span><b>{percent(share)}</b></dd>'
        for label, kind, share in rows
    )
    return f'<dl class="bars{"" if mark is None else " marked"}"{style}>{cells}</dl>'


def matrix(confusion: Mapping[str, Mapping[str, int]], caption: str) -> str:
    """confusion[truth][prediction] as a table: shaded by the share of the row, right ones in blue."""
    known = list(confusion)[:MATRIX_ACTIONS]
    kept = {*known, UNREADABLE}
    answered = {prediction for row in confusion.values() for prediction, count in row.items() if count}
    # (heading, predictions counted under it)
    columns = [(_name(action), {action}) for action in known]
    columns += [("any other", answered - kept)] if answered - kept else []
    columns += [(_name(UNREADABLE), {UNREADABLE})] if UNREADABLE in answered else []
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in columns)
    body = ""
    for truth in known:
        row = confusion[truth]
        total = sum(row.values())
        cells = "".join(
            _cell(sum(row.get(p, 0) for p in predictions), total, predictions == {truth}) for _, predictions in columns
        )
        body += f'<tr><th scope="row">{_name(truth)}</th>{cells}<td class="total">{total}</td></tr>'
    left_out = len(confusion) - len(known)
    note = f" The {MATRIX_ACTIONS} most frequent of {len(confusion)} actions." if left_out else ""
    return (
        f'<div class="scroll"><table class="matrix"><caption>{esc(caption + note)}</caption><thead><tr>'
        f'<th class="corner">truth ↓<br>answer →</th>{head}<th class="total">all</th>'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _name(action: str) -> str:
    return f'<bdi class="name" title="{esc(action)}">{esc(action) or "(empty)"}</bdi>'


def _cell(count: int, total: int, right: bool) -> str:
    share = count / total if total else 0.0
    classes = ("hit" if right else "miss") + (" deep" if share > 0.7 else "") + ("" if count else " none")
    # The count itself stays readable without colour; the shade only guides the eye.
    tip = f"{percent(share)} of the row"
    return f'<td class="{classes}" style="--share:{share:.3f}" title="{tip}">{count}</td>'
