"""Cross-validation: every example is in the test part once, of one of k divisions.

Who is in which fold is a hash of (seed, id), class by class, so it does not depend on the order of files, and copies of
one content share a fold. A test part that the set brings along stays out of it: it is for the end, not for choosing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data.draws import Stream, mix
from tutelage.data.examples import Examples
from tutelage.data.splits import Splits, split_off
from tutelage.errors import DataError, InputError

__all__ = ["fold_of", "pool"]


def pool(splits: Splits) -> Examples:
    """All examples that take part in cross-validation: all but a test part that the set brought along."""
    return Examples.concatenated([splits.train, splits.val, *(() if splits.own_test else (splits.test,))])


def fold_of(splits: Splits, number: int, count: int, *, val: float, seed: int = 0) -> Splits:
    """Division `number` of `count`: its fold is the test part; of the others, the share `val` decides.

    Args:
        splits: any division of the set; what was where does not matter.
        number: 1 … count.
        count: 2 or more.

    Raises:
        InputError: no such fold.
        DataError: a class has fewer examples of different content than there are folds.
    """
    if count < 2 or not 1 <= number <= count:
        raise InputError(
            "no such fold", where="data.fold", given=f"{number}/{count}", expected="i/k with k ≥ 2 and 1 ≤ i ≤ k"
        )
    whole = pool(splits)
    folds = _folds(whole, count, seed)
    here, others = (torch.from_numpy(np.flatnonzero(which)) for which in (folds == number - 1, folds != number - 1))
    train, decides = split_off(whole.take(others), fraction=val, seed=seed)
    return Splits(train, decides, whole.take(here))


def _folds(examples: Examples, count: int, seed: int) -> NDArray[np.int64]:
    """(N,) the fold of every example, 0 … count − 1."""
    if examples.groups is not None:
        names, own = np.unique(examples.groups.numpy(), return_inverse=True)
        place = np.argsort(np.argsort(mix(seed, Stream.TEST, names), kind="stable"))
        # A content that stands in several groups goes where the first one goes.
        every = examples.ids.numpy()
        _, first, copy = np.unique(every, return_index=True, return_inverse=True)
        return np.asarray((place[own] % count)[first][copy], dtype=np.int64)
    ids, first = np.unique(examples.ids.numpy(), return_index=True)
    labels = examples.targets.numpy()[first]  # a copy with another label goes where the first one goes
    rank, chosen = mix(seed, Stream.TEST, ids), np.empty(len(ids), dtype=np.int64)
    for label in range(len(examples.classes)):
        rows = np.flatnonzero(labels == label)
        if len(rows) < count:
            raise DataError(
                f"class {examples.classes[label]} is too small for {count} folds",
                where=examples.name, given=f"{len(rows)} examples of different content",
                expected=f"at least {count}", fix="use fewer folds",
            )  # fmt: skip
        # Which fold gets one example more differs from class to class, so that folds are of one size.
        chosen[rows[np.argsort(rank[rows], kind="stable")]] = (np.arange(len(rows)) + label) % count
    return chosen[np.searchsorted(ids, examples.ids.numpy())]
