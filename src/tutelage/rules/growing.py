"""A small tree as rules: grown towards probabilities, cut at numbers that are short to say.

A tree for labels and one for soft labels are the same thing: least squares towards rows that add up to 1 (towards 0 and
1 that is Gini's criterion, twice). scikit-learn grows it, best leaf first; what it finds is taken apart here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coded", "Leaf", "coded", "grow", "short_between"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Limits = dict[int, tuple[float, float]]  # feature -> (above, at most); ±∞ where it has no such end


@final
@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Rows to grow a tree from: their numbers, and the rank of each in its column, which float32 holds exactly."""

    values: Floats  # (N, D)
    ranks: NDArray[np.float32]  # (N, D)

    def take(self, rows: Ints) -> Coded:
        """Some of them."""
        return Coded(self.values[rows], self.ranks[rows])


@final
@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """What one leaf asks, and what it says."""

    limits: Limits  # in the order of the questions
    says: Floats  # (C,) mean of the targets
    rows: int  # how many of the rows it was grown from


def coded(values: Floats) -> Coded:
    """Rank every column: scikit-learn compares in float32, in which two large numbers may be one."""
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], axis=1)
    return Coded(values, ranks.astype(np.float32))


def grow(rows: Coded, targets: Floats, *, leaves: int, depth: int | None, least: int, seed: int = 0) -> list[Leaf]:
    """Grow a tree of at most so many leaves.

    Args:
        rows: what it asks about.
        targets: (N, C) probabilities, or 0 and 1.
        leaves: how many at most, ≥ 2.
        depth: how many questions lead to one at most; None: as many as there are.
        least: rows that a leaf must hold.
        seed: decides between questions that are equally good.

    Returns:
        Its leaves from left to right; every row belongs to exactly one.
    """
    from sklearn.tree import DecisionTreeRegressor

    tree = DecisionTreeRegressor(
        criterion="squared_error", max_leaf_nodes=leaves, max_depth=depth, min_samples_leaf=least, random_state=seed
    )
    tree.fit(rows.ranks, targets)
    found: list[Leaf] = []
    _walk(tree.tree_, 0, np.arange(len(targets)), {}, rows, targets, found)
    return found


def _walk(tree: Any, node: int, own: Ints, limits: Limits, rows: Coded, targets: Floats, found: list[Leaf]) -> None:
    left, right = int(tree.children_left[node]), int(tree.children_right[node])
    if left == right:  # both −1: a leaf
        found.append(Leaf(dict(limits), targets[own].mean(axis=0), len(own)))
        return
    feature = int(tree.feature[node])
    below = rows.ranks[own, feature] <= tree.threshold[node]
    column = rows.values[own, feature]
    cut = short_between(float(column[below].max()), float(column[~below].min()))
    above, most = limits.get(feature, (-math.inf, math.inf))
    _walk(tree, left, own[below], {**limits, feature: (above, cut)}, rows, targets, found)
    _walk(tree, right, own[~below], {**limits, feature: (cut, most)}, rows, targets, found)


def short_between(low: float, high: float) -> float:
    """The number with the fewest digits in the middle half between two: what is printed is what decides.

    Not nearer to either, since a measurement may come back with another last digit.
    """
    middle, quarter = low / 2 + high / 2, (high - low) / 4
    for digits in range(1, 17):
        short = float(f"{middle:.{digits}g}")
        if middle - quarter <= short <= middle + quarter and low <= short < high:
            return short
    return middle if middle < high else low
