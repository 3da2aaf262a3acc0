"""Answers that are a stretch of a text: which tokens a model points at, and how near that is to the truth.

A question is two tasks over the L places of a text, where an answer starts and where it ends. Place 0 means that the
text does not answer. Where no answer can be, in the question itself or behind a short text, logits are -100.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import InputError
from tutelage.evaluation.metrics import Floats, Ints, as_logits
from tutelage.tasks import IMPOSSIBLE

__all__ = ["LONGEST", "METHODS", "best_spans", "exact", "overlap"]

LONGEST = 30
METHODS = {
    "exact_match": "share of questions whose best pair of places, start and end, is the true one to the token",
    "f1": "mean over questions of the F1 between the tokens that were named and the true ones (Rajpurkar et al., 2016)",
}
# A file in fewer bits may put a logit of -100 a little above it.
_POSSIBLE = IMPOSSIBLE + 1.0
_MOST_AT_ONCE = 1 << 21


def best_spans(start: ArrayLike, end: ArrayLike, *, longest: int = LONGEST) -> Ints:
    """The likeliest answer to every question.

    It is the pair of places `first <= last < first + longest`, both possible and behind place 0, with the greatest
    sum of log-probabilities. Within a question those are the logits less a constant, so logits are what is summed. Of
    equal pairs the earliest is taken, by its first place and then by its last one.

    Args:
        start, end: logits (N, L) of where an answer starts and ends.
        longest: tokens that an answer may have.

    Returns:
        (N, 2) first and last place, both counted; (0, 0) where place 0 is at least as likely as the best pair, or no
        pair is possible.

    Raises:
        InputError: logits that cannot be judged, of different shapes, or no token allowed.
    """
    first, last = as_logits(start), as_logits(end)
    if first.shape != last.shape:
        raise InputError(
            "starts and ends of answers need the same places", given=f"{first.shape} and {last.shape}",
            expected="logits (N, L) of both", fix="give `start` and `end` as many classes as there are places",
        )  # fmt: skip
    if longest < 1:
        raise InputError("an answer needs at least one token", where="longest", given=longest, expected="1 or more")
    rows = max(1, _MOST_AT_ONCE // first.shape[1])
    blocks = [slice(begin, begin + rows) for begin in range(0, len(first), rows)]
    return np.concatenate([_best(first[block], last[block], longest) for block in blocks])


def _best(start: Floats, end: Floats, longest: int) -> Ints:
    """A block of them: of every first place the best last one, length by length, and then the best of all."""
    n, places = start.shape
    none = start[:, 0] + end[:, 0]
    first = np.where(start >= _POSSIBLE, start, -np.inf)
    last = np.where(end >= _POSSIBLE, end, -np.inf)
    first[:, 0] = last[:, 0] = -np.inf
    reach, length = last.copy(), np.zeros((n, places), dtype=np.int64)
    for more in range(1, min(longest, places)):
        further = last[:, more:] > reach[:, : places - more]
        reach[:, : places - more][further] = last[:, more:][further]
        length[:, : places - more][further] = more
    sums, every = first + reach, np.arange(n)
    begin = np.argmax(sums, axis=1)
    found = np.stack([begin, begin + length[every, begin]], axis=1)
    found[none >= sums[every, begin]] = 0
    return np.asarray(found, dtype=np.int64)


def exact(found: ArrayLike, truth: ArrayLike) -> NDArray[np.bool_]:
    """Whether each answer is the true one to the token, (N,).

    Args:
        found, truth: (N, 2) first and last place, (0, 0) for no answer.

    Raises:
        InputError: they are no such places.
    """
    ours, theirs = _as_spans(found, truth)
    return np.asarray((ours == theirs).all(axis=1))


def overlap(found: ArrayLike, truth: ArrayLike) -> Floats:
    """F1 between the places of each answer and the true ones, (N,): 1 where neither answers, 0 where one of them does.

    As Rajpurkar et al. (2016, arXiv 1606.05250) compute it over words, here over tokens at their places.

    Args:
        found, truth: (N, 2) first and last place, (0, 0) for no answer.

    Raises:
        InputError: they are no such places.
    """
    ours, theirs = _as_spans(found, truth)
    shared = np.minimum(ours[:, 1], theirs[:, 1]) - np.maximum(ours[:, 0], theirs[:, 0]) + 1
    counted = (ours[:, 1] - ours[:, 0] + 1) + (theirs[:, 1] - theirs[:, 0] + 1)
    # No answer is place 0, which no answer holds: it shares one place with another such, and none with all others.
    return np.asarray(2.0 * np.maximum(shared, 0) / counted, dtype=np.float64)


def _as_spans(found: ArrayLike, truth: ArrayLike) -> tuple[Ints, Ints]:
    ours, theirs = np.asarray(found), np.asarray(truth)
    if ours.shape != theirs.shape:
        raise InputError(
            "answers and truths differ in number", given=f"{ours.shape} and {theirs.shape}", expected="(N, 2) of both"
        )
    for array in (ours, theirs):
        if array.ndim != 2 or array.shape[1] != 2 or not np.issubdtype(array.dtype, np.integer) or not len(array):
            raise InputError("an answer is its first and last place", given=f"{array.dtype} {array.shape}",
                             expected="whole numbers (N, 2)")  # fmt: skip
        odd = (array[:, 0] > array[:, 1]) | (array[:, 0] < 0) | ((array[:, 0] == 0) & (array[:, 1] > 0))
        if odd.any():
            row = int(np.flatnonzero(odd)[0])
            raise InputError(
                "an answer ends before it starts, or holds place 0, which means that there is none",
                where=f"question {row}", given=", ".join(map(str, array[row].tolist())),
                expected="0, 0 for no answer, else first <= last, both 1 or more",
            )  # fmt: skip
    return ours.astype(np.int64), theirs.astype(np.int64)
