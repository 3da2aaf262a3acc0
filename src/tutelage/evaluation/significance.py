"""Two sources of chance sit in a measured gain: which examples the test part holds, and which seed was drawn.

The two are kept apart. Over seeds there are few values and a known law, so Student's t is used. Over test examples
there are many values and no law worth assuming, so Wilson's interval and the bootstrap are used. Arms of one seed
shared their batches and all arms share the test part, so differences are always paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from tutelage.errors import InputError

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty. `ci_low` and `ci_high` are None where one value tells nothing about the spread."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int  # test examples
    seeds: int
    method: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit."""
        low = None if self.ci_low is None else self.ci_low * factor
        high = None if self.ci_high is None else self.ci_high * factor
        return Estimate(self.value * factor, low, high, self.n, self.seeds, self.method)

    def within(self, least: float, most: float) -> Estimate:
        """The same estimate with ends that the number can have: few seeds that scatter put t intervals beyond 100 %."""
        low = None if self.ci_low is None else min(max(self.ci_low, least), most)
        high = None if self.ci_high is None else min(max(self.ci_high, least), most)
        return replace(self, ci_low=low, ci_high=high)


def wilson(share: float, n: int, *, seeds: int = 1, level: float = LEVEL) -> Estimate:
    """Wilson's score interval of a share of n test examples.

    With several seeds `share` is their mean: the interval then says what another draw of n examples would do to it,
    a little too widely, since a mean over seeds varies less than one run.
    """
    if not 0.0 <= share <= 1.0 or n < 1:
        raise InputError("a share must lie in [0, 1] of at least one example", given=f"{share} of {n}")
    z = float(ndtri(0.5 + level / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), n, seeds, "Wilson over test examples")


def over_seeds(values: Sequence[float], n: int, *, level: float = LEVEL) -> Estimate:
    """Mean over seeds with Student's t interval; one seed has no interval."""
    return _t_interval(values, n, "t over seeds", floor=0.0, level=level)


def paired_by_seed(first: Sequence[float], second: Sequence[float], n: int, *, level: float = LEVEL) -> Estimate:
    """Mean of `first - second` by seed with Student's t interval.

    An accuracy moves in steps of 1/n, so three seeds may differ by the very same amount by accident. The spread is
    therefore never taken below that of rounding to such a step, 1 / (n √12).
    """
    if len(first) != len(second):
        raise InputError("paired values need the same seeds on both sides", given=f"{len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return _t_interval(differences, n, "paired t by seed", floor=1 / (n * math.sqrt(12)), level=level)


def _t_interval(values: Sequence[float], n: int, method: str, *, floor: float, level: float) -> Estimate:
    if len(values) == 0:
        raise InputError("no values to average", expected="at least one seed")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(mean, None, None, n, 1, "single run")
    spread = max(float(np.std(values, ddof=1)), floor)
    half = float(stdtrit(len(values) - 1, 0.5 + level / 2)) * spread / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, n, len(values), method)


def paired_p(first: Sequence[float], second: Sequence[float], n: int) -> float | None:
    """Two-sided p of the paired t test by seed, with the same floor as `paired_by_seed`; None for one seed."""
    if len(first) < 2:
        return None
    differences = np.subtract(first, second)
    spread = max(float(np.std(differences, ddof=1)), 1 / (n * math.sqrt(12)))
    t = abs(float(np.mean(differences))) / spread * math.sqrt(len(differences))
    return float(2 * stdtr(len(differences) - 1, -t))


def paired_bootstrap(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    labels: NDArray[np.int64],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Difference of seed-averaged accuracy with a percentile bootstrap over test examples, stratified by class.

    `first` and `second` say which examples were right, (S, N) or (N,). Each example carries one difference, and there
    are only a few distinct ones (steps of 1/S), so drawing examples with replacement within a class is drawing counts
    of those few values from a multinomial: the same law as resampling rows, at a cost that hardly grows with N.
    """
    difference = np.atleast_2d(first).mean(axis=0) - np.atleast_2d(second).mean(axis=0)
    if difference.shape != labels.shape:
        raise InputError("outcomes and labels differ in length", given=f"{difference.shape} and {labels.shape}")
    # Means of different seed counts may differ in the last bit, which must not make two values out of one.
    values, which = np.unique(difference.round(12), return_inverse=True)
    generator = np.random.default_rng(seed)
    totals = np.zeros(resamples)
    for label in np.unique(labels):
        counts = np.bincount(which[labels == label], minlength=values.size)
        held = np.flatnonzero(counts)
        n = int(counts.sum())
        totals += generator.multinomial(n, counts[held] / n, size=resamples) @ values[held]
    low, high = np.quantile(totals / labels.size, [0.5 - level / 2, 0.5 + level / 2])
    seeds = max(np.atleast_2d(first).shape[0], np.atleast_2d(second).shape[0])
    method = f"paired bootstrap over test examples, by class, {resamples} resamples"
    return Estimate(float(difference.mean()), float(low), float(high), int(labels.size), seeds, method)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test from the two counts of examples on which the models differ."""
    if gained + lost == 0:
        return 1.0
    return min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def minimum_detectable(discordance: float, n: int) -> float:
    """The smallest difference that n examples can show at 95 %, where the models differ on a share `discordance`."""
    return float(ndtri(0.975)) * math.sqrt(discordance / n)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down, in the given order: for a few planned comparisons."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the false discovery rate, in the given order: for a look over many classes."""
    adjusted, running, count = [0.0] * len(p_values), 1.0, len(p_values)
    order = np.argsort(p_values, kind="stable").tolist()
    for rank in range(count - 1, -1, -1):
        running = min(running, count / (rank + 1) * p_values[order[rank]])
        adjusted[order[rank]] = running
    return adjusted
