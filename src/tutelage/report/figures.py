"""Charts as small hand-written SVG: they take their colours from the page, so light, dark and print share one copy.

Drawing is a pure function of the report, so the same report gives the same bytes. Every chart stands in a figure with a
caption that states n and seeds, and is followed by its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tutelage.report import numbers
from tutelage.report.markup import Safe, join, tag
from tutelage.report.measure import judged_by

WIDTH = 520
_SIDE = 18  # keeps the first and last tick label inside the picture


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)

    def ticks(self, target: int = 5) -> list[float]:
        """Round numbers inside the scale, about `target` of them."""
        raw = (self.high - self.low) / target
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 10) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def padded(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale that holds all values with some air on both sides."""
    low, high = min(values), max(values)
    air = (high - low) * margin or max(abs(high) * 0.05, 1e-3)
    return Scale(low - air, high + air, start, end)


def colour(report: Mapping[str, Any], name: str) -> str:
    """The CSS class that paints a model in the same colour everywhere."""
    roles = {model["name"]: model["role"] for model in report["models"] if model["role"] != "compressed"}
    names = list(roles)
    if name not in roles:  # a compressed file looks like the arm it was made from
        return colour(report, next(model["of"] for model in report["models"] if model["name"] == name))
    if roles[name] in ("teacher", "baseline"):
        return f"m-{roles[name]}"
    others = [other for other in names if roles[other] not in ("teacher", "baseline")]
    return f"m-{others.index(name) % 5}"


def legend(report: Mapping[str, Any], names: Sequence[str]) -> Safe:
    """Names with their colours, as text of the page, so that it wraps on a phone."""
    return tag("p", [tag("span", name, class_=f"key {colour(report, name)}") for name in names], class_="legend")


def forest(report: Mapping[str, Any]) -> Safe:
    """Paired differences with both intervals: seeds thick, test examples thin, single seeds as rings."""
    items = report["comparisons"]
    ends = [0.0]
    for item in items:
        ends += [gain["difference"] for gain in item["per_seed"]]
        ends += [edge for kind in ("by_seed", "by_example") if item[kind] for edge in _ends(item[kind])]
    scale = padded(ends, _SIDE, WIDTH - _SIDE)
    digits, height = _digits(scale.ticks()), 84 * len(items) + 42
    parts = _x_axis(scale, height, lambda v: numbers.points(v, digits, unit=False), "pp, better →")
    parts.append(tag("line", x1=scale(0), x2=scale(0), y1=30, y2=height - 34, class_="zero"))
    for row, item in enumerate(items):
        parts += _gain(scale, item, 84 * row, colour(report, item["name"]))
    return svg(height, "Difference between each student and its baseline", parts)


def _gain(scale: Scale, item: Mapping[str, Any], top: float, paint: str) -> list[Safe]:
    """One row of the forest: the interval that decides comes first."""
    difference = item["difference"]
    amount = numbers.points(difference["value"], numbers.decimals(difference))
    words = f"{amount} ({numbers.points_interval(difference)})"
    parts = [
        tag("text", _short(f"{item['name']} − {item['against']}"), x=_SIDE, y=top + 20, class_="name halo"),
        tag("text", words, x=WIDTH - _SIDE, y=top + 20, text_anchor="end", class_="halo"),
    ]
    kinds = [item[kind] for kind in ("by_seed", "by_example") if item[kind] is not None]
    for line, estimate in enumerate(kinds):
        parts += _range(scale, estimate, top + 46 + 22 * line, f"{'thin' if line else 'thick'} {paint}")
    parts += [dot(scale(gain["difference"]), top + 46, 3.2, f"open {paint}") for gain in item["per_seed"]]
    return [*parts, _diamond(scale(difference["value"]), top + 46, paint)]


def strip(report: Mapping[str, Any]) -> Safe:
    """Test accuracy of every single run; a line joins one student's arms of one seed."""
    arms = [model for model in report["models"] if model["role"] not in ("teacher", "compressed")]
    teacher = report["models"][0]["metrics"]["accuracy"]["value"]
    values = {arm["name"]: {run["seed"]: run["metrics"]["accuracy"] for run in arm["runs"]} for arm in arms}
    scale = padded([teacher, *(v for runs in values.values() for v in runs.values())], _SIDE + 6, WIDTH - _SIDE - 6)
    height = 64 * len(arms) + 46
    middle = {arm["name"]: 64 * row + 46 for row, arm in enumerate(arms)}
    count = len(report["seeds"])  # every seed has a lane of its own, so that equal values do not hide each other
    lane = {seed: round((row - (count - 1) / 2) * min(5.0, 18 / count), 2) for row, seed in enumerate(report["seeds"])}
    digits = _digits(scale.ticks())
    parts = _x_axis(scale, height, lambda v: f"{v * 100:.{digits}f}", "%")
    parts.append(tag("line", x1=scale(teacher), x2=scale(teacher), y1=8, y2=height - 34, class_="reference m-teacher"))
    for upper, lower in pairwise(arms):
        if upper["student"] != lower["student"]:
            continue
        a, b = values[upper["name"]], values[lower["name"]]
        y1, y2 = middle[upper["name"]], middle[lower["name"]]
        parts += [
            tag("line", x1=scale(a[s]), y1=y1 + lane[s], x2=scale(b[s]), y2=y2 + lane[s], class_="pair")
            for s in sorted(a.keys() & b.keys())
        ]
    for arm in arms:
        name, paint, y = arm["name"], colour(report, arm["name"]), middle[arm["name"]]
        mean = scale(arm["metrics"]["accuracy"]["value"])
        parts += [
            tag("text", _short(name, 44), x=_SIDE, y=y - 20, class_="name halo"),
            tag("line", x1=mean, x2=mean, y1=y - 12, y2=y + 12, class_=f"mean {paint}"),
            *(dot(scale(value), y + lane[seed], 4.6, f"seed {paint}") for seed, value in values[name].items()),
        ]
    return svg(height, f"{judged_by(report)} of every seed", parts)


