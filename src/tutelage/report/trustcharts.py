"""The charts of trust: reliability, risk against coverage, ROC, and agreement by the teacher's confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.report.figures import WIDTH, Scale, colour, dot, padded, svg
from tutelage.report.markup import Safe, tag

Report = Mapping[str, Any]
_LEFT, _RIGHT, _TOP = 48, WIDTH - 16, 26
_HEIGHT, _BOTTOM = 330, 270
_ROW = 30  # height of one histogram under the reliability diagram
_NOISY = 0.05  # share of the coverage in which a risk is that of a handful of answers
_ROC_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class _Plane:
    """A frame with two axes of shares; `root` stretches the lower one at its left end."""

    x: Scale
    y: Scale
    root: bool = False

    def at(self, across: float, up: float) -> tuple[float, float]:
        return self.across(across), self.y(up)

    def across(self, value: float) -> float:
        return self.x(math.sqrt(value) if self.root else value)

    def axes(self, ticks: Sequence[float], below: str, above: str, text: Callable[[float], str]) -> list[Safe]:
        found = []
        for value in self.y.ticks(5):
            found.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=self.y(value), y2=self.y(value), class_="grid"))
            found.append(tag("text", _percent(value), x=_LEFT - 8, y=self.y(value) + 4, text_anchor="end"))
        for value in ticks:
            found.append(tag("line", x1=self.across(value), x2=self.across(value), y1=_TOP, y2=_BOTTOM, class_="grid"))
            found.append(tag("text", text(value), x=self.across(value), y=_BOTTOM + 20, text_anchor="middle"))
        found.append(tag("text", above, x=0, y=13, class_="unit"))
        found.append(tag("text", below, x=_RIGHT, y=_BOTTOM + 42, text_anchor="end", class_="unit"))
        return found

    def line(self, points: Sequence[tuple[float, float]], classes: str, **more: object) -> Safe:
        pixels = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in points))
        return tag("polyline", points=pixels, class_=classes, **more)

    def whisker(self, across: float, estimate: Report, paint: str) -> Safe:
        low, high = self.y(estimate["ci_low"]), self.y(estimate["ci_high"])
        return tag("line", x1=across, x2=across, y1=low, y2=high, class_=f"range thin {paint}", opacity=0.55)


def _percent(share: float) -> str:
    return f"{round(share * 100, 6):g}"


def reliability(report: Report, names: Sequence[str]) -> Safe:
    """Accuracy against confidence in bins, and under it the spread of every model's confidences."""
    models = report["drawn"]["models"]
    spreads = {name: _spread(models[name]["confidence"]) for name in names}
    least = min(next(edge for edge, share in spread if share > 0) for spread in spreads.values())
    bins = [item for name in names for item in models[name]["reliability"]]
    lowest = min([least, *(item["accuracy"]["ci_low"] for item in bins)])
    plane = _Plane(Scale(least, 1.0, _LEFT, _RIGHT), Scale(lowest, 1.0, _BOTTOM, _TOP))
    height = _HEIGHT + _ROW * len(names)
    found = plane.axes(plane.x.ticks(5), "confidence, %", "accuracy, %", _percent)
    start = max(least, lowest)
    found.append(plane.line([(start, start), (1.0, 1.0)], "reference", style="stroke:var(--soft)"))
    for name in names:
        paint = colour(report, name)
        points = [(item["confidence"], item["accuracy"]["value"]) for item in models[name]["reliability"]]
        found += [
            plane.whisker(plane.across(item["confidence"]), item["accuracy"], paint)
            for item in models[name]["reliability"]
        ]
        found.append(plane.line(points, f"curve {paint}"))
        found += [dot(*plane.at(*point), 3.6, f"seed {paint}") for point in points]
    tallest = max(share for spread in spreads.values() for _, share in spread)
    for row, name in enumerate(names):
        base = _HEIGHT + _ROW * (row + 1) - 8
        found += _bars(spreads[name], plane.x, base, tallest, colour(report, name))
    return svg(height, "Accuracy against confidence, with the spread of confidences", found)


def _spread(confidence: Report) -> list[tuple[float, float]]:
    """Lower edge and share of every bin of the histogram."""
    return [
        (edge, right + wrong)
        for edge, right, wrong in zip(confidence["edges"], confidence["right"], confidence["wrong"], strict=False)
    ]


