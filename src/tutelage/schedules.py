"""How a weight or a temperature moves while training goes on.

A schedule is a pure function from progress, 0 at the first step and 1 at the end, to a number. It knows neither epochs
nor optimizers, so the same schedule serves every length of training, and resuming needs no state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tutelage.errors import InputError

__all__ = ["Schedule", "as_schedule", "constant", "cosine", "is_constant", "linear", "piecewise", "warm_up"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A named function of progress; `least` and `greatest` bound what it can return."""

    name: str
    function: Callable[[float], float]
    least: float
    greatest: float

    def __call__(self, progress: float) -> float:
        return self.function(min(max(progress, 0.0), 1.0))


def constant(value: float) -> Schedule:
    """Always `value`."""
    value = _number(value)
    return Schedule(f"{value:g}", lambda _: value, value, value)


def linear(start: float, end: float) -> Schedule:
    """From `start` to `end` in a straight line."""
    start, end = _number(start), _number(end)
    return Schedule(
        f"linear {start:g} → {end:g}", lambda p: start + (end - start) * p, min(start, end), max(start, end)
    )


def cosine(start: float, end: float) -> Schedule:
    """From `start` to `end` along half a cosine: slow, fast, slow."""
    start, end = _number(start), _number(end)
    return Schedule(
        f"cosine {start:g} → {end:g}",
        lambda p: end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * p)),
        min(start, end),
        max(start, end),
    )


def warm_up(value: float, until: float) -> Schedule:
    """From 0 to `value` in a straight line until progress `until`, then constant (as decoupled distillation does)."""
    value, until = _number(value), _number(until)
    if not 0.0 < until <= 1.0:
        raise InputError("a warm-up ends within training", given=f"until={until}", expected="a number in (0, 1]")
    return Schedule(
        f"warm-up to {value:g} by {until:g}", lambda p: value * min(p / until, 1.0), min(0.0, value), max(0.0, value)
    )


def piecewise(points: Sequence[tuple[float, float]]) -> Schedule:
    """Straight lines through `(progress, value)` points; constant before the first and after the last."""
    if any(len(point) != 2 for point in points):
        raise InputError("a point of a piecewise schedule is a pair", given=points, expected="[progress, value]")
    pairs = [(_number(p), _number(v)) for p, v in points]
    if (
        not pairs
        or any(not 0.0 <= p <= 1.0 for p, _ in pairs)
        or sorted({p for p, _ in pairs}) != [p for p, _ in pairs]
    ):
        raise InputError(
            "the points of a piecewise schedule must rise in progress",
            given=points,
            expected="[[progress, value], …] with progress rising within 0 … 1",
        )

    def value(progress: float) -> float:
        before = [pair for pair in pairs if pair[0] <= progress]
        after = [pair for pair in pairs if pair[0] > progress]
        if not before:
            return after[0][1]
        if not after:
            return before[-1][1]
        (p0, v0), (p1, v1) = before[-1], after[0]
        return v0 + (v1 - v0) * (progress - p0) / (p1 - p0)

    values = [v for _, v in pairs]
    return Schedule("piecewise", value, min(values), max(values))


def as_schedule(value: float | Schedule) -> Schedule:
    """A number is a schedule that does not move."""
    return value if isinstance(value, Schedule) else constant(value)


def is_constant(schedule: Schedule) -> bool:
    """Whether progress makes no difference."""
    return schedule.least == schedule.greatest


def _number(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError("a schedule is made of finite numbers", given=repr(value), expected="a finite number")
    return float(value)
