"""A plane of points: something good upwards, something that costs across on a logarithmic axis, and the points that no
other beats joined by a line of steps.

Up to 40 points stay readable: only some are named, names move to where nothing is, and a name for which there is no
room becomes a number with a key beneath. Room is measured with the larger letters of a phone, so it is enough anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tutelage.report import numbers
from tutelage.report.figures import WIDTH, Scale, padded
from tutelage.report.markup import Safe, tag

__all__ = ["SIZE", "TIME", "Axis", "Mark", "draw"]

_HEIGHT, _LEFT, _TOP = 348, 50, 26
_RIGHT, _BOTTOM = WIDTH - 12, _HEIGHT - 50
_LETTER, _LINE = 9.8, 19.0  # width and height of a letter on a phone, in units of the picture
_LONGEST = 24  # letters of a name
_TICK_ROOM = 84  # between two labels of the lower axis
_SIDES = [(1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)]
_STEPS = (0, 12, 26, 42, 60)

Ends = tuple[float | None, float, float | None]  # low, value, high
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Axis:
    """What lies across: its values, in the page's words."""

    title: str
    units: tuple[float, ...]  # each the start of its own decades
    decades: tuple[float, ...]
    text: Callable[[float], str]
    up: str = "accuracy, %"  # what stands upwards


def _size(value: float) -> str:
    return numbers.size(value).replace(".0 ", " ")


SIZE = Axis("file size, log scale  (← smaller)", tuple(1024.0**k for k in range(5)), (1, 10, 100), _size)
TIME = Axis("ms for a call, log scale  (← faster)", tuple(10.0**k for k in range(-6, 9)), (1,), lambda v: f"{v:g}")


@dataclass(frozen=True, slots=True)
class Mark:
    """One point with its crosses."""

    name: str
    across: Ends
    up: Ends  # shares
    shape: str  # triangle for the teacher, square or circle
    hollow: bool
    paint: str  # CSS class of its colour
    on_edge: bool
    named: bool
    says: str  # when a mouse rests on it


