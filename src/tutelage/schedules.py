"""How a weight or a temperature moves while training goes on.

A schedule is a pure function from progress, 0 at the first step and 1 at the end, to a number. It knows neither epochs
nor optimizers, so the same schedule serves every length of training, and resuming needs no state. One that follows
feedback also reads what validation said after every epoch so far, which a checkpoint keeps anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tutelage.errors import InputError

__all__ = [
    "WATCHED",
    "Past",
    "Schedule",
    "as_schedule",
    "constant",
    "cosine",
    "follow",
    "is_constant",
    "linear",
    "piecewise",
    "plateau",
    "switch",
    "warm_up",
]

# One row for every epoch that is over: `val_accuracy`, `val_nll`, ….
Past = Sequence[Mapping[str, float]]
# What feedback may watch, all on the validation part -> whether more of it is better.
WATCHED: Mapping[str, bool] = {"accuracy": True, "nll": False, "agreement": True}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A named function of progress, or of feedback; `least` and `greatest` bound what it can return."""

    name: str
    function: Callable[[float], float]
    least: float
    greatest: float
    feedback: Callable[[Past], float] | None = None  # takes the place of `function`
    watches: str = ""  # a key of `WATCHED`

    def __call__(self, progress: float, past: Past = ()) -> float:
        if self.feedback is not None:
            return self.feedback(past)
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


def switch(before: float, after: float, at: float) -> Schedule:
    """`before` until progress `at`, then `after`: what stops distilling early, or begins it late."""
    before, after, at = _number(before), _number(after), _number(at)
    if not 0.0 < at < 1.0:
        raise InputError("a switch falls within training", given=f"at={at}", expected="a number in (0, 1)")
    return Schedule(
        f"{before:g}, from {at:g} on {after:g}",
        lambda p: before if p < at else after,
        min(before, after),
        max(before, after),
    )


def plateau(
    start: float, factor: float, *, watch: str = "accuracy", patience: int = 1, least: float, greatest: float
) -> Schedule:
    """From `start`, times `factor` whenever the watched number was no better for `patience` epochs.

    Args:
        start: the first value.
        factor: > 0.
        watch: a key of `WATCHED`, on the validation part.
        patience: so many epochs without a new best one, counted anew after every change.
        least: the value stays at or above it.
        greatest: the value stays at or below it.
    """
    _watched(watch)
    start, factor, least, greatest = map(_number, (start, factor, least, greatest))
    if not least <= start <= greatest or factor <= 0 or patience < 1:
        raise InputError(
            "a schedule that reacts to a plateau is out of range",
            given=f"start={start:g}, factor={factor:g}, patience={patience}, least={least:g}, greatest={greatest:g}",
            expected="least ≤ start ≤ greatest, factor > 0, patience ≥ 1",
        )
    sign = 1.0 if WATCHED[watch] else -1.0

    def value(past: Past) -> float:
        now, best, waited = start, -math.inf, 0
        for row in past:
            found = sign * _seen(row, watch)
            best, waited = (found, 0) if found > best else (best, waited + 1)
            if waited == patience:
                now, waited = min(max(now * factor, least), greatest), 0
        return now

    return Schedule(
        f"{start:g}, times {factor:g} where {watch} stands still", lambda _: start, least, greatest, value, watch
    )


def follow(low: tuple[float, float], high: tuple[float, float], *, watch: str = "agreement") -> Schedule:
    """A straight line through two points (watched number, value), constant beyond them; before any epoch, the first.

    Args:
        low: the smaller watched number and the value there, where training starts.
        high: the greater one.
        watch: a key of `WATCHED`, on the validation part: the last epoch's.
    """
    _watched(watch)
    (x0, y0), (x1, y1) = (tuple(map(_number, point)) for point in (low, high))
    if not x0 < x1:
        raise InputError("the points of a schedule that follows a number must rise", given=f"{x0:g} and {x1:g}")

    def value(past: Past) -> float:
        seen = _seen(past[-1], watch) if past else x0
        return y0 + (y1 - y0) * min(max((seen - x0) / (x1 - x0), 0.0), 1.0)

    return Schedule(
        f"{y0:g} → {y1:g} while {watch} goes from {x0:g} to {x1:g}",
        lambda _: y0,
        min(y0, y1),
        max(y0, y1),
        value,
        watch,
    )


def as_schedule(value: float | Schedule) -> Schedule:
    """A number is a schedule that does not move."""
    return value if isinstance(value, Schedule) else constant(value)


def is_constant(schedule: Schedule) -> bool:
    """Whether progress makes no difference."""
    return schedule.least == schedule.greatest


def _watched(watch: str) -> None:
    if watch not in WATCHED:
        raise InputError(f"nothing tells `{watch}` of an epoch", expected="one of " + ", ".join(WATCHED))


def _seen(row: Mapping[str, float], watch: str) -> float:
    if f"val_{watch}" not in row:
        raise InputError(
            f"a schedule watches `{watch}`, which validation did not tell",
            given=", ".join(row) or "nothing",
            expected=f"val_{watch} of every epoch so far; a run tells it",
        )
    return row[f"val_{watch}"]


def _number(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError("a schedule is made of finite numbers", given=repr(value), expected="a finite number")
    return float(value)
