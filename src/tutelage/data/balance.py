"""Classes that are not equally frequent: what an epoch shows of each, what each weighs, and a long tail to try it on.

Sampling changes how often an example is met, weights change how much it counts; both together count rare classes twice.
What an epoch shows is a function of (seed, epoch, id) and of the labels, never of the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.draws import Stream, mix
from tutelage.data.examples import Examples, listed
from tutelage.errors import DataError, InputError, nearest

__all__ = ["SAMPLINGS", "Balanced", "balanced", "class_weights", "counts_of", "long_tail"]

Ints = NDArray[np.int64]
SAMPLINGS = ("none", "over", "under")
_WEIGHTS = ("balanced", "effective")
_BETA = 0.999


@final
class Balanced:
    """An epoch in which every class is met equally often.

    Rows come round by round, one of every class in each. A class is gone through in an order of its own, which is drawn
    anew for every epoch, and from the start again when it ends: so examples of one class are met equally often, but for
    one, and what is met again is as far from the first time as can be.

    Args:
        examples: to learn from.
        how: "over" meets every class as often as the most frequent one, so that rare examples come again; "under" as
            often as the rarest one, so that every epoch leaves out others of the frequent classes.
        seed: of the cohort.
    """

    def __init__(self, examples: Examples, how: str, *, seed: int) -> None:
        counts = counts_of(examples.targets, examples.classes)
        self._sizes = counts[counts > 0]  # classes without an example cannot be met
        self._repeats = how == "over"
        self._each = int(self._sizes.max() if self._repeats else self._sizes.min())
        self._ids, self._targets = examples.ids.numpy(), examples.targets.numpy()
        self._seed = seed

    def __len__(self) -> int:
        """How many rows an epoch has."""
        return self._each * len(self._sizes)

    def rows(self, epoch: int) -> Ints:
        """The examples' places for an epoch, (len(self),), round by round."""
        words = mix(self._seed, epoch, Stream.BALANCE, self._ids)
        by_class = np.split(np.lexsort((words, self._targets)), np.cumsum(self._sizes)[:-1])
        return np.stack([own[np.arange(self._each) % len(own)] for own in by_class], axis=1).reshape(-1)

    def apart(self, batch_size: int) -> int | None:
        """How many batches in a row hold no example twice, at least 1; None for a whole epoch.

        With fewer examples of a class than its share of a batch, one batch holds some of them twice.
        """
        if not self._repeats:
            return None
        # One less than fits: the last batch of an epoch may have one row more.
        return max(1, (len(self._sizes) * int(self._sizes.min()) - 1) // batch_size)


def balanced(examples: Examples, how: str, *, seed: int) -> Balanced | None:
    """What an epoch shows where classes are balanced; None where every example comes once anyway.

    Raises:
        InputError: there is no such way to sample.
    """
    if how not in SAMPLINGS:
        raise InputError(
            f"no sampling `{how}`", where="data.balance", expected="one of " + ", ".join(SAMPLINGS),
            fix=nearest(how, SAMPLINGS),
        )  # fmt: skip
    if how == "none" or len(set(counts_of(examples.targets, examples.classes).tolist()) - {0}) == 1:
        return None
    return Balanced(examples, how, seed=seed)


def counts_of(labels: Tensor, classes: Sequence[str]) -> Ints:
    """Examples of every class, (C,), from their labels (N,).

    Raises:
        InputError: the examples have no single class each.
    """
    if labels.ndim > 1:
        raise InputError(
            "classes cannot be counted where examples have no single one",
            given=f"targets of shape {tuple(labels.shape)}", expected="(N,)",
            fix="leave out data.balance, data.longtail and class_weights",
        )  # fmt: skip
    found: Ints = torch.bincount(labels, minlength=len(classes)).numpy()
    return found


def class_weights(how: object, counts: Ints, classes: Sequence[str]) -> NDArray[np.float64]:
    """What each class weighs in a loss; n examples of a class, N of all, C classes.

    Args:
        how: "balanced", N / (C n), so that classes weigh alike in sum and examples 1 on average; "effective", as
            (1 − β) / (1 − βⁿ) with β = 0.999, scaled to the sum C; {"effective": β}; or a number for each class.
        counts: (C,) training examples of every class.
        classes: their names, for messages.

    Returns:
        (C,) ≥ 0.

    Raises:
        InputError: no such weights, a β outside [0, 1), or numbers that do not fit the classes.
        DataError: a class without an example cannot be weighed by their number.

    Reference:
        Cui, Jia, Lin, Song, Belongie 2019, arXiv 1901.05555 (effective numbers).
    """
    if isinstance(how, (list, tuple)):
        return _as_given(how, len(classes))
    name, beta = how, _BETA
    if isinstance(how, Mapping) and list(how) == ["effective"]:
        name, beta = "effective", how["effective"]
    if name not in _WEIGHTS:
        raise InputError(
            "no such class weights", given=f"{how}", expected="balanced, effective, or a number for each class",
            fix=nearest(name, _WEIGHTS) if isinstance(name, str) else None,
        )  # fmt: skip
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0.0 <= beta < 1.0:
        raise InputError(
            "the β of effective numbers is out of range", given=f"{beta}", expected="0 ≤ β < 1, usually 0.9 … 0.9999"
        )
    if not counts.all():
        raise DataError(
            f"{int((counts == 0).sum())} of {len(classes)} classes have no training example to be weighed by",
            given=listed([name for name, count in zip(classes, counts, strict=True) if not count]),
            fix="give a number for each class, or raise data.limit",
        )
    if name == "balanced":
        return np.asarray(counts.sum() / (len(counts) * counts), dtype=np.float64)
    # 1 − βⁿ without losing the digits that β ≈ 1 leaves; β = 0 makes all classes alike.
    rarer = np.ones(len(counts)) if beta == 0.0 else (1.0 - beta) / -np.expm1(counts * math.log(beta))
    return np.asarray(rarer * len(counts) / rarer.sum(), dtype=np.float64)


def _as_given(numbers: Sequence[object], classes: int) -> NDArray[np.float64]:
    fit = all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 <= one < math.inf for one in numbers)
    if not fit or len(numbers) != classes or not any(numbers):
        raise InputError(
            "class weights are one number for each class, in the order of the classes",
            given=f"{list(numbers)!r:.80}",
            expected=f"{classes} numbers ≥ 0, not all of them 0",
        )
    return np.array(numbers, dtype=np.float64)


