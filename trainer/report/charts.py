"""The charts of a page as plain data: line charts in a square of 100 x 100 units, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.data.answers import UNREADABLE
from trainer.evaluation.metrics import wilson

MATRIX_ACTIONS = 12  # nobody reads more columns
SMOOTH_FROM = 60  # logged values; fewer are readable without smoothing
MARKERS = 200  # places on a curve that react to the pointer
LOG_FROM = 20  # ratio of the largest to the smallest value; below it a linear axis shows everything

Entry = Mapping[str, Any]
Confusion = Mapping[str, Mapping[str, int]]
"""confusion[truth][prediction], every row with the same predictions."""
Points = Sequence[tuple[int, float]]
percent = "{:.1%}".format
whole_percent = "{:.0%}".format


def short(value: float) -> str:
    """Three digits, with an exponent as in a typed learning rate (2e-4) when that is shorter; NaN and infinities
    unchanged."""
    if value and math.isfinite(value) and not 1e-2 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


class Series(NamedTuple):
    """One curve of a chart."""

    label: str
    key: str
    """The name of the values in the history."""
    noisy: bool = False
    """Whether a long curve is smoothed."""


class Chart(NamedTuple):
    title: str
    unit: str
    series: tuple[Series, ...]
    form: Callable[[float], str] = short
    top: float = 0
    """The least value at the top of the axis."""
    log: bool = False
    """Whether the axis is logarithmic when the values are far apart."""
    marked: bool = False
    """Whether the chart shows which step was kept."""


CHARTS = (
    Chart("Loss", "mean cross-entropy an answer token, nats",
          (Series("training", "loss", noisy=True), Series("held out", "eval_loss")), log=True, marked=True),
    Chart("Action accuracy", "held-out records, the base model at step 0; shaded: 95 % interval",
          (Series("held out", "eval_action_accuracy"),), form=whole_percent, top=1, marked=True),
    Chart("Token accuracy", "answer tokens of training that were predicted",
          (Series("training", "mean_token_accuracy", noisy=True),), form=whole_percent, top=1),
    Chart("Learning rate", "warm-up, then cosine", (Series("learning rate", "learning_rate"),)),
    Chart("Gradient norm", "before clipping", (Series("gradient norm", "grad_norm", noisy=True),), log=True),
    Chart("Speed", "records a second, evaluations left out",
          (Series("records a second", "samples_per_second", noisy=True),)),
    Chart("Memory", "GiB of the first process",
          (Series("most allocated", "gpu_peak_allocated_gib"), Series("most reserved", "gpu_peak_reserved_gib"),
           Series("resident (RSS)", "resident_gib"))),
)  # fmt: skip


def logged(record: Entry, key: str) -> Points:
    """(step, value) of all values logged under `key`."""
    entries = [entry for entry in record.get("history") or [] if key in entry and "step" in entry]
    return [(entry["step"], math.nan if entry[key] is None else float(entry[key])) for entry in entries]


def line_charts(record: Entry) -> list[Entry]:
    """One chart for each of CHARTS that has logged values."""
    charts: list[Entry] = []
    for chart in CHARTS:
        curves = [
            (series.label, points, series.noisy) for series in chart.series if (points := _points(record, series))
        ]
        if not curves:
            continue
        accuracy = chart.series[0].key == "eval_action_accuracy"
        answers = ((record.get("after") or record.get("before") or {}).get("samples") or 0) if accuracy else 0
        kept = record.get("step") if chart.marked else None
        drawn = draw(curves, form=chart.form, top=chart.top, log=chart.log, mark=kept, answers=answers)
        charts.append({"title": chart.title, "unit": chart.unit, "rises": chart.top > 0, **drawn})
    return charts


def _points(record: Entry, series: Series) -> Points:
    points = logged(record, series.key)
    if series.key.startswith("eval_") and len(points) < 2:
        return ()  # one evaluation is no curve, and the page shows its numbers above
    if series.key == "eval_action_accuracy" and (before := record.get("before")):
        return [(0, before["accuracy"]), *points]
    return points


def draw(
    curves: Sequence[tuple[str, Points, bool]],
    *,
    form: Callable[[float], str] = short,
    top: float = 0,
    log: bool = False,
    mark: int | None = None,
    answers: int = 0,
) -> Entry:
    """`curves`, each with its label, its points (optimizer step, value) and whether it is noisy, as paths, ticks and
    dots on one pair of axes; a value that is not finite leaves a gap.

    The axis reaches `top` at least; with `log` it is logarithmic when the values are far apart. For a long noisy
    curve the logged values come first, to be drawn faintly, then their means. `mark` is a step to point out. With
    `answers` the values are shares of so many answers, and their 95 % intervals become a band.
    """
    points = [point for _, given, _ in curves for point in given]
    values = [value for _, value in points if math.isfinite(value)]
    log = log and bool(values) and min(values) > 0 and max(values) >= LOG_FROM * min(values)
    y_ticks = log_ticks(min(values), max(values)) if log else nice_ticks(min([0.0, *values]), max([top, *values]), 5)
    x_end = max((step for step, _ in points), default=0) or 1
    x_ticks = [tick for tick in nice_ticks(0, x_end, 6) if tick <= x_end and tick.is_integer()]
    scale = math.log if log else float
    low, high = scale(y_ticks[0]), scale(y_ticks[-1])

    def x(step: float) -> float:
        return round(100 * step / x_end, 2)

    def y(value: float) -> float:
        return round(100 * (high - scale(value)) / (high - low), 2)

    def path(series: Iterable[tuple[int, float]]) -> str:
        words, drawing = [], False
        for step, value in series:
            if math.isfinite(value):
                # h0 draws a dot for a single value.
                words.append(f"L{x(step):g} {y(value):g}" if drawing else f"M{x(step):g} {y(value):g}h0")
            drawing = math.isfinite(value)
        return "".join(words)

    lines: list[tuple[str, int, str]] = []
    dots: list[tuple[int, float, float, str]] = []
    for place, (label, given, noisy) in enumerate(curves):
        finite = [(step, value) for step, value in given if math.isfinite(value)]
        smoothed = noisy and len(given) >= SMOOTH_FROM
        lines.append(("raw" if smoothed else "curve", place, path(given)))
        if smoothed:
            means = smooth([value for _, value in finite])
            lines.append(("curve", place, path(zip((step for step, _ in finite), means, strict=True))))
        marked = {**dict(finite[:: -(-len(finite) // MARKERS) or 1]), **dict(finite[-1:])}
        named = f"{label}, " if len(curves) > 1 else ""
        dots += [(place, x(step), y(value), f"{named}step {step:,}: {form(value)}") for step, value in marked.items()]
    known = [(label, [v for _, v in given if math.isfinite(v)]) for label, given, _ in curves]
    return {
        "lines": lines,
        "band": _band(points, answers, x, y),
        "dots": dots,
        "x_ticks": [(x(tick), f"{tick:,.0f}") for tick in x_ticks],
        "y_ticks": [(y(tick), form(tick)) for tick in y_ticks],
        "mark": (x(mark), f"step {mark:,} is kept") if type(mark) is int and 0 <= mark <= x_end else None,
        "labels": [label for label, _, _ in curves],
        "ends": [(label, form(found[0]), form(found[-1])) for label, found in known if found],
        "log": log,
        "logged": len(points),
        "broken": [step for step, value in points if not math.isfinite(value)],
    }


def _band(points: Points, answers: int, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """An outline around the 95 % intervals of the points, as shares of `answers`; "" for other values."""
    shares = [(step, share) for step, share in points if math.isfinite(share)]
    if not answers or len(shares) < 2:
        return ""
    around = [(step, *wilson(share, answers)) for step, share in shares]
    over = [f"{x(step):g} {y(high):g}" for step, _, high in around]
    under = [f"{x(step):g} {y(low):g}" for step, low, _ in reversed(around)]
    return f"M{'L'.join([*over, *under])}Z"


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers from at or below `low` to at or above `high`, evenly apart."""
    rough = (high - low) / most or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.6g}") for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from at or below `low` to at or above `high`; if there are many, every second, third, ..."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    every = -(-(last - first) // 5) or 1
    last += -(last - first) % every
    return [float(f"1e{power}") for power in range(first, last + 1, every)]


def smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, centred so that no peak moves sideways; both ends stay unchanged."""
    half, last, means = max(1, len(values) // 30), len(values) - 1, []
    for index in range(len(values)):
        reach = min(half, index, last - index)
        means.append(sum(values[index - reach : index + reach + 1]) / (2 * reach + 1))
    return means


def ordered(confusion: Confusion, order: Sequence[str] = ()) -> list[str]:
    """The true actions: first those in `order`, in that order, then the others, most frequent first."""
    return [*(action for action in order if action in confusion), *(a for a in confusion if a not in order)]


def matrix(confusion: Confusion, order: Sequence[str] = (), allowed: Collection[str] | None = None) -> Entry:
    """The table of a confusion matrix: `columns`, (name of an answer, whether it is allowed) each; `rows`, (truth,
    (count, whether right) under each column, total) of the most frequent actions; `actions`, how many there are in
    all.

    `order` is the order of the true actions, as far as they occur. An answer that is no true action has a column too,
    while there is room. Without `allowed` every answer is allowed.
    """
    known = ordered(confusion, order)[:MATRIX_ACTIONS]
    answered = {prediction for row in confusion.values() for prediction, count in row.items() if count}
    beyond = sorted(answered - {*known, UNREADABLE})
    room = MATRIX_ACTIONS - len(known)
    own, folded = (beyond, []) if len(beyond) <= room else (beyond[: max(0, room - 1)], beyond[max(0, room - 1) :])
    # (heading, predictions counted under it)
    columns = [(action, {action}) for action in (*known, *own)]
    columns += [("any other", set(folded))] if folded else []
    columns += [(UNREADABLE, {UNREADABLE})] if UNREADABLE in answered else []
    rows = []
    for truth in known:
        row = confusion[truth]
        cells = [(sum(row.get(p, 0) for p in counted), counted == {truth}) for _, counted in columns]
        rows.append((truth, cells, sum(row.values())))
    headings = [(name, allowed is None or name not in own or name in allowed) for name, _ in columns]
    return {"columns": headings, "rows": rows, "actions": len(confusion)}