def _bars(spread: Sequence[tuple[float, float]], x: Scale, base: float, tallest: float, paint: str) -> list[Safe]:
    width = 1.0 / len(spread)
    found = [tag("line", x1=_LEFT, x2=_RIGHT, y1=base, y2=base, class_="grid")]
    for edge, share in spread:
        # A root keeps rare confidences in sight beside the many answers near 1.
        tall = round(math.sqrt(share / tallest) * (_ROW - 8), 2)
        if share > 0:
            left, right = x(edge), x(edge + width)
            found.append(
                tag(
                    "rect", x=left, y=round(base - tall, 2), width=round(right - left, 2), height=tall,
                    class_=f"seed {paint}",
                )
            )  # fmt: skip
    return found


def risk_coverage(report: Report, names: Sequence[str]) -> Safe:
    """Error rate of the surest answers; the first few of them may run out of the picture."""
    curves = {name: report["drawn"]["models"][name]["risk_coverage"] for name in names}
    shown = [
        risk
        for curve in curves.values()
        for coverage, risk in zip(curve["coverage"], curve["risk"], strict=True)
        if coverage >= _NOISY
    ]
    top = max(shown) * 1.1 or 0.01
    plane = _Plane(Scale(0.0, 1.0, _LEFT, _RIGHT), Scale(0.0, top, _BOTTOM, _TOP))
    found = plane.axes(plane.x.ticks(5), "share of answers kept, %", "wrong among them, %", _percent)
    for name in names:
        points = list(zip(curves[name]["coverage"], (min(risk, top) for risk in curves[name]["risk"]), strict=True))
        found.append(plane.line(points, f"curve {colour(report, name)}"))
    return svg(_HEIGHT, "Error rate against the share of answers kept", found)


def roc(report: Report, names: Sequence[str]) -> Safe:
    """True against false positives, the left end stretched: there good models differ."""
    plane = _Plane(Scale(0.0, 1.0, _LEFT, _RIGHT), Scale(0.0, 1.0, _BOTTOM, _TOP), root=True)
    found = plane.axes(_ROC_TICKS, "false positives, %", "true positives, %", _percent)
    chance = [(step * step / 400, step * step / 400) for step in range(21)]
    found.append(plane.line(chance, "reference", style="stroke:var(--soft);fill:none"))
    for name in names:
        curve = report["drawn"]["models"][name]["roc"]
        points = list(zip(curve["false_positive"], curve["true_positive"], strict=True))
        found.append(plane.line(points, f"curve {colour(report, name)}"))
    return svg(_HEIGHT, "ROC curve, one class against the rest", found)


def by_confidence(report: Report, arms: Sequence[Report]) -> Safe:
    """Agreement in bins of the teacher's confidence, evenly spaced, since most of them lie close to 1."""
    bins = arms[0]["test"]["by_confidence"]
    lines = [(arms[0]["against"], [item["baseline"] for item in bins])]
    lines += [(arm["name"], [item["arm"] for item in arm["test"]["by_confidence"]]) for arm in arms]
    ends = [item[end] for _, line in lines for item in line for end in ("ci_low", "ci_high")]
    y = padded(ends, _BOTTOM, _TOP)
    plane = _Plane(Scale(-0.5, len(bins) - 0.5, _LEFT, _RIGHT), Scale(max(0.0, y.low), min(1.0, y.high), _BOTTOM, _TOP))
    found = plane.axes([], "teacher's mean confidence in the bin, %", "agreement, %", _percent)
    found += [
        tag("text", _sure(item["confidence"]), x=plane.across(place), y=_BOTTOM + 20, text_anchor="middle")
        for place, item in enumerate(bins)
        if (len(bins) - 1 - place) % 2 == 0
    ]
    for row, (name, line) in enumerate(lines):
        paint, aside = colour(report, name), round((row - (len(lines) - 1) / 2) * min(6.0, 24 / len(lines)), 2)
        places = [plane.across(place) + aside for place in range(len(line))]
        found += [plane.whisker(x, item, paint) for x, item in zip(places, line, strict=True)]
        pixels = [(round(x, 2), plane.y(item["value"])) for x, item in zip(places, line, strict=True)]
        found.append(tag("polyline", points=" ".join(f"{x},{v}" for x, v in pixels), class_=f"curve {paint}"))
        found += [dot(x, v, 3.6, f"seed {paint}") for x, v in pixels]
    return svg(_HEIGHT, "Agreement with the teacher by the teacher's confidence", found)


def _sure(confidence: float) -> str:
    """A confidence in percent with the digits that still tell it from 100."""
    for digits in (0, 1, 2):
        text = f"{confidence * 100:.{digits}f}"
        if float(text) < 100:
            return text
    return ">99.99" if confidence < 1 else "100"
