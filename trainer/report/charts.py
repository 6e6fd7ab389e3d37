"""What a report draws, as plain data: line charts in a square of 100 x 100 units, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trainer.data.answers import UNREADABLE

MATRIX_ACTIONS = 12  # more columns than this nobody reads
SMOOTH_FROM = 60  # logged values; fewer are readable as they are
MARKERS = 200  # places on a curve that answer to the pointer

Entry = Mapping[str, Any]
Confusion = Mapping[str, Mapping[str, int]]
"""confusion[truth][prediction], every row with the same predictions."""
Points = Sequence[tuple[int, float]]
percent = "{:.1%}".format


def short(value: float) -> str:
    """Three digits, with an exponent the way a learning rate is typed (2e-4) where it is shorter; "not a number" and
    infinities as they are."""
    if value and math.isfinite(value) and not 1e-2 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


# (title, unit, key in the history, form of a value, what the axis reaches at least, drawn smoothed where it is long)
CURVES: tuple[tuple[str, str, str, Callable[[float], str], float, bool], ...] = (
    ("Loss", "mean cross-entropy an answer token, nats", "loss", short, 0, True),
    ("Action accuracy", "held-out records, base model at step 0", "eval_action_accuracy", "{:.0%}".format, 1, False),
    ("Held-out loss", "mean cross-entropy, nats", "eval_loss", short, 0, False),
    ("Token accuracy", "answer tokens right", "mean_token_accuracy", "{:.0%}".format, 1, True),
    ("Learning rate", "warm-up, then cosine", "learning_rate", short, 0, False),
)


def logged(record: Entry, key: str) -> Points:
    """(step, value) of everything logged under `key`."""
    entries = [entry for entry in record.get("history") or [] if key in entry and "step" in entry]
    return [(entry["step"], math.nan if entry[key] is None else float(entry[key])) for entry in entries]


def line_charts(record: Entry) -> list[Entry]:
    """What was logged on the way, a chart a curve."""
    charts: list[Entry] = []
    before = record.get("before")
    for title, unit, key, form, top, noisy in CURVES:
        points = logged(record, key)
        if len(points) < (2 if key.startswith("eval_") else 1):
            continue  # one evaluation is no curve, and its numbers stand above
        if key == "eval_action_accuracy" and before:
            points = [(0, before["accuracy"]), *points]
        charts.append({"title": title, "unit": unit, **draw(points, form=form, top=top, noisy=noisy)})
    return charts


def draw(points: Points, *, form: Callable[[float], str] = short, top: float = 0, noisy: bool = False) -> Entry:
    """`points`, (optimizer step, value) each, as paths, ticks and dots; a value that is not finite leaves a gap.

    The axis reaches `top` at least. Where a `noisy` curve is long, the values as logged come first, to be drawn
    faintly, then their means.
    """
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    values = [value for _, value in finite]
    y_ticks = nice_ticks(min([0.0, *values]), max([top, *values]) or 1.0, 5)
    x_end = max(step for step, _ in points) or 1
    x_ticks = [tick for tick in nice_ticks(0, x_end, 6) if tick <= x_end and tick.is_integer()]

    def x(step: float) -> float:
        return round(100 * step / x_end, 2)

    def y(value: float) -> float:
        return round(100 * (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0]), 2)

    def path(series: Iterable[tuple[int, float]]) -> str:
        words, drawing = [], False
        for step, value in series:
            if math.isfinite(value):
                # h0 makes a dot of a value that stands alone.
                words.append(f"L{x(step):g} {y(value):g}" if drawing else f"M{x(step):g} {y(value):g}h0")
            drawing = math.isfinite(value)
        return "".join(words)

    smoothed = noisy and len(points) >= SMOOTH_FROM
    means = [path(zip((step for step, _ in finite), smooth(values), strict=True))] if smoothed else []
    marked = {**dict(finite[:: -(-len(finite) // MARKERS) or 1]), **dict(finite[-1:])}
    return {
        "lines": [path(points), *means],
        "dots": [(x(step), y(value), f"step {step:,}: {form(value)}") for step, value in marked.items()],
        "x_ticks": [(x(tick), f"{tick:,.0f}") for tick in x_ticks],
        "y_ticks": [(y(tick), form(tick)) for tick in y_ticks],
        "ends": [form(value) for value in (*values[:1], *values[-1:])],
        "logged": len(points),
        "broken": [step for step, value in points if not math.isfinite(value)],
    }


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers from at or below `low` to at or above `high`, evenly apart."""
    rough = (high - low) / most or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.6g}") for index in range(first, max(last, first + 1) + 1)]


def smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, centred so that nothing moves sideways; both ends stay."""
    half, last, means = max(1, len(values) // 30), len(values) - 1, []
    for index in range(len(values)):
        reach = min(half, index, last - index)
        means.append(sum(values[index - reach : index + reach + 1]) / (2 * reach + 1))
    return means


def matrix(confusion: Confusion) -> Entry:
    """As a table: `columns`, the names of answers; `rows`, (truth, (count, right?) under
    each column, total) of the most frequent actions; `actions`, how many there are in all."""
    known = list(confusion)[:MATRIX_ACTIONS]
    answered = {prediction for row in confusion.values() for prediction, count in row.items() if count}
    # (heading, predictions counted under it)
    columns = [(action, {action}) for action in known]
    columns += [("any other", other)] if (other := answered - {*known, UNREADABLE}) else []
    columns += [(UNREADABLE, {UNREADABLE})] if UNREADABLE in answered else []
    rows = []
    for truth in known:
        row = confusion[truth]
        cells = [(sum(row.get(p, 0) for p in counted), counted == {truth}) for _, counted in columns]
        rows.append((truth, cells, sum(row.values())))
    return {"columns": [name for name, _ in columns], "rows": rows, "actions": len(confusion)}
