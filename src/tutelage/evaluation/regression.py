"""Numbers instead of classes: how far off, how much explained, whether in order, and whether the stated doubt is right.

Shapes: N examples · D numbers for each. A metric of several numbers is the mean over them, as in scikit-learn. What is
defined depends on the truth alone, so two models are always judged on the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from tutelage.errors import InputError
from tutelage.evaluation.metrics import Floats
from tutelage.evaluation.resampling import Part, divided, mean_defined, ratios, values_of

MAIN = "rmse"
COVERAGE = 0.95
METHODS = {
    "mae": "mean absolute error, in the unit of the targets",
    "rmse": "root of the mean squared error, in the unit of the targets",
    "r2": "1 − squared error / squared distance of the targets from their mean; left out for constant targets",
    "explained_variance": "as r2, but without the squared mean error; left out for constant targets",
    "median_absolute_error": "median of the absolute errors, in the unit of the targets",
    "pearson": "Pearson's correlation with the targets; 0 for constant predictions, left out for constant targets",
    "spearman": "Spearman's rank correlation, equal values sharing their ranks; 0 for constant predictions, left out "
    "for constant targets",
    "nll": "mean negative log-likelihood of the targets under a normal law with the stated variance, nats",
    "coverage_95": "share of targets within the middle 95 % of that normal law; 0.95 is right, more is too wide",
    "coverage_gap": "distance of that share from 0.95",
}
LOWER = frozenset({"mae", "rmse", "median_absolute_error", "nll", "coverage_gap"})
NEITHER = frozenset({"coverage_95"})  # has a right value instead of a better direction
PLAIN = frozenset(METHODS) - {"coverage_95", "coverage_gap"}  # no shares of 1
Groups = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
_MOST = 1e100  # squares of larger numbers leave float64
_FLAT = 1e-12  # share of the variance of all examples below which a resample counts as constant


class Numbers(NamedTuple):
    """Predictions, targets and, if stated, variances, each (N, D)."""

    said: Floats
    truth: Floats
    variance: Floats | None


def as_numbers(said: ArrayLike, truth: ArrayLike, variance: ArrayLike | None = None) -> Numbers:
    """Predictions and targets as (N, D).

    Args:
        said: (N,) or (N, D) numbers.
        truth: the same shape.
        variance: the same shape, above 0: of a normal law around each prediction; None where none is stated.

    Raises:
        InputError: the shapes differ, a number is not finite, or a variance is not above 0.
    """
    given = [np.asarray(one, dtype=np.float64) for one in (said, truth, *(() if variance is None else (variance,)))]
    shape = given[0].shape
    if len(shape) not in (1, 2) or 0 in shape or any(one.shape != shape for one in given):
        raise InputError(
            "predictions and targets have the wrong shapes",
            given=", ".join(str(one.shape) for one in given),
            expected="(N,) or (N, D), the same for all, not empty",
        )
    if not all((np.abs(one) < _MOST).all() for one in given):  # NaN is not below anything
        raise InputError("predictions and targets must be finite numbers", expected=f"below {_MOST:g} in size")
    if variance is not None and not (given[2] > 1 / _MOST).all():
        raise InputError("a variance must be above 0", given=float(given[2].min()), expected=f"above {1 / _MOST:g}")
    columns = [one.reshape(shape[0], -1) for one in given]
    return Numbers(columns[0], columns[1], columns[2] if variance is not None else None)


def parts(numbers: Numbers) -> list[Part]:
    """Every metric of this module that these numbers allow, for `resampling`."""
    found = [_moments(numbers), _orders(numbers)]
    return found if numbers.variance is None else [*found, _doubts(numbers, numbers.variance)]


def _standard(values: Floats) -> tuple[Floats, Floats]:
    """Columns with mean 0 and variance 1, and their spreads; a constant column is exactly 0, with spread 1."""
    flat = np.ptp(values, axis=0) == 0
    centred = np.where(flat, 0.0, values - values.mean(axis=0))
    largest = np.where(flat, 1.0, np.abs(centred).max(axis=0))  # first, so that no square is lost
    spread = np.where(flat, 1.0, largest * np.sqrt(np.square(centred / largest).mean(axis=0)))
    return centred / spread, spread


def _moments(numbers: Numbers) -> Part:
    """What sums decide. All are sums of standardised numbers, which a distant mean cannot wash out."""
    (y, unit), (q, _) = _standard(numbers.truth), _standard(numbers.said)
    away = (numbers.said - numbers.truth) / unit
    columns = np.concatenate([np.abs(away), away, away**2, y, y**2, q, q**2, y * q], axis=1)

    def at(weights: Floats) -> dict[str, Floats]:
        n = weights.sum(axis=1)[:, None]
        size, e, ee, m, mm, p, pp, mp = np.split(weights @ columns / n, 8, axis=1)
        spread, told = mm - m**2, pp - p**2
        spread = np.where(spread > _FLAT, spread, 0.0)
        both = np.sqrt(np.maximum(told, 0.0) * spread)
        together = np.clip(np.where(told > _FLAT, (mp - m * p) / np.where(both > 0, both, 1.0), 0.0), -1.0, 1.0)
        return {
            "mae": (size * unit).mean(axis=1),
            "rmse": (np.sqrt(ee) * unit).mean(axis=1),
            "r2": mean_defined(1 - divided(ee, spread)),
            "explained_variance": mean_defined(1 - divided(ee - e**2, spread)),
            "pearson": mean_defined(np.where(spread > 0, together, np.nan)),
        }

    return Part(at, width=1 + y.shape[1] // 4)


def _orders(numbers: Numbers) -> Part:
    """What the order of the examples decides: the median and the ranks."""
    away = np.abs(numbers.said - numbers.truth)
    each = range(away.shape[1])
    order = [np.argsort(away[:, d], kind="stable") for d in each]
    groups = [[_groups(side[:, d]) for side in (numbers.said, numbers.truth)] for d in each]

    def at(weights: Floats) -> dict[str, Floats]:
        medians = [_median(away[order[d], d], weights[:, order[d]]) for d in each]
        correlations = [_rank_correlation(groups[d], weights) for d in each]
        return {
            "median_absolute_error": np.mean(medians, axis=0),
            "spearman": mean_defined(np.stack(correlations, axis=1)),
        }

    return Part(at, width=4 * len(each))


def _groups(values: Floats) -> Groups:
    """Rows by value, where each group of equal ones starts among them, and the group of every row."""
    _, inverse = np.unique(values, return_inverse=True)
    group = np.asarray(inverse, dtype=np.intp)
    order = np.argsort(group, kind="stable")
    return order, np.flatnonzero(np.concatenate([[True], np.diff(group[order]) > 0])), group


def _median(values: Floats, counts: Floats) -> Floats:
    """Median of sorted `values` (N,), each taken so many times: (B, N) -> (B,)."""
    reached = counts.cumsum(axis=1)
    total = reached[:, -1:]
    lower, upper = ((reached > np.floor(place)).argmax(axis=1) for place in ((total - 1) / 2, total / 2))
    return np.asarray((values[lower] + values[upper]) / 2, dtype=np.float64)


def _rank_correlation(sides: Sequence[Groups], counts: Floats) -> Floats:
    """Spearman's correlation of two columns where every row is taken so many times, (B, N) -> (B,)."""
    n = counts.sum(axis=1)
    ranks = []
    for order, starts, group in sides:
        size = np.add.reduceat(counts[:, order], starts, axis=1)
        # The mean rank of a group, from the middle of all.
        ranks.append((size.cumsum(axis=1) - size / 2 - n[:, None] / 2)[:, group])
    products = [(counts * ranks[a] * ranks[b]).sum(axis=1) for a, b in ((0, 1), (0, 0), (1, 1))]
    spread = np.sqrt(products[1] * products[2])
    found = np.where(spread > 0, products[0] / np.where(spread > 0, spread, 1.0), 0.0)
    return np.where(products[2] > 0, np.clip(found, -1.0, 1.0), np.nan)


def _doubts(numbers: Numbers, variance: Floats) -> Part:
    """What a stated variance is worth."""
    squared = np.square(numbers.said - numbers.truth) / variance
    within = (squared <= float(ndtri(0.5 + COVERAGE / 2)) ** 2).mean(axis=1)
    surprise = (np.log(2 * np.pi * variance) + squared).mean(axis=1) / 2
    one = np.ones(len(within))
    sums = ratios({"nll": (surprise, one), "coverage_95": (within, one)})

    def at(weights: Floats) -> dict[str, Floats]:
        found = sums.at(weights)
        return {**found, "coverage_gap": np.abs(found["coverage_95"] - COVERAGE)}

    return Part(at)


def measure(said: ArrayLike, truth: ArrayLike, *, variance: ArrayLike | None = None) -> dict[str, float]:
    """Every metric of this module by name; what is not defined is left out.

    Args:
        said: (N,) or (N, D) predictions.
        truth: targets of the same shape.
        variance: of the same shape, if the model states one; without it there is no NLL and no coverage.

    Raises:
        InputError: as `as_numbers`.
    """
    numbers = as_numbers(said, truth, variance)
    return values_of(parts(numbers), len(numbers.truth))