@dataclass(frozen=True, slots=True)
class _Logarithmic:
    """Values to pixels by their logarithm."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(_LEFT + share * (_RIGHT - _LEFT), 2)

    def ticks(self, axis: Axis) -> list[float]:
        """Round numbers 1, 2, 5, 10 …, thinned out until their labels have room; plain ones where there are too few."""
        every = [u * d * m for u in axis.units for d in axis.decades for m in (1, 2, 5)]
        inside = [value for value in every if self.low <= value <= self.high]
        if len(inside) < 2:
            unit = max((u for u in axis.units if u <= self.low), default=axis.units[0])
            plain = Scale(self.low / unit, self.high / unit, 0, 1)
            few, more = ([tick * unit for tick in plain.ticks(n) if tick > 0] for n in (3, 5))
            return few if len(few) > 1 else more
        start = next((i for i, value in enumerate(inside) if every.index(value) % 3 == 0), 0)
        thinned = [inside[start % step :: step] for step in (1, 3, 2, 6, 9, 12)]
        roomy = [some for some in thinned if all(self(b) - self(a) >= _TICK_ROOM for a, b in pairwise(some))]
        return next((some for least in (3, 2) for some in roomy if len(some) >= least), inside[:1])


@dataclass(frozen=True, slots=True)
class _Placed:
    """A mark in pixels."""

    mark: Mark
    x: float
    y: float
    wide: tuple[float, float]
    tall: tuple[float, float]

    @property
    def strong(self) -> bool:
        """Whether it is one of those that the picture is about; the others step back."""
        return self.mark.on_edge or self.mark.shape == "triangle"

    @property
    def radius(self) -> float:
        return 6.0 if self.strong else 4.5

    @property
    def box(self) -> Box:
        reach = self.radius + 2
        return self.x - reach, self.y - reach, self.x + reach, self.y + reach


def draw(marks: Sequence[Mark], axis: Axis) -> tuple[Safe, list[tuple[int, str]]]:
    """The picture, and the names that found no room in it, with the numbers that stand for them.

    Args:
        marks: at least one; what they cost is greater than 0.
        axis: of what they cost.
    """
    x = _scale([end for mark in marks for end in mark.across if end])
    y = padded([end for mark in marks for end in mark.up if end is not None], _BOTTOM, _TOP, 0.08)
    placed = _apart([_place(mark, x, y) for mark in marks])
    steps = _steps([one for one in placed if one.mark.on_edge])
    labels, numbered = _labels(placed, steps)
    line = tag(
        "polyline", points=" ".join(f"{a},{b}" for a, b in steps),
        style="fill:none;stroke:var(--soft);stroke-width:1.5;opacity:.7",
    )  # fmt: skip
    behind = sorted(placed, key=lambda one: one.mark.on_edge)
    parts = [*_axes(x, y, axis), line, *(_mark(one) for one in behind), *labels]
    title = f"Accuracy against {axis.title.split(',')[0]}"
    return tag(
        "svg", tag("title", title), parts, viewBox=f"0 0 {WIDTH} {_HEIGHT}", role="img", class_="chart"
    ), numbered


def _scale(values: Sequence[float]) -> _Logarithmic:
    low, high = min(values), max(values)
    air = max((high / low) ** 0.08, 1.3 if high < 1.3 * low else 1.0)
    return _Logarithmic(low / air, high * air)


def _place(mark: Mark, x: _Logarithmic, y: Scale) -> _Placed:
    left, right = (mark.across[1] if end is None else end for end in (mark.across[0], mark.across[2]))
    low, high = (mark.up[1] if end is None else end for end in (mark.up[0], mark.up[2]))
    return _Placed(mark, x(mark.across[1]), y(mark.up[1]), (x(left), x(right)), (y(high), y(low)))


def _apart(placed: Sequence[_Placed]) -> list[_Placed]:
    """Points of nearly one cost side by side, so that crosses do not cover each other, but past no other point."""
    columns: list[list[_Placed]] = []
    for one in sorted(placed, key=lambda one: one.mark.across[1]):
        if columns and one.x - columns[-1][0].x < 3:
            columns[-1].append(one)
        else:
            columns.append([one])
    free = [math.inf, *(after[0].x - before[-1].x for before, after in pairwise(columns)), math.inf]
    found = []
    for index, column in enumerate(columns):
        gap = min(9.0, min(44.0, *free[index : index + 2]) / len(column))
        for lane, one in enumerate(column):
            aside = (lane - (len(column) - 1) / 2) * gap
            left, x, right = (round(value + aside, 2) for value in (one.wide[0], one.x, one.wide[1]))
            found.append(replace(one, x=x, wide=(left, right)))
    return found


def _steps(edge: Sequence[_Placed]) -> list[tuple[float, float]]:
    """The best that can be had for a cost: level until the next point, then up."""
    corners: list[tuple[float, float]] = []
    for one in sorted(edge, key=lambda one: (one.x, -one.y)):
        if corners:
            corners.append((one.x, corners[-1][1]))
        corners.append((one.x, one.y))
    return [*corners, (_RIGHT, corners[-1][1])] if corners else []


def _axes(x: _Logarithmic, y: Scale, axis: Axis) -> list[Safe]:
    parts = []
    for value in y.ticks(4):
        parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=y(value), y2=y(value), class_="grid"))
        text = f"{round(value * 100, 6):g}"
        parts.append(tag("text", text, x=_LEFT - 8, y=y(value) + 4, text_anchor="end"))
    for value in x.ticks(axis):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=_TOP, y2=_BOTTOM, class_="grid"))
        at = min(max(x(value), _LEFT + 12.0), _RIGHT - 22.0)
        parts.append(tag("text", axis.text(value), x=at, y=_BOTTOM + 20, text_anchor="middle"))
    parts.append(tag("text", axis.up, x=0, y=13, class_="unit"))
    parts.append(tag("text", axis.title, x=_RIGHT, y=_HEIGHT - 6, text_anchor="end", class_="unit"))
    return parts


def _mark(one: _Placed) -> Safe:
    """A point with its crosses."""
    mark, x, y, r = one.mark, one.x, one.y, one.radius
    lines = [
        tag("line", x1=a, x2=b, y1=c, y2=d, class_=f"range thin {mark.paint}")
        for a, b, c, d in ((*one.wide, y, y), (x, x, *one.tall))
        if (a, c) != (b, d)
    ]
    paint = f"{'open' if mark.hollow else 'seed'} {mark.paint}"
    if mark.shape == "circle":
        shape = tag("circle", cx=x, cy=y, r=r, class_=paint)
    elif mark.shape == "square":
        shape = tag(
            "rect", x=round(x - 0.9 * r, 2), y=round(y - 0.9 * r, 2), width=1.8 * r, height=1.8 * r, class_=paint
        )
    else:
        corners = [(x, y - 1.2 * r), (x + 1.1 * r, y + 0.8 * r), (x - 1.1 * r, y + 0.8 * r)]
        shape = tag("polygon", points=" ".join(f"{round(a, 2)},{round(b, 2)}" for a, b in corners), class_=paint)
    return tag("g", tag("title", mark.says), lines, shape, opacity=None if one.strong else 0.55)


def _labels(
    placed: Sequence[_Placed], steps: Sequence[tuple[float, float]]
) -> tuple[list[Safe], list[tuple[int, str]]]:
    """Names beside their points, moved to where there is room; a number where there is none."""
    taken = [one.box for one in placed]
    lines: list[Box] = [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in pairwise(steps)]
    lines += [(*one.wide[:1], one.y, *one.wide[1:], one.y) for one in placed]
    lines += [(one.x, one.tall[0], one.x, one.tall[1]) for one in placed]
    parts: list[Safe] = []
    numbered: list[tuple[int, str]] = []
    for one in sorted((one for one in placed if one.mark.named), key=lambda one: (one.y, one.x)):
        name = one.mark.name
        short = name if len(name) <= _LONGEST else f"{name[:12]}…{name[-11:]}"  # what was compressed stands at the end
        number = len(numbered) + 1
        for text in (short, str(number)):
            spot = _spot(one, text, taken, lines)
            if spot is not None:
                taken.append(spot)
                parts += _label(one, text, spot)
                if text != short:
                    numbered.append((number, name))
                break
    return parts, numbered


def _spot(one: _Placed, text: str, taken: Sequence[Box], lines: Sequence[Box]) -> Box | None:
    """The place for a text that is near its point, free, and crossed by the fewest lines; None where all are taken."""
    width, best = len(text) * _LETTER, None
    for far in _STEPS:
        for across, down in _SIDES:
            reach = one.radius + 4 + far
            left = one.x + across * reach - (0.0 if across > 0 else width if across < 0 else width / 2)
            middle = one.y + down * (reach + _LINE / 2)
            box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
            inside = box[0] >= _LEFT and box[2] <= WIDTH and box[1] >= _TOP - 8 and box[3] <= _BOTTOM
            if not inside or any(_meet(box, other) for other in taken):
                continue
            price = far + 9 * sum(_meet(box, line) for line in lines)
            if best is None or price < best[0]:
                best = (price, box)
    return None if best is None else best[1]


def _meet(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _label(one: _Placed, text: str, box: Box) -> list[Safe]:
    """A text in its place, with a thin line to its point where it had to move away."""
    left, top, right, bottom = box
    anchor, x = ("start", left) if left > one.x else ("end", right) if right < one.x else ("middle", (left + right) / 2)
    end = (min(max(one.x, left), right), min(max(one.y, top), bottom))
    parts = []
    if math.dist(end, (one.x, one.y)) > one.radius + 12:
        parts.append(tag("line", x1=one.x, y1=one.y, x2=round(end[0], 2), y2=round(end[1], 2), class_="pair"))
    base = round((top + bottom) / 2 + 5, 2)
    return [*parts, tag("text", text, x=round(x, 2), y=base, text_anchor=anchor, class_="name halo")]