def curves(report: Mapping[str, Any], metric: str, *, share: bool) -> Safe:
    """One number of the training log over epochs: the mean over seeds, and the span from least to greatest."""
    by_arm = report["curves"][metric]
    reference = report["teacher_val_accuracy"] if metric == "val_accuracy" else None
    points = [point for series in by_arm.values() for point in series]
    values = [edge for point in points for edge in (point["low"], point["high"])]
    if share:  # the first epochs are steep and would press everything that matters against the top
        values = [value for value in values if value >= _floor(by_arm)]
    height, left = 268, 46
    y = padded([*values, *([] if reference is None else [reference])], height - 40, 12)
    epochs = [point["epoch"] for point in points]
    x = Scale(min(epochs), max(max(epochs), min(epochs) + 1), left + 6, WIDTH - _SIDE)
    parts: list[Safe] = []
    digits = _digits(y.ticks(4))
    for value in y.ticks(4):
        text = f"{value * 100:.{digits}f}" if share else f"{value:g}"
        parts.append(tag("line", x1=left, x2=WIDTH - 6, y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", text, x=left - 8, y=y(value) + 4, text_anchor="end"))
    parts += [
        tag("text", f"{tick:g}", x=x(tick), y=height - 18, text_anchor="middle")
        for tick in x.ticks(6)
        if float(tick).is_integer()
    ]
    parts.append(tag("text", "epoch", x=WIDTH - 6, y=height - 2, text_anchor="end", class_="unit"))
    if reference is not None:
        parts.append(tag("line", x1=left, x2=WIDTH - 6, y1=y(reference), y2=y(reference), class_="reference m-teacher"))
    # Steep first epochs run out of the picture at its lower edge.
    frame = tag("rect", x=left, y=0, width=WIDTH - left, height=height - 36)
    parts.append(tag("clipPath", frame, id=f"frame-{metric}"))
    lines = [_curve(series, x, y, colour(report, name)) for name, series in by_arm.items()]
    parts.append(tag("g", lines, clip_path=f"url(#frame-{metric})"))
    return svg(height, f"{metric} by epoch", parts)


def _floor(by_arm: Mapping[str, Sequence[Mapping[str, float]]]) -> float:
    """The least value worth showing: what the worst arm had reached after a quarter of its epochs."""
    return min(series[len(series) // 4]["low"] for series in by_arm.values())


def _curve(series: Sequence[Mapping[str, float]], x: Scale, y: Scale, paint: str) -> Safe:
    """A line with its band."""
    line = [f"{x(point['epoch'])},{y(point['mean'])}" for point in series]
    upper = [f"{x(point['epoch'])},{y(point['high'])}" for point in series]
    lower = [f"{x(point['epoch'])},{y(point['low'])}" for point in reversed(series)]
    return join(
        tag("polygon", points=" ".join(upper + lower), class_=f"band {paint}"),
        tag("polyline", points=" ".join(line), class_=f"curve {paint}"),
        dot(x(series[-1]["epoch"]), y(series[-1]["mean"]), 3.5, f"seed {paint}"),
    )


def svg(height: float, label: str, parts: Sequence[object]) -> Safe:
    return tag("svg", tag("title", label), parts, viewBox=f"0 0 {WIDTH} {height}", role="img", class_="chart")


def _x_axis(scale: Scale, height: float, text: Any, unit: str) -> list[Safe]:
    parts = []
    for value in scale.ticks():
        parts.append(tag("line", x1=scale(value), x2=scale(value), y1=8, y2=height - 34, class_="grid"))
        parts.append(tag("text", text(value), x=scale(value), y=height - 16, text_anchor="middle"))
    parts.append(tag("text", unit, x=WIDTH - 2, y=height - 1, text_anchor="end", class_="unit"))
    return parts


def _digits(shares: Sequence[float]) -> int:
    """Digits with which the ticks of a share, written in percent, are exact."""
    ticks = [tick * 100 for tick in shares]
    return next((digits for digits in range(5) if all(abs(t - round(t, digits)) < 1e-7 for t in ticks)), 5)


def _ends(estimate: numbers.Estimate) -> tuple[float, float]:
    return estimate["ci_low"], estimate["ci_high"]


def _range(scale: Scale, estimate: numbers.Estimate, y: float, classes: str) -> list[Safe]:
    low, high = (scale(edge) for edge in _ends(estimate))
    return [
        tag("line", x1=low, x2=high, y1=y, y2=y, class_=f"range {classes}"),
        *(tag("line", x1=x, x2=x, y1=y - 4, y2=y + 4, class_=f"range thin {classes}") for x in (low, high)),
    ]


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def dot(x: float, y: float, radius: float, classes: str) -> Safe:
    return tag("circle", cx=x, cy=y, r=radius, class_=classes)


def _diamond(x: float, y: float, paint: str) -> Safe:
    corners = f"{x},{y - 7} {x + 7},{y} {x},{y + 7} {x - 7},{y}"
    return tag("polygon", points=corners, class_=f"seed {paint}")
