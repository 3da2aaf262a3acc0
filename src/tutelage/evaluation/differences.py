"""Differences of two models beyond paired accuracy: means over seeds that make no pairs, and what rows decide together.

`comparison` and `significance` say what a report needs, where arms share their seeds; this is for arms of two runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from tutelage.evaluation import metrics
from tutelage.evaluation.significance import LEVEL, Estimate, over_seeds

_MOST_DRAWS = 20_000_000  # rows drawn for one interval that has to redraw rows: some two seconds
_BLOCK = 2_000_000  # of them at a time


def welch(ours: Sequence[float], theirs: Sequence[float], n: int) -> tuple[Estimate | None, float | None]:
    """Welch's t interval and p of the difference of two means over seeds; none where either has a single seed.

    The spread is never taken below that of rounding to steps of 1/n, as in `significance.paired_by_seed`.
    """
    if min(len(ours), len(theirs)) < 2:
        return None, None
    parts = [max(float(np.var(side, ddof=1)), 1 / (12 * n * n)) / len(side) for side in (ours, theirs)]
    freedom = sum(parts) ** 2 / sum(p * p / (len(s) - 1) for p, s in zip(parts, (ours, theirs), strict=True))
    difference = over_seeds(ours, n).value - over_seeds(theirs, n).value
    error = math.sqrt(sum(parts))
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    found = Estimate(
        difference, difference - half, difference + half, n, min(len(ours), len(theirs)), "Welch's t by seed, unpaired"
    )
    return found, float(2 * stdtr(freedom, -abs(difference) / error))


def bootstrap_rows(
    value: float,
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    labels: NDArray[np.int64],
    resamples: int,
    *,
    centred: bool = False,
    seed: int = 0,
) -> Estimate:
    """Bootstrap interval over test examples, drawn within each class, of anything that rows decide.

    Args:
        value: the statistic of the rows as they are.
        statistic: (R, N) row numbers -> (R,) values; a paired difference looks both models up by the same rows.
        labels: (N,).
        resamples: fewer are taken, but at least 200, where the test part is so large that it would take long.
        centred: move the interval by what resampling adds on average. For estimates such as ECE, which grow when rows
            are drawn twice: without it the interval may miss the very value that it belongs to.
    """
    taken = min(resamples, max(200, _MOST_DRAWS // labels.size))
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    block = max(1, _BLOCK // labels.size)
    found = []
    for start in range(0, taken, block):
        size = min(block, taken - start)
        drawn = [own[generator.integers(0, own.size, size=(size, own.size))] for own in members]
        found.append(statistic(np.concatenate(drawn, axis=1)))
    values = np.concatenate(found)
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) - (values.mean() - value if centred else 0.0)
    method = f"paired bootstrap over test examples, by class, {taken} resamples" + (", centred" if centred else "")
    return Estimate(value, float(low), float(high), int(labels.size), 1, method)


def ece_difference(
    ours: Sequence[metrics.Floats], theirs: Sequence[metrics.Floats], labels: metrics.Ints, resamples: int
) -> Estimate:
    """Difference of the seeds' mean ECE. A resample's bins are cut anew, as `metrics.ece` would."""
    bins = min(metrics.ECE_BINS, labels.size)
    starts = np.cumsum([0, *(part.size for part in np.array_split(np.arange(labels.size), bins))][:-1])

    def prepared(logits: metrics.Floats) -> tuple[NDArray[np.int32], metrics.Floats]:
        confidence = np.exp(metrics.log_probabilities(logits).max(axis=1))
        order = np.argsort(confidence, kind="stable")
        gap = confidence - (metrics.predictions(logits) == labels)
        rank = np.empty(labels.size, dtype=np.int32)
        rank[order] = np.arange(labels.size, dtype=np.int32)
        return rank, gap[order]

    sides = [[prepared(one) for one in side] for side in (ours, theirs)]

    def difference(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        means = []
        for side in sides:
            total = np.zeros(len(rows))
            for rank, gap in side:
                # Ranks in order are rows in order of confidence.
                sums = np.add.reduceat(gap[np.sort(rank[rows], axis=1)], starts, axis=1)
                total += np.abs(sums).sum(axis=1) / labels.size
            means.append(total / len(side))
        return np.asarray(means[0] - means[1])

    value = float(np.mean([metrics.ece(one, labels) for one in ours]))
    value -= float(np.mean([metrics.ece(one, labels) for one in theirs]))
    return bootstrap_rows(value, difference, labels, resamples, centred=True)