def long_tail(examples: Examples, factor: float) -> Examples:
    """An artificial long tail: class c of C keeps about most · factor^(−c / (C − 1)) examples.

    The first class keeps as many as the most frequent one has, or all of its own; the last one `factor` times fewer;
    each at least one. Which ones are kept is fixed: the first in the order of their ids, which are hashes.

    Raises:
        InputError: the factor is below 1.

    Reference:
        Cui and others 2019, arXiv 1901.05555 (long-tailed CIFAR, whose imbalance factor this is).
    """
    if not 1.0 <= factor < math.inf:
        raise InputError("the factor of a long tail is out of range", where="data.longtail", given=factor,
                         expected="how many times rarer the last class is than the first, ≥ 1")  # fmt: skip
    counts = counts_of(examples.targets, examples.classes)
    shares = factor ** (-np.arange(len(counts)) / max(len(counts) - 1, 1))
    # A little more than the product, whose last bits must not cost an example.
    wanted = np.maximum(np.floor(counts.max() * shares + 1e-9), 1).astype(np.int64)
    order = np.argsort(examples.ids.numpy(), kind="stable")
    kept = [order[examples.targets.numpy()[order] == label][: wanted[label]] for label in range(len(counts))]
    return examples.take(torch.from_numpy(np.sort(np.concatenate(kept))))
