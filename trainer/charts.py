"""The pictures of a report as text: line charts, bars, the confusion matrix, embedded PNGs; and the CSS."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from trainer.grid import compose_grid
from trainer.metrics import UNREADABLE

PICTURE_PX = 480  # twice what a card shows, for sharp screens
PICTURE_BYTES = 80_000  # twelve of them, in base64, keep the page under 1.5 MB
MATRIX_ACTIONS = 12  # more columns than this nobody reads
SMOOTH_FROM = 60  # logged values; fewer are readable as they are
MARKERS = 200  # places on a curve that answer to the pointer

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def esc(value: object) -> str:
    """`value` as HTML text: escaped, on valid UTF-8, free of control characters: answers hold anything."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


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
            _cell(sum(row.get(p, 0) for p in predictions), total, predictions == {truth})
            for _, predictions in columns
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


def picture_uri(paths: Sequence[str]) -> str | None:
    """The record's picture (ready, or four frames as a grid) as a PNG data URI; None when unreadable."""
    try:
        images = []
        for path in paths:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        picture = images[0] if len(images) == 1 else compose_grid(images)
    except _PICTURE_ERRORS:
        return None
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode()


def _png(picture: Image.Image) -> bytes:
    """`picture` at most PICTURE_PX wide and high, small ones enlarged by a whole factor; lossy if need be."""
    factor = PICTURE_PX // max(picture.size)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
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


CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#191c20;--soft:#59616b;--line:#dfe3e8;
--hit:37,99,200;--miss:184,82,12;--accent:#2563c8;--wrong:#a8480a;--grey:#8b939d;--pale:#9dbcf0;--deep:#fff}*{
box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}main{
max-width:1040px;margin:0 auto;padding:32px 20px 64px}h1,h2,p,dl,dd,figure{margin:0}h1{font-size:30px;
line-height:1.2;letter-spacing:-.01em;overflow-wrap:anywhere}h2{font-size:17px;margin-bottom:14px}
header p:last-child{color:var(--soft);margin-top:6px;overflow-wrap:anywhere}header b{color:var(--ink)}
.eyebrow,.label{color:var(--soft);font-size:13px}.eyebrow{color:var(--accent);font-weight:600}section{
background:var(--card);border:1px solid var(--line);border-radius:10px;padding:22px 24px;margin-top:20px}
code,pre{font:12.5px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
unicode-bidi:isolate}pre{margin:0;padding:14px 16px;overflow:auto;background:var(--page);border-radius:8px}
.missing{color:var(--soft)}pre+p{margin-top:12px}.missing+pre{margin-top:12px}.hero{display:grid;
grid-template-columns:1fr 1fr;gap:20px 44px;align-items:center}.number{font-size:48px;font-weight:700;
line-height:1.2;letter-spacing:-.025em;white-space:nowrap}.number .from,.number .arrow{color:var(--grey);
font-weight:500}.arrow{margin:0 .22em}.from{color:var(--soft)}.bars{display:grid;
grid-template-columns:max-content 1fr;gap:12px 14px;align-items:center}.bars dt{max-width:150px;
overflow-wrap:anywhere}.bars dd{display:flex;gap:10px;align-items:center}.bars b{min-width:54px;
text-align:right}.track{position:relative;flex:1;height:22px;border-radius:4px;background:var(--page)}
.marked .track::after{content:"";position:absolute;left:var(--mark);top:-7px;bottom:-7px;
border-left:1.5px dashed var(--soft)}.bar{display:block;height:100%;min-width:2px;border-radius:4px}.majority{
background:var(--grey)}.before{background:var(--pale)}.after{background:var(--accent)}.tiles{display:grid;
grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px 20px;margin-top:22px;padding-top:18px;
border-top:1px solid var(--line)}.tiles dt{color:var(--soft);font-size:13px}.tiles dd{font-size:17px;
font-weight:600;white-space:nowrap}.tiles .from{font-weight:400}figcaption{color:var(--soft);font-size:13px;
margin-bottom:8px}figcaption b{color:var(--ink);font-size:14px;margin-right:6px}svg{display:block;width:100%;
height:auto;overflow:visible}svg text{font-size:11.5px;fill:var(--soft)}.end{text-anchor:end}.mid{
text-anchor:middle}.narrow{display:none}.grid{stroke:var(--line)}.axis{stroke:var(--grey)}.curve,.raw{
fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}.raw{opacity:.3;stroke-width:1}circle{
fill:var(--accent);opacity:0}circle:hover,circle:last-of-type{opacity:1}.pair{display:grid;
grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:24px 40px;margin:22px 0 0}.pair>*{
min-width:0}.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}caption{
text-align:left;font-weight:600;font-size:14px;margin-bottom:8px}th{font-weight:500;text-align:left}.name{
display:inline-block;max-width:110px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
vertical-align:bottom}.matrix{border-collapse:separate;border-spacing:2px;font-size:13px;width:100%}
.matrix thead th{text-align:center;padding:4px 1px;font-size:12px}.matrix tbody th{text-align:right;
padding-right:8px}.matrix td{min-width:36px;height:38px;text-align:center;border-radius:4px}.matrix .corner{
color:var(--soft);font-size:11.5px;font-weight:400;line-height:1.3;text-align:right;padding-right:8px;
white-space:nowrap}.hit{background:rgba(var(--hit),calc(var(--share)*.92 + .05))}.miss{
background:rgba(var(--miss),calc(var(--share)*.92 + .05))}.deep{color:var(--deep);font-weight:600}.hit.deep{
background:rgb(var(--hit))}.miss.deep{background:rgb(var(--miss))}.miss.none{background:var(--page);
color:var(--grey)}.matrix .total{color:var(--soft);font-weight:400}.scores{width:100%;margin-top:24px}
.scores th,.scores td{padding:7px 10px;text-align:right;border-top:1px solid var(--line)}.scores thead th{
color:var(--soft);font-size:13px;border:0;white-space:nowrap}.scores th:first-child{text-align:left;
padding-left:0}.strong{font-weight:600}.cards{display:grid;
grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:18px;margin-top:14px}.card{
border:1px solid var(--line);border-radius:8px;overflow:hidden;break-inside:avoid}.card.wrong{
border-color:var(--wrong)}.card img{display:block;width:100%;image-rendering:pixelated;background:var(--page)}
.gone{display:grid;place-items:center;aspect-ratio:1;background:var(--page);color:var(--soft);font-size:13px}
.card figcaption{margin:0;padding:10px 12px 12px;color:var(--ink)}.verdict{display:flex;gap:7px;
align-items:center;font-weight:600}.verdict svg{width:16px;height:16px}.verdict path{fill:none;
stroke:var(--card);stroke-width:2}.right .verdict{color:var(--accent)}.verdict circle{fill:var(--accent);
opacity:1}.wrong .verdict{color:var(--wrong)}.verdict rect{fill:var(--wrong)}.card dl{display:grid;
grid-template-columns:max-content 1fr;gap:0 10px;margin:5px 0}.card dt{color:var(--soft)}.card dd{
font-weight:600;overflow-wrap:anywhere}.answer,details{color:var(--soft);overflow-wrap:anywhere}details pre{
white-space:pre-wrap;max-height:220px;padding:8px;margin-top:6px}summary{cursor:pointer}.groups{
columns:2 340px;column-gap:44px}.settings{width:100%;margin-bottom:18px;break-inside:avoid}
.settings th,.settings td{padding:4px 0;border-top:1px solid var(--line);font-size:13.5px;vertical-align:top}
.settings th{color:var(--soft);padding-right:14px}.settings td{text-align:right;overflow-wrap:anywhere}
@media(max-width:680px){main{padding:20px 12px 40px}section{padding:18px 16px}.hero{grid-template-columns:1fr}
.number{font-size:38px}.wide{display:none}.narrow{display:block}.matrix td{min-width:36px;height:34px}.name{
max-width:70px}.cards{grid-template-columns:repeat(auto-fill,minmax(145px,1fr));gap:12px}.bars dt{
max-width:96px}.scores th,.scores td{padding:7px 4px;font-size:12.5px}.scores thead th{white-space:normal;
font-size:12px;line-height:1.2}}@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;
--card:#1d2126;--ink:#e8eaed;--soft:#a2abb6;--line:#333a42;--hit:74,138,240;--miss:226,118,40;
--accent:#6ea5f8;--wrong:#f2994f;--grey:#77808b;--pale:#40618f;--deep:#0c0f13}}@media print{body{
background:#fff;font-size:12px}main{padding:0;max-width:none}section{border:0;padding:0;margin-top:26px}*{
print-color-adjust:exact;-webkit-print-color-adjust:exact}figure,tr,.hero,.matrix{break-inside:avoid}h2{
break-after:avoid}}
"""
