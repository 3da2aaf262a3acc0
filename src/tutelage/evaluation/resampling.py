"""Intervals for whatever can be computed from how often each example counts.

A resample of the bootstrap is a row of counts: example 3 twice, example 4 not at all. So a metric is written once, for
examples with weights. All weights 1 give the metric itself, and drawn counts give its resamples, without a second
formula that might differ. Two models get the same draws, so their difference is paired.

Shapes: N units (examples, or queries) · B resamples at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.evaluation.metrics import Floats, Ints
from tutelage.evaluation.significance import LEVEL, Estimate

_MOST_CELLS = 400_000_000  # counts looked at for one interval: some seconds
_LEAST_RESAMPLES = 200
_FAR_TOO_MANY = 5 * _MOST_CELLS  # where even the least resamples would take minutes
_BLOCK = 1_000_000  # counts at a time


@dataclass(frozen=True, slots=True)
class Part:
    """Metrics that are computed together.

    `at` maps weights (B, N) to metric -> (B,), NaN where a metric is not defined. `width` says how many times dearer
    than one pass over the weights that is.
    """

    at: Callable[[Floats], dict[str, Floats]]
    width: int = 1


def ratios(columns: Mapping[str, tuple[Floats, Floats]]) -> Part:
    """Metrics that are Σ w·a / Σ w·b: metric -> (a, b), each (N,). Not defined where Σ w·b is 0."""
    matrix = np.concatenate([np.stack([pair[side] for pair in columns.values()], axis=1) for side in (0, 1)], axis=1)

    def at(weights: Floats) -> dict[str, Floats]:
        above, below = np.split(weights @ matrix.astype(np.float64), 2, axis=1)
        values = divided(above, below)
        return {name: values[:, number] for number, name in enumerate(columns)}

    return Part(at)


def divided(above: Floats, below: Floats) -> Floats:
    """`above / below`, NaN where `below` is not positive."""
    return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan), dtype=np.float64)


def mean_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    held = ~np.isnan(values)
    return divided(np.where(held, values, 0.0).sum(axis=-1), held.sum(axis=-1).astype(np.float64))


def values_of(parts: Sequence[Part], units: int) -> dict[str, float]:
    """The metrics themselves; what is not defined is left out."""
    found = [part.at(np.ones((1, units))) for part in parts]
    return {name: float(v[0]) for values in found for name, v in values.items() if not np.isnan(v[0])}


def bootstrap(
    sides: Sequence[Sequence[Part]],
    units: int,
    *,
    unit: str = "test examples",
    strata: Ints | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Estimate]]:
    """The metrics of one or two models with percentile intervals, and of two also their paired difference.

    Args:
        sides: the parts of each model, the same metrics in the same order.
        units: N, what is drawn with replacement.
        unit: what that is, for the name of the method.
        strata: (N,) numbers of groups that keep their sizes, as classes do; None draws from all alike.
        resamples: fewer are taken, but at least 200, where there is so much data that it would take long.
        seed: of the draws.

    Returns:
        One mapping for each side and, of two, a third: first − second. Metrics that are not defined are left out;
        resamples in which one is not defined do not count for its interval. A single unit gives no interval, nor does a
        metric so dear that even 200 resamples would take minutes, as AUC over a thousand classes.

    Raises:
        InputError: neither one nor two sides, or fewer than 100 resamples.
    """
    if len(sides) not in (1, 2) or resamples < 100 or units < 1:
        raise InputError("no interval can be made of this", given=f"{len(sides)} sides, {resamples} resamples")
    found: list[dict[str, Estimate]] = [{} for _ in range(2 * len(sides) - 1)]
    for together in zip(*sides, strict=True):
        width = max(part.width for part in together)
        taken = min(resamples, max(_LEAST_RESAMPLES, _MOST_CELLS // (units * width)))
        exact = [part.at(np.ones((1, units))) for part in together]
        if taken * units * width > _FAR_TOO_MANY:
            taken = 0
        blocks = [[part.at(counts) for part in together] for counts in _drawn(units, taken, strata, seed)]
        method = f"bootstrap over {unit}{'' if strata is None else ', by class'}, {taken} resamples"
        for name in exact[0]:
            values = [float(side[name][0]) for side in exact]
            draws = [np.concatenate([np.empty(0), *(block[i][name] for block in blocks)]) for i in range(len(together))]
            if len(together) == 2:
                values.append(values[0] - values[1])
                draws.append(draws[0] - draws[1])
            for number, (value, drawn) in enumerate(zip(values, draws, strict=True)):
                if not np.isnan(value):
                    called = method if number < 2 else f"paired {method}"
                    found[number][name] = _estimate(value, drawn, units, called)
    return found


def _estimate(value: float, drawn: Floats, units: int, method: str) -> Estimate:
    defined = drawn[~np.isnan(drawn)]
    if units < 2 or not defined.size:
        return Estimate(value, None, None, units, 1, "single run" if units < 2 else "no interval: too dear to resample")
    low, high = np.quantile(defined, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(value, float(low), float(high), units, 1, method)


def _drawn(units: int, taken: int, strata: Ints | None, seed: int) -> Iterator[Floats]:
    """How often each unit was drawn, (B, N) at a time, `taken` rows in all."""
    generator = np.random.default_rng(seed)
    members: list[NDArray[np.int64]] = [np.arange(units)]
    if strata is not None:
        members = [np.flatnonzero(strata == group) for group in np.unique(strata)]
    block = max(1, _BLOCK // units)
    for start in range(0, taken, block):
        size = min(block, taken - start)
        rows = np.arange(size)[:, None] * units
        flat = [(rows + own[generator.integers(0, own.size, size=(size, own.size))]).ravel() for own in members]
        counts = np.bincount(np.concatenate(flat), minlength=size * units)
        yield counts.reshape(size, units).astype(np.float64)
